// One run of a kernel: workers for its threadgroups, faults turned into findings, and what can only be said at the end.
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "emulator.h"

static const size_t SIGNAL_STACK = 65536;
static std::mutex one_launch; // signal handlers and findings are the process's
static std::mutex results;
static std::condition_variable worker_done;
static uint32_t running; // workers, under `results`
static std::atomic<bool> stop;
static const int INTERRUPT = SIGUSR2; // sent to workers that run for too long

void stop_all() { stop = true; }

static void* map(size_t size) {
  void* p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}

// A fault inside a kernel ends that kernel; any other is none of ours, and happens again without this handler.
static void on_fault(int signal_number, siginfo_t* info, void*) {
  if (!worker || !worker->current) {
    signal(signal_number, SIG_DFL);
    return;
  }
  worker->fault_address = (char*)info->si_addr;
  worker->fault_signal = signal_number;
  worker->fault_code = info->si_code;
  siglongjmp(worker->escape, 1);
}

// Leaves a kernel that may never come back by itself; if it holds something, the next signal finds it elsewhere.
static void on_interrupt(int, siginfo_t*, void*) {
  if (!worker) { return; }
  worker->stopped = true;
  if (!worker->current || worker->holding) { return; }
  worker->fault_signal = INTERRUPT;
  siglongjmp(worker->escape, 1);
}

static void report_fault(const Worker* w) {
  const int general_protection = 0x80; // SI_KERNEL: the processor gives no address
  if (w->fault_signal == INTERRUPT) { return; } // reported by whoever sent it
  if (w->fault_signal == SIGFPE) {
    report_pc("undefined", nullptr, "integer division by zero or overflow");
  } else if (w->fault_signal == SIGSEGV && w->fault_code == general_protection) {
    report_pc("undefined", nullptr, "processor fault, most likely a misaligned vector access");
  } else {
    report_out_of_bounds(w->fault_address, 1, false, nullptr);
  }
}

static bool set_up(Worker* w, Launch* launch) {
  w->launch = launch;
  size_t threads = 1;
  for (int k = 0; k < 3; k++) { threads *= std::min(launch->threadgroup[k], launch->grid[k]); }
  size_t simdgroups = (threads + SIMD_WIDTH - 1) / SIMD_WIDTH;
  w->stacks = (char*)map(launch->stack_size * threads);
  w->arena = (char*)map(ARENA);
  w->arena_shadow = launch->checked ? (Shadow*)map(ARENA * sizeof(Shadow)) : nullptr;
  if (!w->stacks || !w->arena || (launch->checked && !w->arena_shadow)) { return false; }
  memset(w->arena, UNINITIALISED, THREADGROUP_MEMORY);
  w->fibers.resize(threads);
  for (size_t i = 0; i < threads; i++) { w->fibers[i].stack = w->stacks + i * launch->stack_size; }
  w->collectives.resize(simdgroups);
  for (msl_collective& c : w->collectives) { c.order = launch->order; }
  w->simdgroup_epochs.assign(simdgroups, Epochs{1, 1});
  w->epochs = Epochs{1, 1};
  return true;
}

static void tear_down(Worker* w) {
  if (w->stacks) { munmap(w->stacks, w->launch->stack_size * w->fibers.size()); }
  if (w->arena) { munmap(w->arena, ARENA); }
  if (w->arena_shadow) { munmap(w->arena_shadow, ARENA * sizeof(Shadow)); }
}

static void run_worker(Launch* launch, std::atomic<uint64_t>* next, const uint32_t* groups) {
  std::vector<unsigned char> signal_stack(SIGNAL_STACK);
  stack_t alternative{};
  alternative.ss_sp = signal_stack.data();
  alternative.ss_size = SIGNAL_STACK;
  sigaltstack(&alternative, nullptr);
  Worker w{};
  const uint64_t total = uint64_t(groups[0]) * groups[1] * groups[2];
  if (!set_up(&w, launch)) {
    report_pc("emulator", nullptr, "no memory for the stacks of a threadgroup");
    stop_all();
  }
  worker = &w;
  if (sigsetjmp(w.escape, 1) == 0) {
    for (uint64_t k; !stop && (k = next->fetch_add(1)) < total;) {
      uint64_t i = launch->schedule == 1 ? total - 1 - k : k;
      const uint32_t position[3] = {
          uint32_t(i % groups[0]), uint32_t(i / groups[0] % groups[1]), uint32_t(i / groups[0] / groups[1])};
      run_threadgroup(&w, position, groups);
    }
  } else {
    stop_all();
    report_fault(&w);
  }
  worker = nullptr;
  {
    std::lock_guard<std::mutex> lock(results);
    launch->threadgroup_bytes = std::max<uint64_t>(launch->threadgroup_bytes, w.arena_peak);
    launch->collectives += w.collective_count;
    launch->barriers += w.barrier_count;
    launch->accesses += w.access_count;
  }
  tear_down(&w);
  alternative.ss_flags = SS_DISABLE;
  sigaltstack(&alternative, nullptr);
  std::lock_guard<std::mutex> lock(results);
  running--;
  worker_done.notify_all();
}

