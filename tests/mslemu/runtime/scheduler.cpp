// Runs the threads of a threadgroup in turn until each waits or is done; lets those go on that wait for one another.
#include "emulator.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "context_switch.h"

__thread Worker* worker;

// ---- The kernel's side: on a fiber's stack ----

extern "C" void msl_fiber_main(void* argument) {
  Fiber* fiber = (Fiber*)argument;
  const Launch* launch = worker->launch;
  // Copies on the thread's own stack, which the checks leave alone.
  msl_thread thread = fiber->thread;
  void* arguments[MAX_BUFFERS];
  for (uint32_t i = 0; i < launch->buffer_count; i++) { arguments[i] = launch->buffers[i]->bytes; }
  launch->kernel(arguments, &thread);
  wait_in_state(State::DONE);
}

void wait_in_state(State state) {
  worker->current->state = state;
  msl_switch(&worker->current->stack_pointer, worker->scheduler_stack_pointer);
}

void stop_here() {
  worker->stopped = true;
  stop_all();
  msl_switch(&worker->current->stack_pointer, worker->scheduler_stack_pointer);
  abort(); // nobody goes on with a stopped fiber
}

extern "C" msl_collective* msl_rt_collective(const void* operand, size_t size, int kind, msl_place here) {
  Fiber* fiber = worker->current;
  fiber->slot ^= 1;
  memcpy(fiber->operands[fiber->slot], operand, size);
  fiber->kind = kind;
  fiber->place = here;
  wait_in_state(State::AT_COLLECTIVE);
  return &worker->collectives[fiber->thread.simdgroup];
}

extern "C" void msl_rt_barrier(bool whole_threadgroup, unsigned flags, msl_place here) {
  Fiber* fiber = worker->current;
  fiber->kind = -1;
  fiber->flags = flags;
  fiber->place = here;
  wait_in_state(whole_threadgroup ? State::AT_THREADGROUP_BARRIER : State::AT_SIMDGROUP_BARRIER);
}

extern "C" void* msl_rt_threadgroup_variable(int variable, size_t size, size_t alignment) {
  for (const Variable& v : worker->variables) {
    if (v.number == variable) { return worker->arena + v.offset; }
  }
  alignment = std::max(alignment, size_t(16));
  size_t offset = (worker->arena_used + alignment - 1) / alignment * alignment;
  if (offset + size > ARENA) {
    report_at("threadgroup-memory", msl_place{}, "more than %zu bytes of threadgroup memory", ARENA);
    stop_here();
  }
  worker->arena_used = offset + size;
  worker->arena_peak = std::max(worker->arena_peak, worker->arena_used);
  Holding memory;
  worker->variables.push_back({variable, offset});
  return worker->arena + offset;
}

extern "C" unsigned msl_rt_lane() { return worker->current->thread.lane; }

extern "C" void msl_rt_inactive_lane(msl_place here) {
  report_at("inactive-lane", here, "reads from a lane that does not exist or takes no part: undefined");
}

// ---- The scheduler's side ----

static bool waits_for_simdgroup(const Fiber& f) {
  return f.state == State::AT_COLLECTIVE || f.state == State::AT_SIMDGROUP_BARRIER;
}

static bool same_operation(const Fiber& a, const Fiber& b) {
  return a.state == b.state && a.kind == b.kind && a.place.line == b.place.line &&
      strcmp(a.place.file, b.place.file) == 0;
}

// Gives the lanes of `mask`, which wait for one operation, each other's operands.
static void release(Worker* w, int first, int lanes, uint32_t mask, const Fiber& waiting) {
  msl_collective& c = w->collectives[first / SIMD_WIDTH];
  c.active = mask;
  c.reduced = false;
  for (int l = 0; l < lanes; l++) {
    Fiber& f = w->fibers[first + l];
    if ((mask >> l) & 1) {
      c.operand[l] = f.operands[f.slot];
      f.state = State::READY;
    }
  }
  if (waiting.state == State::AT_SIMDGROUP_BARRIER) { w->simdgroup_epochs[first / SIMD_WIDTH].count(waiting.flags); }
}

// Runs every lane that can run, in the order of the schedule; false if the kernel was stopped.
static bool run_ready_lanes(Worker* w, int first, int lanes, uint32_t rotation) {
  const unsigned stride = lanes % 5 != 0 ? 5 : 1; // no common factor with `lanes`: every lane has its turn
  for (int i = 0; i < lanes; i++) {
    int lane = i;
    if (w->launch->schedule == 1) { lane = lanes - 1 - i; }
    if (w->launch->schedule == 2) { lane = int((unsigned(i) * stride + rotation) % unsigned(lanes)); }
    Fiber& f = w->fibers[first + lane];
    if (f.state != State::READY) { continue; }
    w->current = &f;
    msl_switch(&w->scheduler_stack_pointer, f.stack_pointer);
    w->current = nullptr;
    if (w->stopped) { return false; }
  }
  return true;
}

