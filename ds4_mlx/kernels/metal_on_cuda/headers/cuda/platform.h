// What msl/ asks of a compiler, for CUDA.

#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cuda/std/cstdint>
#include <cuda/std/type_traits>
#define MSL_FN __device__ __forceinline__

// for: int8_t uint8_t
using cuda::std::int8_t;
using cuda::std::uint8_t;

// for: int16_t uint16_t
using cuda::std::int16_t;
using cuda::std::uint16_t;

// for: int32_t uint32_t
using cuda::std::int32_t;
using cuda::std::uint32_t;

// for: int64_t uint64_t
using cuda::std::int64_t;
using cuda::std::uint64_t;

// for: MSL_IS_ARITHMETIC
#define MSL_IS_ARITHMETIC(T) cuda::std::is_arithmetic<T>::value

// for: MSL_IS_INTEGER
#define MSL_IS_INTEGER(T) cuda::std::is_integral<T>::value

// for: METAL_FUNC
#define METAL_FUNC __device__ __forceinline__

// for: MSL_BUILTIN
#define MSL_BUILTIN(f) ::f

// for: MSL_INF
#define MSL_INF __builtin_bit_cast(float, 0x7f800000u)

// for: MSL_NAN
#define MSL_NAN __builtin_bit_cast(float, 0x7fc00000u)

// for: MSL_MEMCPY
#define MSL_MEMCPY ::memcpy

// for: MSL_POPCOUNT
#define MSL_POPCOUNT(u) ::__popc(u)

// for: MSL_CLZ
#define MSL_CLZ(u) ::__clz(int(u))

// for: MSL_FLOAT_TO_BFLOAT
// As one of a pair: alone, the conversion becomes one that runs at an eighth of the rate on sm_90.
#define MSL_FLOAT_TO_BFLOAT(f) __bfloat16_as_ushort(__low2bfloat16(__floats2bfloat162_rn(f, 0.0f)))

// for: MSL_BFLOAT_TO_FLOAT
#define MSL_BFLOAT_TO_FLOAT(bits) __bfloat162float(__ushort_as_bfloat16(bits))
