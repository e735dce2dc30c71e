// vec<T, N> and packed_vec<T, N> for N = 2, 3, 4 with Metal's sizes and alignments: a vec<T, 3> takes the room of four.

namespace metal {

// for: vec swizzle VEC
template <class T, int N> struct vec;
template <class T> struct msl_components { static constexpr int value = 1; };
template <class T, int N> struct msl_components<vec<T, N>> { static constexpr int value = N; };
// Writes a constructor's argument, scalar or vector, from component i on.
template <class V, class A> MSL_FN void msl_put(V& v, int& i, const A& a) {
  if constexpr (msl_components<A>::value == 1) { v[i++] = typename V::elem(a); }
  else { for (int k = 0; k < msl_components<A>::value; k++) { v[i++] = typename V::elem(a[k]); } }
}
// What vectors of every length have. CHAIN names the component with index i.
#define VEC(N, CHAIN) \
  typedef T elem; \
  typedef vec self; \
  static constexpr int size = N; \
  vec() = default; \
  vec(const vec&) = default; \
  vec& operator=(const vec&) & = default; \
  template <class S, MSL_IF_SCALAR(S)> MSL_FN vec(S s) { \
    T t = T(s); \
    for (int i = 0; i < N; i++) { (*this)[i] = t; } \
  } \
  template <class U> MSL_FN explicit vec(const vec<U, N>& other) { \
    for (int i = 0; i < N; i++) { (*this)[i] = T(other[i]); } \
  } \
  template <class A, class B, class... Rest> MSL_FN vec(const A& a, const B& b, const Rest&... rest) { \
    static_assert((msl_components<A>::value + ... + msl_components<Rest>::value) + msl_components<B>::value == N, \
                  "vector constructor: as many components as the vector has"); \
    int i = 0; \
    msl_put(*this, i, a); \
    msl_put(*this, i, b); \
    (msl_put(*this, i, rest), ...); \
  } \
  MSL_FN T& operator[](int i) { return CHAIN; } \
  MSL_FN const T& operator[](int i) const { return CHAIN; } \
  template <int... I> MSL_FN vec<T, sizeof...(I)> swizzle() const { return vec<T, sizeof...(I)>((*this)[I]...); }
template <class T> struct alignas(sizeof(T) * 2) vec<T, 2> {
  T x, y;
  VEC(2, i == 0 ? x : y)
};
template <class T> struct alignas(sizeof(T) * 4) vec<T, 3> {
  T x, y, z;
  VEC(3, i == 0 ? x : i == 1 ? y : z)
};
template <class T> struct alignas(sizeof(T) * 4) vec<T, 4> {
  T x, y, z, w;
  VEC(4, i == 0 ? x : i == 1 ? y : i == 2 ? z : w)
};
#undef VEC

// for: packed_vec
// Components without padding and aligned as one of them; converts to and from vec.
template <class T, int N> struct packed_vec {
  T components[N];
  packed_vec() = default;
  MSL_FN packed_vec(const vec<T, N>& v) { for (int i = 0; i < N; i++) { components[i] = v[i]; } }
  MSL_FN operator vec<T, N>() const {
    vec<T, N> v;
    for (int i = 0; i < N; i++) { v[i] = components[i]; }
    return v;
  }
  MSL_FN T& operator[](int i) { return components[i]; }
  MSL_FN const T& operator[](int i) const { return components[i]; }
};

// for: MSL_VECTORS
#define MSL_VECTORS(name, T) typedef vec<T, 2> name##2; typedef vec<T, 3> name##3; typedef vec<T, 4> name##4;

// for: bool2 bool3 bool4
MSL_VECTORS(bool, bool)

// for: char2 char3 char4
MSL_VECTORS(char, signed char)

// for: uchar2 uchar3 uchar4
MSL_VECTORS(uchar, uchar)

// for: short2 short3 short4
MSL_VECTORS(short, short)

// for: ushort2 ushort3 ushort4
MSL_VECTORS(ushort, ushort)

// for: int2 int3 int4
MSL_VECTORS(int, int)

// for: uint2 uint3 uint4
MSL_VECTORS(uint, uint)

// for: long2 long3 long4
MSL_VECTORS(long, long)

// for: ulong2 ulong3 ulong4
MSL_VECTORS(ulong, ulong)

// for: float2 float3 float4
MSL_VECTORS(float, float)

// for: half2 half3 half4
MSL_VECTORS(half, half)

// for: bfloat2 bfloat3 bfloat4
MSL_VECTORS(bfloat, bfloat)

// for: MSL_PACKED
#define MSL_PACKED(name, T) \
  typedef packed_vec<T, 2> packed_##name##2; \
  typedef packed_vec<T, 3> packed_##name##3; \
  typedef packed_vec<T, 4> packed_##name##4;

// for: packed_char2 packed_char3 packed_char4
MSL_PACKED(char, signed char)

// for: packed_uchar2 packed_uchar3 packed_uchar4
MSL_PACKED(uchar, uchar)

// for: packed_short2 packed_short3 packed_short4
MSL_PACKED(short, short)

// for: packed_ushort2 packed_ushort3 packed_ushort4
MSL_PACKED(ushort, ushort)

// for: packed_int2 packed_int3 packed_int4
MSL_PACKED(int, int)

// for: packed_uint2 packed_uint3 packed_uint4
MSL_PACKED(uint, uint)

// for: packed_long2 packed_long3 packed_long4
MSL_PACKED(long, long)

// for: packed_float2 packed_float3 packed_float4
MSL_PACKED(float, float)

// for: packed_half2 packed_half3 packed_half4
MSL_PACKED(half, half)

// for: packed_bfloat2 packed_bfloat3 packed_bfloat4
MSL_PACKED(bfloat, bfloat)

} // namespace metal
