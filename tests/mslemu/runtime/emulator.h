// The runtime's state: one launch, its buffers, and the workers (threads of the CPU) that run its threadgroups.
#pragma once
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>

#include <utility>
#include <vector>

#include "../include/abi.h"
#include "shadow.h"

enum { SIMD_WIDTH = 32, MAX_BUFFERS = 31, THREADGROUP_MEMORY = 32768 }; // Metal's limits
const size_t ARENA = 1 << 20; // room for threadgroup variables: more than a GPU has, so that too much can be reported
const unsigned char UNINITIALISED = 0xFE;

// Memory of one argument. The end of its bytes touches an inaccessible gap (16-byte alignment aside).
struct Buffer {
  char* bytes;
  uint64_t size;
  char* mapping;
  uint64_t mapping_size;
  char* name;
  bool is_output;
  bool is_initialised;
  Shadow* shadow; // one per byte of an output; in checked mode only
};

// One run of a kernel, filled in by runtime.py.
struct Launch {
  void (*kernel)(void* const* arguments, const msl_thread* thread);
  Buffer** buffers;
  uint32_t buffer_count;
  uint32_t grid[3], threadgroup[3];
  uint32_t checked;  // 0 or 1, as `strict`
  uint32_t schedule; // 0 forward, 1 reverse, 2 rotated
  uint32_t order;    // see msl_collective
  uint32_t strict;   // report operations of a simdgroup that not all 32 lanes take part in
  uint32_t workers;
  uint32_t seed; // of the rotated schedule
  uint32_t time_limit; // milliseconds
  uint64_t stack_size;
  const char* library; // path of the compiled kernel
  // Results:
  uint64_t threadgroup_bytes, collectives, barriers, accesses;
};

enum class State { READY, AT_COLLECTIVE, AT_SIMDGROUP_BARRIER, AT_THREADGROUP_BARRIER, DONE };

// One GPU thread.
struct Fiber {
  void* stack_pointer;
  char* stack;
  State state;
  msl_place place; // where it waits
  int kind;
  unsigned flags; // mem_flags of the barrier it waits at
  // A lane that goes on may bring its next operand while others still read this one: two slots in turn.
  unsigned slot;
  alignas(16) char operands[2][MSL_MAX_OPERAND];
  msl_thread thread;
};

// Counted up by barriers; which one depends on the memory that an access goes to.
struct Epochs {
  uint32_t threadgroup_memory, device_memory;
  void count(unsigned mem_flags) {
    device_memory += mem_flags & 1;
    threadgroup_memory += (mem_flags >> 1) & 1;
  }
};

struct Variable {
  int number;
  size_t offset;
};

struct Worker {
  Launch* launch;
  void* scheduler_stack_pointer;
  Fiber* current;
  std::vector<Fiber> fibers;
  int threads; // of this threadgroup; fewer than fibers in the last one of a ragged grid
  char* stacks;
  std::vector<msl_collective> collectives; // one per simdgroup
  uint32_t threadgroup;                    // number in the grid
  // Epochs go on from threadgroup to threadgroup.
  Epochs epochs;
  std::vector<Epochs> simdgroup_epochs;
  char* arena;
  size_t arena_used, arena_peak;
  std::vector<Variable> variables;
  Shadow* arena_shadow; // in checked mode
  bool stopped;         // after a mistake that cannot be continued from
  volatile int holding; // a lock or the like, so that the kernel must not be left from here
  sigjmp_buf escape;    // from a fault, or from an endless loop
  char* fault_address;
  int fault_signal, fault_code;
  uint64_t collective_count, barrier_count, access_count;
};

// Of this CPU thread; null outside of kernels.
extern __thread Worker* worker __attribute__((tls_model("initial-exec")));

// While one of these lives, an endless kernel is not interrupted.
struct Holding {
  Holding() { count(1); }
  ~Holding() { count(-1); }
  static void count(int by) {
    if (worker) { worker->holding = worker->holding + by; }
  }
};

// What runtime.py calls. Everything else of the runtime is hidden, but for the hooks and abi.h.
#pragma GCC visibility push(default)
extern "C" {
// buffers.cpp
Buffer* msl_allocate(uint64_t size, const char* name, int is_output, int is_initialised); // null: no memory
void msl_free(Buffer* buffer);
char* msl_bytes(Buffer* buffer);
// launch.cpp: runs the kernel. 0: to its end; 1: it was stopped.
int msl_launch(Launch* launch, char* findings, uint64_t capacity);
}
#pragma GCC visibility pop

// launch.cpp
void stop_all();

// scheduler.cpp
void run_threadgroup(Worker* w, const uint32_t position[3], const uint32_t threadgroups[3]);
void wait_in_state(State state);
[[noreturn]] void stop_here(); // leaves the kernel for good

// memory_checks.cpp
void report_out_of_bounds(const char* address, int size, bool writes, const void* pc);

// report.cpp
void clear_findings(const char* library);
bool is_in_kernel_library(const void* address);
void report_at(const char* kind, msl_place place, const char* format, ...) __attribute__((format(printf, 3, 4)));
void report_pc(const char* kind, const void* pc, const char* format, ...) __attribute__((format(printf, 3, 4)));
void copy_findings(char* target, uint64_t capacity);
