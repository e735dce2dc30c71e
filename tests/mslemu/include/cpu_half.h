// half: g++ has the type, and -fexcess-precision=16 makes it round after every operation.
#pragma once

namespace metal {
typedef _Float16 half;
typedef half float16_t;
template <> struct msl_is_small_float<half> { static constexpr bool value = true; };
} // namespace metal
