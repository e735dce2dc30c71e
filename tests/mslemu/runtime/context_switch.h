// Leaves one stack and goes on with another.
#pragma once

extern "C" {
// Saves the callee-saved registers on the current stack, stores its pointer in *save, and goes on where `next` stopped.
void msl_switch(void** save, void* next);
// Where a prepared stack begins: calls msl_fiber_main(argument).
void msl_begin();
void msl_fiber_main(void* argument);
}

// A stack pointer for msl_switch that begins msl_fiber_main(argument) on the stack that ends at `top`.
void* prepare_stack(char* top, void* argument);
