// bfloat: arithmetic in float, every operation rounded. A float holds the operands, and rounding +, -, * and / to float
// first does not change the bfloat.

namespace metal {

// for: bfloat bfloat16_t
// Converts to float by itself, and from other numbers only where the text says so.
struct bfloat {
  unsigned short bits;
  bfloat() = default;
  template <class S, class = msl_scalar<S>> MSL_FN explicit bfloat(S s) : bits(MSL_FLOAT_TO_BFLOAT(float(s))) {}
  MSL_FN operator float() const { return MSL_BFLOAT_TO_FLOAT(bits); }
};
template <> struct msl_is_small_float<bfloat> { static constexpr bool value = true; };
typedef bfloat bfloat16_t;
#define MSL_BFLOAT_OPERATOR(op) \
  MSL_FN bfloat operator op(bfloat a, bfloat b) { return bfloat(float(a) op float(b)); } \
  template <class R> MSL_FN bfloat& operator op##=(bfloat& a, R b) { \
    a = bfloat(float(a) op float(b)); \
    return a; \
  }
MSL_BFLOAT_OPERATOR(+) MSL_BFLOAT_OPERATOR(-) MSL_BFLOAT_OPERATOR(*) MSL_BFLOAT_OPERATOR(/)
#undef MSL_BFLOAT_OPERATOR
MSL_FN bfloat operator-(bfloat a) {
  a.bits ^= 0x8000;
  return a;
}

} // namespace metal
