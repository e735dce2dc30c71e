// Every access of a checked kernel. g++ -fsanitize=thread puts a call of a __tsan_ function before each one; these are
// ours, not libtsan's.
#include <stdio.h>

#include "emulator.h"

enum Action { READ = 1, WRITE = 2, MODIFY = READ | WRITE };

static const char* verb(Action action) { return action & WRITE ? "write" : "read"; }

void report_out_of_bounds(const char* address, int size, bool writes, const void* pc) {
  const Buffer* nearest = nullptr;
  int64_t distance = 0;
  for (uint32_t i = 0; i < worker->launch->buffer_count; i++) {
    const Buffer* b = worker->launch->buffers[i];
    int64_t d = address < b->bytes ? b->bytes - address : address - (b->bytes + b->size) + size;
    if (!nearest || d < distance) { nearest = b, distance = d; }
  }
  const uint32_t none[3] = {0, 0, 0};
  const uint32_t* p = worker->current ? worker->current->thread.position_in_grid : none;
  if (!nearest) {
    report_pc("out-of-bounds", pc, "access outside of all memory");
    return;
  }
  report_pc("out-of-bounds", pc,
            "%s of %d bytes at byte offset %ld of '%s' (size %lu), thread_position_in_grid (%u,%u,%u)",
            writes ? "write" : "read", size, long(address - nearest->bytes), nearest->name,
            (unsigned long)nearest->size, p[0], p[1], p[2]);
}

static Access access_now(const Epochs& simdgroup, bool device, bool atomic) {
  const msl_thread& t = worker->current->thread;
  const Epochs& group = worker->epochs;
  return Access{worker->threadgroup + 1,
                device ? group.device_memory : group.threadgroup_memory,
                device ? simdgroup.device_memory : simdgroup.threadgroup_memory,
                uint16_t(t.index),
                uint8_t(t.simdgroup),
                atomic};
}

// "thread 5 of threadgroup 2", or what is still known of several.
static const char* name_of(const Access& access, char (&text)[80]) {
  bool several = access.thread == Access::ANY_THREAD || access.threadgroup == Access::ANY_THREADGROUP;
  if (several) { return "several threads"; }
  snprintf(text, sizeof text, "thread %u of threadgroup %u", access.thread, access.threadgroup - 1);
  return text;
}

static void check_threadgroup_memory(size_t offset, int size, Action action, const Access& now, const void* pc) {
  if (offset + size > worker->arena_used) {
    report_pc("out-of-bounds", pc, "%s past the end of threadgroup memory", verb(action));
    stop_here();
  }
  char other[80];
  for (size_t at = offset; at < offset + size; at++) {
    Shadow& s = worker->arena_shadow[at];
    if (s.write.threadgroup != now.threadgroup) { s = Shadow{}; } // an earlier threadgroup had memory of its own
    if ((action & READ) && !s.write.exists()) {
      report_pc("uninitialised", pc, "thread %u reads threadgroup byte %zu, which no thread has written", now.thread,
                at);
    } else if (s.write.races_with(now)) {
      report_pc("race", pc, "thread %u %ss threadgroup byte %zu written by %s without a barrier between", now.thread,
                verb(action), at, name_of(s.write, other));
    } else if ((action & WRITE) && s.read.races_with(now)) {
      report_pc("race", pc, "thread %u writes threadgroup byte %zu read by %s without a barrier between", now.thread,
                at, name_of(s.read, other));
    }
    if (action & WRITE) { s.note_write(now); }
    else { s.note_read(now); }
  }
}

