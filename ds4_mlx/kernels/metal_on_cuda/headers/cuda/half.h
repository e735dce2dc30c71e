// metal::half with the bits of CUDA's __half, so that pointers can be cast from one to the other.

namespace metal {

// for: half float16_t
// Converts to and from other numbers by itself, like a built-in type.
struct half {
  unsigned short bits;
  half() = default;
  template <class S, class = typename msl_if<MSL_IS_ARITHMETIC(S)>::type> MSL_FN half(S s)
      : bits(__half_as_ushort(__float2half_rn(float(s)))) {}
  template <class S, class = msl_small_float<S>, class = void> MSL_FN explicit half(S s) : half(float(s)) {}
  MSL_FN operator float() const { return __half2float(__ushort_as_half(bits)); }
};
template <> struct msl_is_small_float<half> { static constexpr bool value = true; };
typedef half float16_t;

// for: half float16_t
// half op half and half op int are rounded to half, half op float is a float. Exact: a float holds the operands, and
// rounding +, -, * and / of halfs to float first does not change the half.
template <class I> using msl_integer = typename msl_if<MSL_IS_INTEGER(I)>::type;
#define MSL_HALF_OPERATOR(op) \
  MSL_FN half operator op(half a, half b) { return half(float(a) op float(b)); } \
  MSL_FN float operator op(half a, float b) { return float(a) op b; } \
  MSL_FN float operator op(float a, half b) { return a op float(b); } \
  template <class I, class = msl_integer<I>> MSL_FN half operator op(half a, I b) { return a op half(b); } \
  template <class I, class = msl_integer<I>> MSL_FN half operator op(I a, half b) { return half(a) op b; } \
  template <class R> MSL_FN half& operator op##=(half& a, R b) { \
    a = half(float(a op b)); \
    return a; \
  }
MSL_HALF_OPERATOR(+) MSL_HALF_OPERATOR(-) MSL_HALF_OPERATOR(*) MSL_HALF_OPERATOR(/)
#undef MSL_HALF_OPERATOR
MSL_FN half operator-(half a) {
  a.bits ^= 0x8000;
  return a;
}

} // namespace metal
