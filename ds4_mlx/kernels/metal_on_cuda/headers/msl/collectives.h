// What the collectives of a simdgroup are made of on every machine.

namespace metal {

// for: msl_add
struct msl_add { template <class T> MSL_FN T operator()(const T& a, const T& b) const { return T(a + b); } };

// for: msl_multiply
struct msl_multiply { template <class T> MSL_FN T operator()(const T& a, const T& b) const { return T(a * b); } };

// for: msl_max
struct msl_max { template <class T> MSL_FN T operator()(const T& a, const T& b) const { return metal::max(a, b); } };

// for: msl_min
struct msl_min { template <class T> MSL_FN T operator()(const T& a, const T& b) const { return metal::min(a, b); } };

// for: msl_and
struct msl_and { template <class T> MSL_FN T operator()(const T& a, const T& b) const { return T(a & b); } };

// for: msl_or
struct msl_or { template <class T> MSL_FN T operator()(const T& a, const T& b) const { return T(a | b); } };

// for: msl_xor
struct msl_xor { template <class T> MSL_FN T operator()(const T& a, const T& b) const { return T(a ^ b); } };

// for: simd_vote
struct simd_vote {
  ulong votes;
  MSL_FN explicit operator ulong() const { return votes; }
  MSL_FN explicit operator uint() const { return uint(votes); }
  MSL_FN bool all() const { return votes == 0xffffffffu; }
  MSL_FN bool any() const { return votes != 0; }
};

} // namespace metal
