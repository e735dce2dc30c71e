#include "context_switch.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
asm(R"(
.text
.globl msl_switch
.hidden msl_switch
.type msl_switch,@function
msl_switch:
  push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15
  mov %rsp,(%rdi)
  mov %rsi,%rsp
  pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp
  ret
.globl msl_begin
.hidden msl_begin
.type msl_begin,@function
msl_begin:
  mov %r12,%rdi
  call msl_fiber_main
  ud2
)");

void* prepare_stack(char* top, void* argument) {
  void** p = (void**)((uintptr_t)top & ~uintptr_t(15));
  *--p = nullptr; // keeps the stack 16-byte aligned at msl_begin's call
  *--p = nullptr;
  *--p = (void*)msl_begin; // where msl_switch returns to
  *--p = nullptr;          // rbp
  *--p = nullptr;          // rbx
  *--p = argument;         // r12
  *--p = nullptr;          // r13
  *--p = nullptr;          // r14
  *--p = nullptr;          // r15
  return p;
}
#elif defined(__aarch64__)
// Written from the calling convention; no such machine was at hand to run it.
asm(R"(
.text
.globl msl_switch
.hidden msl_switch
msl_switch:
  sub sp,sp,#160
  stp x19,x20,[sp]; stp x21,x22,[sp,#16]; stp x23,x24,[sp,#32]; stp x25,x26,[sp,#48]; stp x27,x28,[sp,#64]
  stp x29,x30,[sp,#80]
  stp d8,d9,[sp,#96]; stp d10,d11,[sp,#112]; stp d12,d13,[sp,#128]; stp d14,d15,[sp,#144]
  mov x9,sp
  str x9,[x0]
  mov sp,x1
  ldp x19,x20,[sp]; ldp x21,x22,[sp,#16]; ldp x23,x24,[sp,#32]; ldp x25,x26,[sp,#48]; ldp x27,x28,[sp,#64]
  ldp x29,x30,[sp,#80]
  ldp d8,d9,[sp,#96]; ldp d10,d11,[sp,#112]; ldp d12,d13,[sp,#128]; ldp d14,d15,[sp,#144]
  add sp,sp,#160
  ret
.globl msl_begin
.hidden msl_begin
msl_begin:
  mov x0,x19
  bl msl_fiber_main
  brk #1
)");

void* prepare_stack(char* top, void* argument) {
  char* p = (char*)((uintptr_t)top & ~uintptr_t(15)) - 160;
  memset(p, 0, 160);
  *(void**)p = argument;               // x19
  *(void**)(p + 88) = (void*)msl_begin; // x30, where msl_switch returns to
  return p;
}
#else
#error "the emulator runs on x86-64 and 64-bit Arm; another processor needs its own msl_switch"
#endif
