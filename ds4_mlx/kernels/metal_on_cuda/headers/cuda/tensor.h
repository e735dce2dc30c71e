// What the texts of kernels define for themselves unless TENSOR_CORES is defined: see kernels/tensor_text.py.

namespace metal {

// for: TENSOR_CORES
#define TENSOR_CORES 1

// for: half_pair
MSL_FN uint half_pair(float low, float high) {
  uint pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// for: multiply_pairs
MSL_FN uint multiply_pairs(uint a, uint b) {
  uint product;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(a), "r"(b));
  return product;
}

// for: Left32 Right32
template <class H> struct Left32 { simdgroup_matrix<H> parts[8]; };
template <class H> struct Right32 { simdgroup_matrix<H> parts[4]; };

// for: load_left load_right
// Floats: as Metal would. Halves: the right operand stays turned, as `mma` wants it.
template <class H> MSL_FN void load_left(Left32<H>& m, const H* p, uint stride) {
  for (uint i = 0; i < 8; i++) { simdgroup_load(m.parts[i], p + i % 2 * 8 * stride + i / 2 * 8, stride); }
}
template <class H> MSL_FN void load_right(Right32<H>& m, const H* p, uint stride) {
  for (uint i = 0; i < 4; i++) { simdgroup_load(m.parts[i], p + 8 * i, stride, ulong2(0), true); }
}
MSL_FN void msl_load_4(simdgroup_matrix<half>* parts, const half* p) {
  uint a, b, c, d;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(a), "=r"(b), "=r"(c), "=r"(d) : "r"(uint(__cvta_generic_to_shared(p))) : "memory");
  MSL_MEMCPY(&parts[0].elements, &a, 4);
  MSL_MEMCPY(&parts[1].elements, &b, 4);
  MSL_MEMCPY(&parts[2].elements, &c, 4);
  MSL_MEMCPY(&parts[3].elements, &d, 4);
}
MSL_FN void load_left(Left32<half>& m, const half* p, uint stride) {
  const half* mine = p + msl_lane() % 16 * stride + msl_lane() / 16 * 8;
  msl_load_4(m.parts, mine);
  msl_load_4(m.parts + 4, mine + 16);
}
MSL_FN void load_right(Right32<half>& m, const half* p, uint stride) {
  msl_load_4(m.parts, p + msl_lane() % 8 * stride + msl_lane() / 8 * 8);
}

// for: multiply_32
template <class H> MSL_FN void multiply_32(
    simdgroup_matrix<float>& upper, simdgroup_matrix<float>& lower, const Left32<H>& left, const Right32<H>& right) {
  for (uint i = 0; i < 4; i++) {
    simdgroup_multiply_accumulate(upper, left.parts[2 * i], right.parts[i], upper);
    simdgroup_multiply_accumulate(lower, left.parts[2 * i + 1], right.parts[i], lower);
  }
}
MSL_FN void multiply_32(
    simdgroup_matrix<float>& upper, simdgroup_matrix<float>& lower, const Left32<half>& left, const Right32<half>& right) {
  #pragma unroll
  for (uint i = 0; i < 2; i++) {
    uint a[4], b[2];
    for (uint j = 0; j < 4; j++) { MSL_MEMCPY(&a[j], &left.parts[4 * i + j].elements, 4); }
    for (uint j = 0; j < 2; j++) { MSL_MEMCPY(&b[j], &right.parts[2 * i + j].elements, 4); }
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(upper.elements.x), "+f"(upper.elements.y), "+f"(lower.elements.x), "+f"(lower.elements.y)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// for: Shares Values
template <class H, int K> struct Shares { simdgroup_matrix<H> parts[K / 4]; };
template <class H, int K> struct Values { simdgroup_matrix<H> parts[K / 4]; };

// for: load_shares load_values
// Floats: as Metal would. Halves: values are turned as they are loaded, as `mma` wants them.
template <class H, int K> MSL_FN void load_shares(Shares<H, K>& m, const H* p, uint stride) {
  for (uint i = 0; i < K / 4; i++) { simdgroup_load(m.parts[i], p + i % 2 * 8 * stride + i / 2 * 8, stride); }
}
template <class H, int K> MSL_FN void load_values(Values<H, K>& m, const H* p, uint stride) {
  for (uint i = 0; i < K / 4; i++) { simdgroup_load(m.parts[i], p + i / 2 * 8 * stride + i % 2 * 8, stride); }
}
MSL_FN void load_shares(Shares<half, 16>& m, const half* p, uint stride) {
  msl_load_4(m.parts, p + msl_lane() % 16 * stride + msl_lane() / 16 * 8);
}
MSL_FN void load_values(Values<half, 16>& m, const half* p, uint stride) {
  uint parts[4];
  const half* mine = p + msl_lane() % 16 * stride + msl_lane() / 16 * 8;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
      : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
      : "r"(uint(__cvta_generic_to_shared(mine))) : "memory");
  // Both blocks of eight rows first, then the next eight columns.
  for (uint i = 0; i < 4; i++) { MSL_MEMCPY(&m.parts[i].elements, &parts[i], 4); }
}

// for: add_shares
template <class H, int K> MSL_FN void add_shares(
    simdgroup_matrix<float>* sums, const Shares<H, K>& shares, const Values<H, K>& values) {
  for (uint k = 0; k < K / 8; k++) {
    for (uint i = 0; i < 4; i++) {
      simdgroup_multiply_accumulate(sums[i], shares.parts[2 * k + i % 2], values.parts[2 * k + i / 2], sums[i]);
    }
  }
}
MSL_FN void add_shares(simdgroup_matrix<float>* sums, const Shares<half, 16>& shares, const Values<half, 16>& values) {
  uint a[4];
  #pragma unroll
  for (uint j = 0; j < 4; j++) { MSL_MEMCPY(&a[j], &shares.parts[j].elements, 4); }
  #pragma unroll
  for (uint n = 0; n < 2; n++) {
    uint b[2];
    for (uint j = 0; j < 2; j++) { MSL_MEMCPY(&b[j], &values.parts[2 * n + j].elements, 4); }
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[2 * n].elements.x), "+f"(sums[2 * n].elements.y),
          "+f"(sums[2 * n + 1].elements.x), "+f"(sums[2 * n + 1].elements.y)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// for: permute_bytes
// Byte i of the result is the one of (low, high) that bits 4 i to 4 i + 2 of `chosen` number; bit 4 i + 3 is zero.
MSL_FN uint permute_bytes(uint low, uint high, uint chosen) {
  uint bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(chosen));
  return bytes;
}

// for: multiply_columns
// sums += left * right: 16 rows of 16 columns, of which a lane has four pairs; 8 columns, of which it has two.
template <bool HALF> MSL_FN void multiply_columns(float* sums, uint a0, uint a1, uint a2, uint a3, uint b0, uint b1) {
  if (HALF) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

} // namespace metal
