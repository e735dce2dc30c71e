// 8x8 matrices that the lanes of a simdgroup hold together.
//
// A lane holds two neighbours of one row, (msl_row(lane), msl_column(lane)) and the one after; which, is for the
// platform to say. Kernels must not assume any layout: on CUDA it is not Apple's.

namespace metal {

// for: simdgroup_matrix thread_elements
template <class T, int R = 8, int C = 8> struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "simdgroup matrices are 8x8");
  vec<T, 2> elements;
  simdgroup_matrix() = default;
  MSL_FN explicit simdgroup_matrix(T value) : elements(value) {}
  MSL_FN vec<T, 2>& thread_elements() { return elements; }
};

// for: simdgroup_float8x8
typedef simdgroup_matrix<float> simdgroup_float8x8;

// for: simdgroup_half8x8
typedef simdgroup_matrix<half> simdgroup_half8x8;

// for: simdgroup_bfloat8x8
typedef simdgroup_matrix<bfloat> simdgroup_bfloat8x8;

// for: make_filled_simdgroup_matrix
template <class T, int R, int C> MSL_FN simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T value) {
  return simdgroup_matrix<T, R, C>(value);
}

// for: msl_load
// This lane's two elements of the matrix at `origin` (x: column, y: row); rows are `stride` elements apart.
template <class T>
MSL_FN void msl_load(simdgroup_matrix<T>& m, const T* p, ulong stride, ulong2 origin, bool transposed) {
  ulong row = msl_row(msl_lane()), column = msl_column(msl_lane());
  p += origin.y * stride + origin.x;
  m.elements.x = transposed ? p[column * stride + row] : p[row * stride + column];
  m.elements.y = transposed ? p[(column + 1) * stride + row] : p[row * stride + column + 1];
}

// for: msl_store
template <class T>
MSL_FN void msl_store(const simdgroup_matrix<T>& m, T* p, ulong stride, ulong2 origin, bool transposed) {
  ulong row = msl_row(msl_lane()), column = msl_column(msl_lane());
  p += origin.y * stride + origin.x;
  p[transposed ? column * stride + row : row * stride + column] = m.elements.x;
  p[transposed ? (column + 1) * stride + row : row * stride + column + 1] = m.elements.y;
}

} // namespace metal
