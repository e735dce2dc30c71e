// What g++ -fsanitize=bounds,shift,... calls when a checked kernel does something that C++ leaves undefined.
#include <stdarg.h>
#include <stdio.h>

#include "emulator.h"

// How the data that g++ passes begins.
struct SourceLocation {
  const char* file;
  uint32_t line, column;
};

static void undefined(const void* data, const char* format, ...) __attribute__((format(printf, 2, 3)));
static void undefined(const void* data, const char* format, ...) {
  const SourceLocation* at = (const SourceLocation*)data;
  char text[160];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  report_at("undefined", msl_place{at->file, int(at->line)}, "%s", text);
}

#pragma GCC visibility push(default)
extern "C" {
void __ubsan_handle_out_of_bounds(void* data, uintptr_t index) {
  undefined(data, "array index %ld out of bounds", long(index));
  stop_here();
}
void __ubsan_handle_shift_out_of_bounds(void* data, uintptr_t, uintptr_t) {
  undefined(data, "shift by a negative or too large count, or of a negative number");
}
void __ubsan_handle_divrem_overflow(void* data, uintptr_t, uintptr_t) {
  undefined(data, "integer division by zero or overflow");
  stop_here();
}
void __ubsan_handle_add_overflow(void* data, uintptr_t, uintptr_t) { undefined(data, "signed integer overflow in +"); }
void __ubsan_handle_sub_overflow(void* data, uintptr_t, uintptr_t) { undefined(data, "signed integer overflow in -"); }
void __ubsan_handle_mul_overflow(void* data, uintptr_t, uintptr_t) { undefined(data, "signed integer overflow in *"); }
void __ubsan_handle_negate_overflow(void* data, uintptr_t) { undefined(data, "signed integer overflow in unary -"); }
void __ubsan_handle_type_mismatch_v1(void* data, uintptr_t address) {
  undefined(data, "misaligned pointer (address %% 16 = %d)", int(address & 15));
}
void __ubsan_handle_float_cast_overflow(void* data, uintptr_t) {
  undefined(data, "float to integer conversion out of range");
}
void __ubsan_handle_load_invalid_value(void* data, uintptr_t) { undefined(data, "bool that is neither 0 nor 1"); }
}
#pragma GCC visibility pop
