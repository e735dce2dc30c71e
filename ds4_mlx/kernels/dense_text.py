"""Metal text for reading dense matrices: 8 neighbouring weights at a time, in every storage that kernels know.

A storage is the name of a format (`ds4_mlx.quant`) or the safetensors name of a dtype. Each has a struct of pointers
and an overload

    MATRIX from(MATRIX, size_t first)                 the weights from number `first` on, a multiple of 32
    float read_8(MATRIX, uint n, thread float* w)     reads weights 8n..8n + 7 into w; what it returns times w are the
                                                      weights, exactly

NaN, a code that no checkpoint holds, is read as a number from MXFP8.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds4_mlx.quant.formats import FORMATS

_STRUCTS = {"mxfp8": "MXFP8", "q8_0": "Q8", "BF16": "Plain<bfloat16_t>", "F16": "Plain<half>", "F32": "Plain<float>"}
STORAGES = tuple(_STRUCTS)

_MXFP8 = """
struct MXFP8 { const device uint* codes; const device uchar* scales; };

METAL_FUNC MXFP8 from(MXFP8 m, size_t first) { return MXFP8{m.codes + first / 4, m.scales + first / 32}; }

// Codes become halves with the same fields: 2^8 too small, subnormal where the code is.
METAL_FUNC float read_8(MXFP8 m, uint n, thread float* w) {
  uint2 words = ((const device uint2*)m.codes)[n];
  #pragma unroll
  for (int i = 0; i < 4; i++) {
    uint word = (i < 2 ? words.x : words.y) << (i % 2 == 0 ? 8 : 0);
    half2 pair = as_type<half2>((word & 0x80008000u) | ((word & 0x7f007f00u) >> 1));
    w[4 * (i / 2) + i % 2] = float(pair.x);
    w[4 * (i / 2) + i % 2 + 2] = float(pair.y);
  }
  uint exponent = uint(m.scales[n / 4]);
  return 256.0f * as_type<float>(exponent == 0 ? 0x00400000u : exponent << 23);
}
"""

_Q8_0 = """
struct Q8 { const device uint* codes; const device half* scales; };

METAL_FUNC Q8 from(Q8 m, size_t first) { return Q8{m.codes + first / 4, m.scales + first / 32}; }

// Codes become the mantissas of halves between 1024 and 2048.
METAL_FUNC float read_8(Q8 m, uint n, thread float* w) {
  uint2 words = ((const device uint2*)m.codes)[n];
  #pragma unroll
  for (int i = 0; i < 4; i++) {
    uint word = (i < 2 ? words.x : words.y) >> (i % 2 == 0 ? 0 : 8);
    half2 pair = as_type<half2>((word & 0x00ff00ffu) | 0x64006400u);
    w[4 * (i / 2) + i % 2] = float(pair.x) - 1152.0f;
    w[4 * (i / 2) + i % 2 + 2] = float(pair.y) - 1152.0f;
  }
  return float(m.scales[n / 4]);
}
"""

_PLAIN = """
template <typename W> struct Plain { const device W* weights; };

template <typename W>
METAL_FUNC Plain<W> from(Plain<W> m, size_t first) { return Plain<W>{m.weights + first}; }

template <typename W>
METAL_FUNC float read_8(Plain<W> m, uint n, thread float* w) {
  load_8(m.weights + 8 * n, w);
  return 1.0f;
}
"""

# What a simdgroup does: ROWS rows of a matrix with `count` of them times all tokens. Weights are decoded once for all
# tokens, and a token's sums are made in the same order however many there are.
_PRODUCTS = """
template <typename T> struct Rows { const device T* x; uint stride; };

template <typename T>
METAL_FUNC void read_row(const thread Rows<T>& rows, uint token, uint n, thread float* v) {
  load_8(rows.x + token * rows.stride + 8 * n, v);
}

// sums[r * TOKENS + t]: row r times token t, the same in every lane
template <uint K, uint ROWS, uint TOKENS, typename M, typename X>
METAL_FUNC void products_of(M matrix, const thread X& rows, uint row0, uint count, uint lane, thread float* sums) {
  #pragma unroll
  for (uint i = 0; i < ROWS * TOKENS; i++) { sums[i] = 0.0f; }
  M row[ROWS];
  #pragma unroll
  for (uint r = 0; r < ROWS; r++) { row[r] = from(matrix, size_t(metal::min(row0 + r, count - 1)) * K); }
  #pragma unroll 4
  for (uint n = lane; n < K / 8; n += 32) {
    float w[ROWS][8];
    float scales[ROWS];
    #pragma unroll
    for (uint r = 0; r < ROWS; r++) { scales[r] = read_8(row[r], n, w[r]); }
    #pragma unroll
    for (uint t = 0; t < TOKENS; t++) {
      float v[8];
      read_row(rows, t, n, v);
      #pragma unroll
      for (uint r = 0; r < ROWS; r++) {
        float dot = 0.0f;
        #pragma unroll
        for (int i = 0; i < 8; i++) { dot += w[r][i] * v[i]; }
        sums[r * TOKENS + t] += scales[r] * dot;
      }
    }
  }
  #pragma unroll
  for (uint i = 0; i < ROWS * TOKENS; i++) { sums[i] = metal::simd_sum(sums[i]); }
}
"""


def products_text(storages: Sequence[str]) -> str:
    """`products_of` and what it needs for matrices in these storages, except for `LOAD_8`."""
    used = {_STRUCTS[storage].partition("<")[0] for storage in storages}
    texts = {"MXFP8": _MXFP8, "Q8": _Q8_0, "Plain": _PLAIN}
    return "".join(text for name, text in texts.items() if name in used) + _PRODUCTS


def arrays_of(storage: str, matrix: str) -> list[str]:
    """The names of a matrix's arrays among a kernel's inputs."""
    parts = [part.name for part in FORMATS[storage].parts] if storage in FORMATS else ["weight"]
    return [f"{matrix}_{part}" for part in parts]


def matrix_text(storage: str, matrix: str) -> str:
    """The expression for the struct of that matrix."""
    return f"{_STRUCTS[storage]}{{{', '.join(arrays_of(storage, matrix))}}}"
