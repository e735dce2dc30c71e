// Words of barriers and atomics, and MLX's index helper.

namespace metal {

// for: mem_flags
enum class mem_flags : unsigned { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
MSL_FN constexpr mem_flags operator|(mem_flags a, mem_flags b) { return mem_flags(unsigned(a) | unsigned(b)); }

// for: memory_order memory_order_relaxed
enum memory_order { memory_order_relaxed = 0 };

// for: elem_to_loc
// Where element number `elem` of an array with these sizes and strides lies. As in MLX's utils.h, the type of `elem` is
// the type that is computed in.
template <class I = long> MSL_FN I elem_to_loc(I elem, const int* shape, const long* strides, int ndim) {
  I location = 0;
  for (int i = ndim - 1; i >= 0; --i) {
    location += (elem % I(shape[i])) * I(strides[i]);
    elem /= I(shape[i]);
  }
  return location;
}

} // namespace metal
