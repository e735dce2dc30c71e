// Lanes hold 8x8 matrices as `mma` wants its left operand and its sums: four lanes to a row.

namespace metal {

// for: msl_row msl_column msl_holder
MSL_FN uint msl_row(uint lane) { return lane / 4; }
MSL_FN uint msl_column(uint lane) { return lane % 4 * 2; }
// The lane that holds (row, column); the first of its two elements if the column is even.
MSL_FN uint msl_holder(uint row, uint column) { return row * 4 + column / 2; }

} // namespace metal