// Until all lanes are done or wait for the threadgroup; false if the kernel was stopped.
static bool run_simdgroup(Worker* w, int first, uint32_t rotation) {
  const int lanes = std::min(int(SIMD_WIDTH), w->threads - first);
  while (run_ready_lanes(w, first, lanes, rotation)) {
    // Of lanes at different lines the lowest line goes first: a model of diverged lanes, not the hardware's way.
    const Fiber* chosen = nullptr;
    for (int l = 0; l < lanes; l++) {
      const Fiber& f = w->fibers[first + l];
      if (waits_for_simdgroup(f) && (!chosen || f.place.line < chosen->place.line)) { chosen = &f; }
    }
    if (!chosen) { return true; }
    const Fiber waiting = *chosen;
    uint32_t together = 0, elsewhere = 0, at_barrier = 0, done = 0;
    for (int l = 0; l < lanes; l++) {
      const Fiber& f = w->fibers[first + l];
      uint32_t bit = 1u << l;
      if (f.state == State::DONE) { done |= bit; }
      else if (f.state == State::AT_THREADGROUP_BARRIER) { at_barrier |= bit; }
      else if (same_operation(f, waiting)) { together |= bit; }
      else { elsewhere |= bit; }
    }
    w->collective_count++;
    if (w->launch->strict && together != 0xffffffffu) {
      report_at("simd-divergence", waiting.place,
                "simdgroup operation by lanes %08x only (waiting elsewhere %08x, at a threadgroup barrier %08x, "
                "finished %08x, lanes in this simdgroup %d)",
                together, elsewhere, at_barrier, done, lanes);
    }
    release(w, first, lanes, together, waiting);
  }
  return false;
}

// When no simdgroup can go on: lets the threads at a threadgroup barrier pass. False if there are none.
static bool pass_threadgroup_barrier(Worker* w) {
  const Fiber* first = nullptr;
  int waiting = 0;
  bool several = false;
  unsigned flags = 0;
  for (int i = 0; i < w->threads; i++) {
    const Fiber& f = w->fibers[i];
    if (f.state != State::AT_THREADGROUP_BARRIER) { continue; }
    waiting++;
    flags |= f.flags;
    if (!first) { first = &f; }
    several = several || !same_operation(f, *first);
  }
  if (!first) { return false; }
  w->barrier_count++;
  if (waiting < w->threads) {
    report_at("barrier-divergence", first->place,
              "threadgroup_barrier reached by %d of %d threads, the others have finished", waiting, w->threads);
  }
  if (several) {
    report_at("barrier-divergence", first->place, "threads of one threadgroup wait at different threadgroup barriers");
  }
  w->epochs.count(flags);
  for (Epochs& e : w->simdgroup_epochs) { e.count(flags); }
  for (int i = 0; i < w->threads; i++) {
    if (w->fibers[i].state == State::AT_THREADGROUP_BARRIER) { w->fibers[i].state = State::READY; }
  }
  return true;
}

static void begin_threadgroup(Worker* w, const uint32_t position[3], const uint32_t threadgroups[3]) {
  const Launch* launch = w->launch;
  uint32_t full[3], extent[3]; // threads of a threadgroup, and of this one
  for (int k = 0; k < 3; k++) {
    full[k] = std::min(launch->threadgroup[k], launch->grid[k]);
    extent[k] = std::min(full[k], launch->grid[k] - position[k] * full[k]);
  }
  w->threads = int(extent[0] * extent[1] * extent[2]);
  w->threadgroup = position[0] + threadgroups[0] * (position[1] + threadgroups[1] * position[2]);
  memset(w->arena, UNINITIALISED, w->arena_used);
  w->arena_used = 0;
  w->variables.clear();
  for (int i = 0; i < w->threads; i++) {
    Fiber& f = w->fibers[i];
    msl_thread& t = f.thread;
    const uint32_t p[3] = {i % extent[0], i / extent[0] % extent[1], i / extent[0] / extent[1]};
    for (int k = 0; k < 3; k++) {
      t.position_in_threadgroup[k] = p[k];
      t.position_in_grid[k] = position[k] * full[k] + p[k];
      t.threadgroup_position[k] = position[k];
      t.threads_per_threadgroup[k] = extent[k];
      t.dispatch_threads_per_threadgroup[k] = full[k];
      t.threadgroups_per_grid[k] = threadgroups[k];
      t.threads_per_grid[k] = launch->grid[k];
    }
    t.index = uint32_t(i);
    t.lane = t.index % SIMD_WIDTH;
    t.simdgroup = t.index / SIMD_WIDTH;
    t.simdgroups = (w->threads + SIMD_WIDTH - 1) / SIMD_WIDTH;
    f.state = State::READY;
    f.slot = 0;
    f.stack_pointer = prepare_stack(f.stack + launch->stack_size, &f);
  }
}

void run_threadgroup(Worker* w, const uint32_t position[3], const uint32_t threadgroups[3]) {
  begin_threadgroup(w, position, threadgroups);
  const uint32_t rotation = w->launch->seed * 1315423911u + w->threadgroup;
  const int simdgroups = (w->threads + SIMD_WIDTH - 1) / SIMD_WIDTH;
  do {
    for (int i = 0; i < simdgroups; i++) {
      int s = i;
      if (w->launch->schedule == 1) { s = simdgroups - 1 - i; }
      if (w->launch->schedule == 2) { s = int((i + rotation) % simdgroups); }
      if (!run_simdgroup(w, s * SIMD_WIDTH, rotation)) { return; }
    }
  } while (pass_threadgroup_barrier(w));
}