// Until all workers are done; after the time limit by force.
static void wait_for_workers(const Launch* launch, std::vector<std::thread>& threads) {
  std::unique_lock<std::mutex> lock(results);
  auto all_done = [] { return running == 0; };
  if (!worker_done.wait_for(lock, std::chrono::milliseconds(launch->time_limit), all_done)) {
    report_at("endless", msl_place{}, "still running after %.1f s: an endless loop, or set a longer time_limit",
              launch->time_limit / 1000.0);
    stop_all();
    do {
      for (std::thread& t : threads) { pthread_kill(t.native_handle(), INTERRUPT); }
    } while (!worker_done.wait_for(lock, std::chrono::milliseconds(20), all_done));
  }
  lock.unlock();
  for (std::thread& t : threads) { t.join(); }
}

static void report_unwritten(const Buffer& b) {
  uint64_t missing = 0, first = 0;
  for (uint64_t i = 0; i < b.size; i++) {
    if (!b.shadow[i].write.exists()) {
      if (missing == 0) { first = i; }
      missing++;
    }
  }
  if (missing > 0) {
    report_at("unwritten", msl_place{}, "%lu of %lu bytes of output '%s' never written, first at byte %lu",
              (unsigned long)missing, (unsigned long)b.size, b.name, (unsigned long)first);
  }
}

extern "C" int msl_launch(Launch* launch, char* findings, uint64_t capacity) {
  std::lock_guard<std::mutex> lock(one_launch);
  clear_findings(launch->library);
  stop = false;
  for (uint32_t i = 0; i < launch->buffer_count && launch->checked; i++) {
    Buffer* b = launch->buffers[i];
    if (b->is_output) { b->shadow = (Shadow*)map(b->size * sizeof(Shadow) + 1); }
    if (b->is_output && !b->shadow) {
      report_pc("emulator", nullptr, "no memory to check output '%s' with: use a smaller shape", b->name);
      stop_all();
    }
  }
  const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, INTERRUPT};
  struct sigaction ours{}, before[4];
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < 4; i++) {
    ours.sa_sigaction = signals[i] == INTERRUPT ? on_interrupt : on_fault;
    sigaction(signals[i], &ours, &before[i]);
  }

  uint32_t groups[3];
  for (int k = 0; k < 3; k++) {
    uint32_t full = std::min(launch->threadgroup[k], launch->grid[k]);
    groups[k] = (launch->grid[k] + full - 1) / full;
  }
  std::atomic<uint64_t> next{0};
  std::vector<std::thread> threads;
  running = launch->workers;
  for (uint32_t i = 0; i < launch->workers; i++) { threads.emplace_back(run_worker, launch, &next, groups); }
  wait_for_workers(launch, threads);

  for (int i = 0; i < 4; i++) { sigaction(signals[i], &before[i], nullptr); }
  for (uint32_t i = 0; i < launch->buffer_count; i++) {
    Buffer* b = launch->buffers[i];
    if (!b->shadow) { continue; }
    if (!b->is_initialised && !stop) { report_unwritten(*b); }
    munmap(b->shadow, b->size * sizeof(Shadow) + 1);
    b->shadow = nullptr;
  }
  if (launch->threadgroup_bytes > THREADGROUP_MEMORY) {
    report_at("threadgroup-memory", msl_place{}, "%lu bytes of threadgroup memory, Apple's GPUs have %d",
              (unsigned long)launch->threadgroup_bytes, int(THREADGROUP_MEMORY));
  }
  copy_findings(findings, capacity);
  return stop;
}
