// CUDA's bfloat16 as far as headers/cuda use it; declarations only.
#pragma once

struct __nv_bfloat16 {
  unsigned short bits;
};
__nv_bfloat16 __float2bfloat16_rn(float);
float __bfloat162float(__nv_bfloat16);
unsigned short __bfloat16_as_ushort(__nv_bfloat16);
__nv_bfloat16 __ushort_as_bfloat16(unsigned short);
