// CUDA's bfloat16 as far as headers/cuda use it; declarations only.
#pragma once

struct __nv_bfloat16 {
  unsigned short bits;
};
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
__nv_bfloat162 __floats2bfloat162_rn(float, float);
__nv_bfloat16 __low2bfloat16(__nv_bfloat162);
float __bfloat162float(__nv_bfloat16);
unsigned short __bfloat16_as_ushort(__nv_bfloat16);
__nv_bfloat16 __ushort_as_bfloat16(unsigned short);
