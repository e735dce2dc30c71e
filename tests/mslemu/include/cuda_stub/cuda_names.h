// What CUDA C++ knows without an include. Its vector types are here for their names: Metal's must win over them.
#pragma once
#include <math.h>
#include <string.h>

#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__ inline
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))

struct uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct uint4 { unsigned x, y, z, w; };
struct int2 { int x, y; };
struct int4 { int x, y, z, w; };
struct float2 { float x, y; };
struct float3 { float x, y, z; };
struct float4 { float x, y, z, w; };
struct dim3 { unsigned x, y, z; };
extern const uint3 threadIdx, blockIdx;
extern const dim3 blockDim, gridDim;

void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffff);
unsigned __shfl_sync(unsigned mask, unsigned value, int lane, int width = 32);
int __any_sync(unsigned mask, int predicate);
int __all_sync(unsigned mask, int predicate);
unsigned __ballot_sync(unsigned mask, int predicate);
unsigned long __cvta_generic_to_shared(const void*);

int __popc(unsigned);
int __clz(int);
int min(int, int);
unsigned min(unsigned, unsigned);
float min(float, float);
int max(int, int);
unsigned max(unsigned, unsigned);
float max(float, float);
float rsqrt(float);

int atomicAdd(int*, int);
unsigned atomicAdd(unsigned*, unsigned);
float atomicAdd(float*, float);
int atomicExch(int*, int);
unsigned atomicExch(unsigned*, unsigned);
float atomicExch(float*, float);
unsigned atomicCAS(unsigned*, unsigned compare, unsigned value);
int atomicAnd(int*, int);
unsigned atomicAnd(unsigned*, unsigned);
int atomicOr(int*, int);
unsigned atomicOr(unsigned*, unsigned);
int atomicXor(int*, int);
unsigned atomicXor(unsigned*, unsigned);
