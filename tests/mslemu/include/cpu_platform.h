// What the package's headers/msl ask of a compiler, for g++.
#pragma once
#include <type_traits>
#include "abi.h"

#define MSL_FN inline __attribute__((always_inline))
#define METAL_FUNC inline __attribute__((always_inline))
// Helpers of the emulator itself: they touch other lanes' stacks, so the checks must not look at them.
#define MSL_UNCHECKED __attribute__((noinline, no_sanitize("thread", "undefined")))
#define MSL_BUILTIN(f) __builtin_##f
#define MSL_MEMCPY __builtin_memcpy
#define MSL_INF __builtin_huge_valf()
#define MSL_NAN __builtin_nanf("")
#define MSL_IS_ARITHMETIC(T) std::is_arithmetic<T>::value
#define MSL_POPCOUNT(u) __builtin_popcount(u)
#define MSL_CLZ(u) ((u) ? __builtin_clz(u) : 32)
#define MSL_FLOAT_TO_BFLOAT(f) msl_float_to_bfloat(f)
#define MSL_BFLOAT_TO_FLOAT(bits) msl_bfloat_to_float(bits)

namespace metal {
MSL_FN unsigned short msl_float_to_bfloat(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  // Adding half of the last kept bit, and that bit, rounds to nearest even.
  return (unsigned short)(nan ? (u >> 16) | 0x40 : (u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
MSL_FN float msl_bfloat_to_float(unsigned short bits) {
  uint32_t u = uint32_t(bits) << 16;
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}
inline unsigned msl_lane() { return msl_rt_lane(); }
} // namespace metal