static void check_output(const Buffer& b, size_t offset, int size, Action action, const Access& now, const void* pc) {
  char me[80], other[80];
  for (size_t at = offset; at < offset + size; at++) {
    Shadow& s = b.shadow[at];
    if ((action & READ) && !s.write.exists() && !b.is_initialised) {
      report_pc("uninitialised", pc, "read of byte %zu of output '%s', which no thread has written", at, b.name);
    } else if (s.write.races_with(now)) {
      report_pc("device-race", pc, "'%s' byte %zu: %s by %s after a write by %s, not ordered", b.name, at, verb(action),
                name_of(now, me), name_of(s.write, other));
    } else if ((action & WRITE) && s.read.races_with(now)) {
      report_pc("device-race", pc, "'%s' byte %zu: write by %s after a read by %s, not ordered", b.name, at,
                name_of(now, me), name_of(s.read, other));
    }
    if (action & WRITE) { s.note_write(now); }
    else { s.note_read(now); }
  }
}

static void check(const void* address, int size, Action action, const void* pc, bool atomic = false) {
  const char* a = (const char*)address;
  const Fiber* fiber = worker->current;
  if (size_t(a - fiber->stack) < worker->launch->stack_size) { return; } // the thread's own variables
  worker->access_count++;
  const Epochs& simdgroup = worker->simdgroup_epochs[fiber->thread.simdgroup];
  size_t offset = size_t(a - worker->arena);
  if (offset < ARENA) {
    check_threadgroup_memory(offset, size, action, access_now(simdgroup, false, atomic), pc);
    return;
  }
  for (uint32_t i = 0; i < worker->launch->buffer_count; i++) {
    const Buffer& b = *worker->launch->buffers[i];
    offset = size_t(a - b.bytes);
    if (offset >= b.size) { continue; }
    if (offset + size > b.size) { break; }
    if (b.is_output) {
      check_output(b, offset, size, action, access_now(simdgroup, true, atomic), pc);
    } else if (action & WRITE) {
      report_pc("out-of-bounds", pc, "write to input '%s'", b.name);
      stop_here();
    }
    return;
  }
  if (is_in_kernel_library(a)) { // tables in the kernel's text
    if (action & WRITE) { report_pc("out-of-bounds", pc, "write to program-scope memory"); }
    return;
  }
  report_out_of_bounds(a, size, action & WRITE, pc);
  stop_here();
}

#define PC __builtin_return_address(0)
#define PLAIN(n) \
  void __tsan_read##n(void* p) { check(p, n, READ, PC); } \
  void __tsan_write##n(void* p) { check(p, n, WRITE, PC); } \
  void __tsan_unaligned_read##n(void* p) { check(p, n, READ, PC); } \
  void __tsan_unaligned_write##n(void* p) { check(p, n, WRITE, PC); } \
  void __tsan_volatile_read##n(void* p) { check(p, n, READ, PC); } \
  void __tsan_volatile_write##n(void* p) { check(p, n, WRITE, PC); }
#define ATOMIC(bits, T) \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { \
    check((void*)p, sizeof(T), READ, PC, true); \
    return __atomic_load_n(p, __ATOMIC_RELAXED); \
  } \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) { \
    check((void*)p, sizeof(T), WRITE, PC, true); \
    __atomic_store_n(p, v, __ATOMIC_RELAXED); \
  } \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { \
    check((void*)p, sizeof(T), MODIFY, PC, true); \
    return __atomic_exchange_n(p, v, __ATOMIC_RELAXED); \
  } \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* expected, T desired, int, int) { \
    check((void*)p, sizeof(T), MODIFY, PC, true); \
    return __atomic_compare_exchange_n(p, expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED); \
  }
#pragma GCC visibility push(default)
extern "C" {
PLAIN(1) PLAIN(2) PLAIN(4) PLAIN(8) PLAIN(16)
ATOMIC(8, uint8_t) ATOMIC(16, uint16_t) ATOMIC(32, uint32_t) ATOMIC(64, uint64_t)
void __tsan_read_range(void* p, size_t n) { check(p, int(n), READ, PC); }
void __tsan_write_range(void* p, size_t n) { check(p, int(n), WRITE, PC); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
#pragma GCC visibility pop
