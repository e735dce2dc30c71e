// Lanes hold 8x8 matrices as MLX's steel kernels assume of Apple's hardware.

namespace metal {

MSL_FN uint msl_row(uint lane) { return ((lane / 4) & 4) + ((lane / 2) % 4); }
MSL_FN uint msl_column(uint lane) { return ((lane / 4) & 2) * 2 + (lane % 2) * 2; }
// The lane that holds (row, column); the first of its two elements if the column is even.
MSL_FN uint msl_holder(uint row, uint column) {
  return (row & 4) * 4 + (column & 4) * 2 + (row & 3) * 2 + ((column >> 1) & 1);
}

} // namespace metal
