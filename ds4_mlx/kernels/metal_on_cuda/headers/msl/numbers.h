// min, max and their kin, bits, limits. As in Metal, all arguments have one type: min(1u, 2) finds no function.

namespace metal {

// for: min
template <class T> MSL_FN msl_scalar<T> min(T a, T b) { return b < a ? b : a; }
MSL_FN float min(float a, float b) { return MSL_BUILTIN(fminf)(a, b); }
template <class V> MSL_FN typename V::self min(V a, V b) {
  for (int i = 0; i < V::size; i++) { a[i] = min(a[i], b[i]); }
  return a;
}
template <class V> MSL_FN typename V::self min(V a, typename V::elem b) { return min(a, V(b)); }

// for: max
template <class T> MSL_FN msl_scalar<T> max(T a, T b) { return a < b ? b : a; }
MSL_FN float max(float a, float b) { return MSL_BUILTIN(fmaxf)(a, b); }
template <class V> MSL_FN typename V::self max(V a, V b) {
  for (int i = 0; i < V::size; i++) { a[i] = max(a[i], b[i]); }
  return a;
}
template <class V> MSL_FN typename V::self max(V a, typename V::elem b) { return max(a, V(b)); }

// for: clamp
template <class T> MSL_FN T clamp(T x, T low, T high) { return min(max(x, low), high); }
template <class V> MSL_FN typename V::self clamp(V x, typename V::elem low, typename V::elem high) {
  return min(max(x, low), high);
}

// for: abs
template <class T> MSL_FN msl_scalar<T> abs(T x) { return x < T(0) ? T(-x) : x; }
MSL_FN float abs(float x) { return MSL_BUILTIN(fabsf)(x); }
template <class V> MSL_FN typename V::self abs(V a) {
  for (int i = 0; i < V::size; i++) { a[i] = abs(a[i]); }
  return a;
}

// for: select
template <class T> MSL_FN msl_scalar<T> select(T a, T b, bool take_b) { return take_b ? b : a; }
template <class T, int N> MSL_FN vec<T, N> select(const vec<T, N>& a, const vec<T, N>& b, const vec<bool, N>& take_b) {
  vec<T, N> r;
  for (int i = 0; i < N; i++) { r[i] = take_b[i] ? b[i] : a[i]; }
  return r;
}

// for: msl_word
// The bits of an integer of at most 32 bits, zeros above them.
template <class T> MSL_FN uint msl_word(T x) {
  return sizeof(T) < 4 ? uint(x) & ((1u << (8 * sizeof(T) % 32)) - 1u) : uint(x);
}

// for: popcount
template <class T> MSL_FN msl_scalar<T> popcount(T x) {
  if constexpr (sizeof(T) == 8) { return T(MSL_POPCOUNT(uint(x)) + MSL_POPCOUNT(uint(ulong(x) >> 32))); }
  else { return T(MSL_POPCOUNT(msl_word(x))); }
}

// for: clz ctz
template <class T> MSL_FN msl_scalar<T> clz(T x) {
  if constexpr (sizeof(T) == 8) {
    uint high = uint(ulong(x) >> 32);
    return T(high != 0 ? MSL_CLZ(high) : 32 + MSL_CLZ(uint(x)));
  } else { return T(MSL_CLZ(msl_word(x)) - (32 - 8 * int(sizeof(T)))); }
}
template <class T> MSL_FN msl_scalar<T> ctz(T x) {
  if constexpr (sizeof(T) == 8) {
    uint low = uint(x);
    return T(low != 0 ? ctz(low) : 32 + ctz(uint(ulong(x) >> 32)));
  } else {
    uint word = msl_word(x);
    return T(word != 0 ? 31 - MSL_CLZ(word & (0u - word)) : 8 * sizeof(T));
  }
}

// for: extract_bits
// `bits` bits from `offset` on; the sign is extended if T has one.
template <class T> MSL_FN msl_scalar<T> extract_bits(T x, uint offset, uint bits) {
  const uint width = sizeof(T) * 8;
  return bits == 0 ? T(0) : T(T(ulong(x) << (width - bits - offset)) >> (width - bits));
}

// for: mulhi
MSL_FN uint mulhi(uint a, uint b) { return uint((ulong(a) * ulong(b)) >> 32); }

// for: rotate
// To the left; unsigned types.
template <class T> MSL_FN msl_scalar<T> rotate(T x, T by) {
  const uint width = sizeof(T) * 8, n = uint(by) & (width - 1);
  return n == 0 ? x : T((x << n) | (x >> (width - n)));
}

// for: numeric_limits
template <class T> struct numeric_limits;
#define MSL_LIMITS(T, highest, smallest) \
  template <> struct numeric_limits<T> { \
    static constexpr MSL_FN T max() { return highest; } \
    static constexpr MSL_FN T lowest() { return smallest; } \
    static constexpr MSL_FN T min() { return smallest; } \
  };
MSL_LIMITS(signed char, 127, -128)
MSL_LIMITS(uchar, 255, 0)
MSL_LIMITS(short, 32767, -32768)
MSL_LIMITS(ushort, 65535, 0)
MSL_LIMITS(int, 2147483647, (-2147483647 - 1))
MSL_LIMITS(uint, 4294967295u, 0u)
MSL_LIMITS(long, 9223372036854775807L, (-9223372036854775807L - 1))
MSL_LIMITS(ulong, 18446744073709551615UL, 0UL)
#undef MSL_LIMITS
template <> struct numeric_limits<float> {
  static constexpr MSL_FN float max() { return 3.402823466e+38f; }
  static constexpr MSL_FN float lowest() { return -3.402823466e+38f; }
  static constexpr MSL_FN float min() { return 1.175494351e-38f; }
  static constexpr MSL_FN float infinity() { return MSL_INF; }
  static constexpr MSL_FN float epsilon() { return 1.192092896e-07f; }
};
template <> struct numeric_limits<half> {
  static MSL_FN half max() { return half(65504.0f); }
  static MSL_FN half lowest() { return half(-65504.0f); }
  static MSL_FN half infinity() { return half(MSL_INF); }
};

} // namespace metal
