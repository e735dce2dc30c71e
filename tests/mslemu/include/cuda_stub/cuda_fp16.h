// CUDA's half as far as headers/cuda use it; declarations only.
#pragma once
#include "cuda_names.h"

struct __half {
  unsigned short bits;
};
typedef __half half;
struct half2 {
  __half x, y;
};
__half __float2half_rn(float);
float __half2float(__half);
unsigned short __half_as_ushort(__half);
__half __ushort_as_half(unsigned short);
