// Simdgroup matrices: loads and stores through plain memory, products summed in float in the order of k.
#pragma once

namespace metal {
// All lanes must arrive, though each could do its part alone.
inline void msl_arrive(msl_place here) {
  char nothing = 0;
  msl_rt_collective(&nothing, 1, MSL_MATRIX_MOVE, here);
}
template <class T> MSL_FN void simdgroup_load(
    simdgroup_matrix<T>& m, const T* p, ulong stride = 8, ulong2 origin = ulong2(0), bool transposed = false,
    MSL_CALLER) {
  msl_arrive(MSL_HERE);
  msl_load(m, p, stride, origin, transposed);
}
template <class T> MSL_FN void simdgroup_store(
    const simdgroup_matrix<T>& m, T* p, ulong stride = 8, ulong2 origin = ulong2(0), bool transposed = false,
    MSL_CALLER) {
  msl_arrive(MSL_HERE);
  msl_store(m, p, stride, origin, transposed);
}

template <class A, class B> struct msl_factors {
  vec<A, 2> left;
  vec<B, 2> right;
};
template <class D, class A, class B, class C> MSL_UNCHECKED void msl_multiply_accumulate(
    simdgroup_matrix<D>& d, const simdgroup_matrix<A>& a, const simdgroup_matrix<B>& b, const simdgroup_matrix<C>& c,
    msl_place here) {
  typedef msl_factors<A, B> Factors;
  Factors mine{a.elements, b.elements};
  msl_collective* all = msl_rt_collective(&mine, sizeof mine, MSL_MATRIX_PRODUCT, here);
  const unsigned row = msl_row(msl_lane()), column = msl_column(msl_lane());
  float x = float(c.elements.x), y = float(c.elements.y);
  for (unsigned k = 0; k < 8; k++) {
    Factors left = msl_operand<Factors>(all, msl_holder(row, k), here);
    Factors right = msl_operand<Factors>(all, msl_holder(k, column), here);
    float factor = float(left.left[k & 1]);
    x = __builtin_fmaf(factor, float(right.right.x), x);
    y = __builtin_fmaf(factor, float(right.right.y), y);
  }
  d.elements.x = D(x);
  d.elements.y = D(y);
}
template <class D, class A, class B, class C> inline void simdgroup_multiply_accumulate(
    simdgroup_matrix<D>& d, const simdgroup_matrix<A>& a, const simdgroup_matrix<B>& b, const simdgroup_matrix<C>& c,
    MSL_CALLER) {
  msl_multiply_accumulate(d, a, b, c, MSL_HERE);
}
template <class D, class A, class B> inline void simdgroup_multiply(
    simdgroup_matrix<D>& d, const simdgroup_matrix<A>& a, const simdgroup_matrix<B>& b, MSL_CALLER) {
  msl_multiply_accumulate(d, a, b, simdgroup_matrix<float>(0.0f), MSL_HERE);
}
} // namespace metal
