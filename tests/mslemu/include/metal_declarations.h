// Metal's library as declarations, for clang to check kernels against: address spaces are real, vectors are clang's
// own, which Metal's are as well. Nothing here ever runs.
#pragma once

#define device __attribute__((address_space(1)))
#define constant __attribute__((address_space(2)))
#define threadgroup __attribute__((address_space(3)))
#define thread
#define METAL_FUNC inline
#define MSL_INF __builtin_huge_valf()
#define MSL_NAN __builtin_nanf("")
#include "msl/constants.h"

typedef __INT8_TYPE__ int8_t;
typedef __UINT8_TYPE__ uint8_t;
typedef __INT16_TYPE__ int16_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __INT32_TYPE__ int32_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT64_TYPE__ uint64_t;
typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;
typedef __UINTPTR_TYPE__ uintptr_t;

namespace metal {
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
typedef __bf16 bfloat;
typedef half float16_t;
typedef bfloat bfloat16_t;

// ---- Vectors ----
template <class T, int N> using vec = T __attribute__((ext_vector_type(N)));
template <class T, int N> struct packed_vec {
  T components[N];
  packed_vec() = default;
  packed_vec(vec<T, N>);
  operator vec<T, N>() const;
};
#define MSL_VECTORS(name, T) \
  typedef T name##2 __attribute__((ext_vector_type(2))); \
  typedef T name##3 __attribute__((ext_vector_type(3))); \
  typedef T name##4 __attribute__((ext_vector_type(4))); \
  typedef packed_vec<T, 2> packed_##name##2; \
  typedef packed_vec<T, 3> packed_##name##3; \
  typedef packed_vec<T, 4> packed_##name##4;
MSL_VECTORS(bool, bool)
MSL_VECTORS(char, signed char)
MSL_VECTORS(uchar, uchar)
MSL_VECTORS(short, short)
MSL_VECTORS(ushort, ushort)
MSL_VECTORS(int, int)
MSL_VECTORS(uint, uint)
MSL_VECTORS(long, long)
MSL_VECTORS(ulong, ulong)
MSL_VECTORS(float, float)
MSL_VECTORS(half, half)
MSL_VECTORS(bfloat, bfloat)

// C++ knows no float4(a, b, c, d): check.py writes such a constructor as msl_construct<float4>(a, b, c, d).
template <class T> struct msl_components { static const int value = 1; };
template <class T, int N> struct msl_components<T __attribute__((ext_vector_type(N)))> { static const int value = N; };
template <class... A> struct msl_total { static const int value = 0; };
template <class A, class... Rest> struct msl_total<A, Rest...> {
  static const int value = msl_components<A>::value + msl_total<Rest...>::value;
};
template <class V, class... A> V msl_construct(A...) {
  const int given = msl_total<A...>::value;
  static_assert(given == msl_components<V>::value || (sizeof...(A) == 1 && given == 1),
                "vector constructor: as many components as the vector has");
  return V();
}

// ---- Functions of floats ----
#define MSL_FUNCTION1(name) \
  float name(float); \
  half name(half); \
  bfloat name(bfloat); \
  template <class T, int N> vec<T, N> name(vec<T, N>);
#define MSL_FUNCTION2(name) \
  float name(float, float); \
  half name(half, half); \
  bfloat name(bfloat, bfloat); \
  template <class T, int N> vec<T, N> name(vec<T, N>, vec<T, N>);
#define MSL_MATH \
  MSL_FUNCTION1(exp) MSL_FUNCTION1(exp2) MSL_FUNCTION1(exp10) MSL_FUNCTION1(log) MSL_FUNCTION1(log2) \
  MSL_FUNCTION1(log10) MSL_FUNCTION1(sqrt) MSL_FUNCTION1(rsqrt) MSL_FUNCTION1(sin) MSL_FUNCTION1(cos) \
  MSL_FUNCTION1(tan) MSL_FUNCTION1(sinh) MSL_FUNCTION1(cosh) MSL_FUNCTION1(tanh) MSL_FUNCTION1(asin) \
  MSL_FUNCTION1(acos) MSL_FUNCTION1(atan) MSL_FUNCTION2(atan2) MSL_FUNCTION2(pow) MSL_FUNCTION2(powr) \
  MSL_FUNCTION2(fmod)
MSL_MATH
namespace fast { MSL_MATH }
namespace precise { MSL_MATH }
MSL_FUNCTION1(floor) MSL_FUNCTION1(ceil) MSL_FUNCTION1(trunc) MSL_FUNCTION1(rint) MSL_FUNCTION1(round)
MSL_FUNCTION1(fract) MSL_FUNCTION1(fabs) MSL_FUNCTION1(sign) MSL_FUNCTION1(saturate)
MSL_FUNCTION2(copysign) MSL_FUNCTION2(step) MSL_FUNCTION2(fmin) MSL_FUNCTION2(fmax)
float fma(float, float, float);
half fma(half, half, half);
bfloat fma(bfloat, bfloat, bfloat);
template <class T, int N> vec<T, N> fma(vec<T, N>, vec<T, N>, vec<T, N>);
bool isnan(float);
bool isinf(float);
bool isfinite(float);
float ldexp(float, int);
template <class T, int N> T dot(vec<T, N>, vec<T, N>);
template <class T, int N> T length(vec<T, N>);

// ---- Numbers: one overload per type, so that arguments of two types are ambiguous, as on Metal ----
#define MSL_NUMBER(T) \
  T min(T, T); \
  T max(T, T); \
  T clamp(T, T, T); \
  T abs(T); \
  T select(T, T, bool); \
  T mix(T, T, T);
MSL_NUMBER(signed char)
MSL_NUMBER(uchar)
MSL_NUMBER(short)
MSL_NUMBER(ushort)
MSL_NUMBER(int)
MSL_NUMBER(uint)
MSL_NUMBER(long)
MSL_NUMBER(ulong)
MSL_NUMBER(float)
MSL_NUMBER(half)
MSL_NUMBER(bfloat)
template <class T, int N> vec<T, N> min(vec<T, N>, vec<T, N>);
template <class T, int N> vec<T, N> min(vec<T, N>, T);
template <class T, int N> vec<T, N> max(vec<T, N>, vec<T, N>);
template <class T, int N> vec<T, N> max(vec<T, N>, T);
template <class T, int N> vec<T, N> clamp(vec<T, N>, T, T);
template <class T, int N> vec<T, N> clamp(vec<T, N>, vec<T, N>, vec<T, N>);
template <class T, int N> vec<T, N> abs(vec<T, N>);
template <class T, int N> vec<T, N> mix(vec<T, N>, vec<T, N>, vec<T, N>);
template <class T, int N> vec<T, N> select(vec<T, N>, vec<T, N>, vec<bool, N>);
template <int N> bool any(vec<bool, N>);
template <int N> bool all(vec<bool, N>);
template <class T> T popcount(T);
template <class T> T ctz(T);
template <class T> T clz(T);
template <class T> T extract_bits(T, uint, uint);
template <class T> T rotate(T, T);
uint mulhi(uint, uint);
template <class To, class From> To as_type(From) {
  static_assert(sizeof(To) == sizeof(From), "as_type: the sizes differ");
  return To();
}
template <class T> struct numeric_limits {
  static constexpr T max() { return T(); }
  static constexpr T lowest() { return T(); }
  static constexpr T min() { return T(); }
  static constexpr T infinity() { return T(); }
  static constexpr T epsilon() { return T(); }
};

// ---- Barriers and atomics ----
enum class mem_flags { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
mem_flags operator|(mem_flags, mem_flags);
enum memory_order { memory_order_relaxed };
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);
template <class T> struct atomic { T value; };
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;
#define MSL_FETCH(space, operation) \
  template <class T, class U> T atomic_fetch_##operation##_explicit(volatile space atomic<T>*, U, memory_order);
#define MSL_ATOMICS(space) \
  MSL_FETCH(space, add) MSL_FETCH(space, sub) MSL_FETCH(space, max) MSL_FETCH(space, min) \
  MSL_FETCH(space, and) MSL_FETCH(space, or) MSL_FETCH(space, xor) \
  template <class T> T atomic_load_explicit(const volatile space atomic<T>*, memory_order); \
  template <class T, class U> void atomic_store_explicit(volatile space atomic<T>*, U, memory_order); \
  template <class T, class U> T atomic_exchange_explicit(volatile space atomic<T>*, U, memory_order); \
  template <class T> bool atomic_compare_exchange_weak_explicit( \
      volatile space atomic<T>*, T*, T, memory_order, memory_order);
MSL_ATOMICS(device)
MSL_ATOMICS(threadgroup)

// ---- Simdgroups ----
#define MSL_OF_ALL(name) template <class T> T name(T);
MSL_OF_ALL(simd_sum) MSL_OF_ALL(simd_product) MSL_OF_ALL(simd_max) MSL_OF_ALL(simd_min) MSL_OF_ALL(simd_and)
MSL_OF_ALL(simd_or) MSL_OF_ALL(simd_xor) MSL_OF_ALL(simd_broadcast_first) MSL_OF_ALL(simd_prefix_inclusive_sum)
MSL_OF_ALL(simd_prefix_exclusive_sum) MSL_OF_ALL(quad_sum)
#define MSL_OF_LANE(name) template <class T> T name(T, ushort);
MSL_OF_LANE(simd_shuffle) MSL_OF_LANE(simd_shuffle_xor) MSL_OF_LANE(simd_shuffle_up) MSL_OF_LANE(simd_shuffle_down)
MSL_OF_LANE(simd_shuffle_rotate_up) MSL_OF_LANE(simd_shuffle_rotate_down) MSL_OF_LANE(simd_broadcast)
MSL_OF_LANE(quad_shuffle_xor) MSL_OF_LANE(quad_broadcast)
struct simd_vote {
  explicit operator ulong() const;
  bool all() const;
  bool any() const;
};
simd_vote simd_ballot(bool);
bool simd_any(bool);
bool simd_all(bool);
bool simd_is_first();

template <class T, int R = 8, int C = 8> struct simdgroup_matrix {
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T);
  vec<T, 2>& thread_elements();
};
typedef simdgroup_matrix<float> simdgroup_float8x8;
typedef simdgroup_matrix<half> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat> simdgroup_bfloat8x8;
template <class T, int R, int C> simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T);
#define MSL_MATRIX(space) \
  template <class T> void simdgroup_load(simdgroup_matrix<T>&, const space T*, ulong = 8, ulong2 = 0, bool = false); \
  template <class T> void simdgroup_store(simdgroup_matrix<T>, space T*, ulong = 8, ulong2 = 0, bool = false);
MSL_MATRIX(device)
MSL_MATRIX(threadgroup)
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(simdgroup_matrix<D>&, simdgroup_matrix<A>, simdgroup_matrix<B>, simdgroup_matrix<C>);
template <class D, class A, class B>
void simdgroup_multiply(simdgroup_matrix<D>&, simdgroup_matrix<A>, simdgroup_matrix<B>);

// ---- MLX's own ----
template <class I = long> I elem_to_loc(I, const constant int*, const constant int64_t*, int);
} // namespace metal
using namespace metal;
