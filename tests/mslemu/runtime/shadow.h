// What is remembered of one byte of memory: enough to say whether the next access races with an earlier one.
#pragma once
#include <stdint.h>

// Who touched the byte, and when. Barriers count epochs: two accesses of one threadgroup are ordered if a threadgroup
// barrier for that memory lies between them, or, within one simdgroup, a simdgroup barrier.
struct Access {
  static const uint32_t ANY_THREADGROUP = 0xffffffff;
  static const uint16_t ANY_THREAD = 0xffff;
  static const uint8_t ANY_SIMDGROUP = 0xff;

  uint32_t threadgroup; // its number + 1; 0: no access
  uint32_t threadgroup_epoch;
  uint32_t simdgroup_epoch;
  uint16_t thread; // index in the threadgroup
  uint8_t simdgroup;
  bool atomic;

  bool exists() const { return threadgroup != 0; }
  bool is_by_thread_of(const Access& other) const {
    return threadgroup == other.threadgroup && thread == other.thread && thread != ANY_THREAD;
  }
  bool is_ordered_before(const Access& later) const {
    return threadgroup == later.threadgroup &&
        (threadgroup_epoch != later.threadgroup_epoch ||
         (simdgroup == later.simdgroup && simdgroup_epoch != later.simdgroup_epoch));
  }
  bool races_with(const Access& later) const {
    return exists() && !is_by_thread_of(later) && !is_ordered_before(later) && !(atomic && later.atomic);
  }
};

struct Shadow {
  Access write; // the last one
  Access read;  // all since then that a later write could race with, summed up in one

  void note_write(const Access& now) {
    write = now;
    read = Access{};
  }

  void note_read(const Access& now) {
    if (!read.exists() || read.is_by_thread_of(now) || read.is_ordered_before(now)) {
      read = now;
      return;
    }
    Access sum = now;
    if (read.threadgroup != now.threadgroup) { sum.threadgroup = Access::ANY_THREADGROUP; }
    if (read.thread != now.thread) { sum.thread = Access::ANY_THREAD; }
    if (read.simdgroup != now.simdgroup) { sum.simdgroup = Access::ANY_SIMDGROUP; }
    sum.atomic = read.atomic && now.atomic;
    read = sum;
  }
};
