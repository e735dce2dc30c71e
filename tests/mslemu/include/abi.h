// What a compiled kernel and the runtime know of each other. The runtime lives in ../runtime.
#pragma once
#include <stddef.h>
#include <stdint.h>

// A line of the kernel's text.
struct msl_place {
  const char* file;
  int line;
};
// Last parameters of a library function, and what they say: where it was called. g++ puts the caller's place into a
// default argument only if the argument is the bare built-in.
#define MSL_CALLER const char* caller_file = __builtin_FILE(), int caller_line = __builtin_LINE()
#define MSL_HERE (msl_place{caller_file, caller_line})

// One operation that lanes of a simdgroup do together, as each of them sees it when all have arrived.
struct msl_collective {
  const void* operand[32]; // what each lane brought; valid until that lane's next operation
  uint32_t active;         // bit l: lane l takes part
  uint32_t order;          // of reductions: 0 tree, 1 ascending, 2 descending
  bool reduced;            // `result` holds the reduction already
  alignas(16) char result[64];
};

// Where a GPU thread stands; x, y, z.
struct msl_thread {
  uint32_t position_in_grid[3];
  uint32_t position_in_threadgroup[3];
  uint32_t threadgroup_position[3];
  uint32_t threads_per_threadgroup[3];          // fewer in the last threadgroup of a ragged grid
  uint32_t dispatch_threads_per_threadgroup[3]; // the same in all
  uint32_t threadgroups_per_grid[3];
  uint32_t threads_per_grid[3];
  uint32_t index, lane, simdgroup, simdgroups; // in the threadgroup
};

enum { MSL_MAX_OPERAND = 64 };

#pragma GCC visibility push(default)
extern "C" {
// Brings an operand of at most MSL_MAX_OPERAND bytes and waits for the other lanes. `kind` tells operations on one line
// apart.
msl_collective* msl_rt_collective(const void* operand, size_t size, int kind, msl_place here);
// Waits for the threadgroup, or for the simdgroup only. `flags` are Metal's mem_flags.
void msl_rt_barrier(bool whole_threadgroup, unsigned flags, msl_place here);
// The room of threadgroup variable number `variable`, the same for all threads of a threadgroup.
void* msl_rt_threadgroup_variable(int variable, size_t size, size_t alignment);
unsigned msl_rt_lane();
// A lane read from another that does not take part: undefined on a GPU.
void msl_rt_inactive_lane(msl_place here);
}
#pragma GCC visibility pop
