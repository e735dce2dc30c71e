// Products of simdgroup matrices. Two halves or two bfloats are multiplied by tensor cores, which sum in float in an order
// of their own; other types through shuffles, summed in float in the order of k: right, not fast.

namespace metal {

// for: simdgroup_load
template <class T> MSL_FN void simdgroup_load(
    simdgroup_matrix<T>& m, const T* p, ulong stride = 8, ulong2 origin = ulong2(0), bool transposed = false) {
  const T* mine = p + (origin.y + msl_row(msl_lane())) * stride + origin.x + msl_column(msl_lane());
  if (sizeof(T) == 2 && !transposed && reinterpret_cast<size_t>(mine) % 4 == 0) {  // both elements at once
    const uint word = *reinterpret_cast<const uint*>(mine);
    MSL_MEMCPY(&m.elements, &word, 4);
  } else {
    msl_load(m, p, stride, origin, transposed);
  }
}

// for: simdgroup_store
template <class T> MSL_FN void simdgroup_store(
    const simdgroup_matrix<T>& m, T* p, ulong stride = 8, ulong2 origin = ulong2(0), bool transposed = false) {
  msl_store(m, p, stride, origin, transposed);
}

// for: msl_tensor_product
// (x, y) += the lane's part of left * right for 8x8 matrices of 16-bit floats, two to a word. `mma` multiplies 16 rows;
// the lower eight are zeros here. It wants the right operand by columns, which is what `movmatrix` turns rows into.
#define MSL_TENSOR_PRODUCT(T, name) \
  MSL_FN void msl_tensor_product(float& x, float& y, const vec<T, 2>& left, const vec<T, 2>& right) { \
    uint a, b; \
    float unused0, unused1; \
    MSL_MEMCPY(&a, &left, 4); \
    MSL_MEMCPY(&b, &right, 4); \
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(b) : "r"(b)); \
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32." name "." name ".f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};" \
        : "=f"(x), "=f"(y), "=f"(unused0), "=f"(unused1) \
        : "r"(a), "r"(0), "r"(b), "f"(x), "f"(y), "f"(0.0f), "f"(0.0f)); \
  }
MSL_TENSOR_PRODUCT(half, "f16")
MSL_TENSOR_PRODUCT(bfloat, "bf16")
#undef MSL_TENSOR_PRODUCT
template <class A, class B> MSL_FN void msl_tensor_product(float& x, float& y, const vec<A, 2>& a, const vec<B, 2>& b) {
  const uint row = msl_row(msl_lane()), column = msl_column(msl_lane());
#pragma unroll
  for (uint k = 0; k < 8; k += 2) {
    vec<A, 2> left = msl_shuffle(a, msl_holder(row, k));
    vec<B, 2> upper = msl_shuffle(b, msl_holder(k, column));
    vec<B, 2> lower = msl_shuffle(b, msl_holder(k + 1, column));
    x = ::fmaf(float(left.y), float(lower.x), ::fmaf(float(left.x), float(upper.x), x));
    y = ::fmaf(float(left.y), float(lower.y), ::fmaf(float(left.x), float(upper.y), y));
  }
}

// for: simdgroup_multiply_accumulate
template <class D, class A, class B, class C> MSL_FN void simdgroup_multiply_accumulate(
    simdgroup_matrix<D>& d, const simdgroup_matrix<A>& a, const simdgroup_matrix<B>& b, const simdgroup_matrix<C>& c) {
  float x = float(c.elements.x), y = float(c.elements.y);
  msl_tensor_product(x, y, a.elements, b.elements);
  d.elements.x = D(x);
  d.elements.y = D(y);
}

// for: simdgroup_multiply
template <class D, class A, class B> MSL_FN void simdgroup_multiply(
    simdgroup_matrix<D>& d, const simdgroup_matrix<A>& a, const simdgroup_matrix<B>& b) {
  simdgroup_multiply_accumulate(d, a, b, simdgroup_matrix<float>(0.0f));
}

} // namespace metal
