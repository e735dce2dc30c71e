"""Metal text for reading dense matrices, in every storage that kernels know.

A storage is the name of a format (`ds4_mlx.quant`) or the safetensors name of a dtype. Each has a struct of pointers,
which says how many neighbouring weights a lane takes at once (WIDE: 16 bytes of them, or more), and overloads

    MATRIX from(MATRIX, size_t first)        the weights from number `first` on, a multiple of 32
    MATRIX::Raw raw(MATRIX, uint n)          weights WIDE * n..WIDE * n + WIDE - 1 as they are stored
    float decoded(Raw, uint h, thread float* w)    8 of them, 8 * h..8 * h + 7, into w; what it returns times w are the
                                                   weights, exactly

NaN, a code that no checkpoint holds, is read as a number from MXFP8.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds4_mlx.quant.formats import FORMATS

_STRUCTS = {"mxfp8": "MXFP8", "q8_0": "Q8", "BF16": "Plain<bfloat16_t>", "F16": "Plain<half>", "F32": "Plain<float>"}
STORAGES = tuple(_STRUCTS)

_MXFP8 = """
struct MXFP8 {
  enum { WIDE = 16 };
  struct Raw { uint4 codes; uint exponent; };
  const device uint* codes;
  const device uchar* scales;
};

METAL_FUNC MXFP8 from(MXFP8 m, size_t first) { return MXFP8{m.codes + first / 4, m.scales + first / 32}; }

METAL_FUNC MXFP8::Raw raw(MXFP8 m, uint n) {
  return MXFP8::Raw{((const device uint4*)m.codes)[n], uint(m.scales[n / 2])};
}

// Codes become halves with the same fields: 2^8 too small, subnormal where the code is.
METAL_FUNC float decoded(MXFP8::Raw m, uint h, thread float* w) {
  #pragma unroll
  for (uint i = 0; i < 4; i++) {
    uint word = (h == 0 ? (i < 2 ? m.codes.x : m.codes.y) : (i < 2 ? m.codes.z : m.codes.w)) << (i % 2 == 0 ? 8 : 0);
    half2 pair = as_type<half2>((word & 0x80008000u) | ((word & 0x7f007f00u) >> 1));
    w[4 * (i / 2) + i % 2] = float(pair.x);
    w[4 * (i / 2) + i % 2 + 2] = float(pair.y);
  }
  return 256.0f * as_type<float>(m.exponent == 0 ? 0x00400000u : m.exponent << 23);
}
"""

_Q8_0 = """
struct Q8 {
  enum { WIDE = 16 };
  struct Raw { uint4 codes; half scale; };
  const device uint* codes;
  const device half* scales;
};

METAL_FUNC Q8 from(Q8 m, size_t first) { return Q8{m.codes + first / 4, m.scales + first / 32}; }

METAL_FUNC Q8::Raw raw(Q8 m, uint n) { return Q8::Raw{((const device uint4*)m.codes)[n], m.scales[n / 2]}; }

// Codes become the mantissas of halves between 1024 and 2048.
METAL_FUNC float decoded(Q8::Raw m, uint h, thread float* w) {
  #pragma unroll
  for (uint i = 0; i < 4; i++) {
    uint word = (h == 0 ? (i < 2 ? m.codes.x : m.codes.y) : (i < 2 ? m.codes.z : m.codes.w)) >> (i % 2 == 0 ? 0 : 8);
    half2 pair = as_type<half2>((word & 0x00ff00ffu) | 0x64006400u);
    w[4 * (i / 2) + i % 2] = float(pair.x) - 1152.0f;
    w[4 * (i / 2) + i % 2 + 2] = float(pair.y) - 1152.0f;
  }
  return float(m.scale);
}
"""

_PLAIN = """
template <typename W> struct Plain {
  enum { WIDE = 8 };
  typedef Eight<W> Raw;
  const device W* weights;
};

template <typename W>
METAL_FUNC Plain<W> from(Plain<W> m, size_t first) { return Plain<W>{m.weights + first}; }

template <typename W>
METAL_FUNC Eight<W> raw(Plain<W> m, uint n) { return eight(m.weights + 8 * n); }

template <typename W>
METAL_FUNC float decoded(Eight<W> m, uint, thread float* w) {
  floats(m, w);
  return 1.0f;
}
"""

# What a simdgroup does: the product of ROWS rows of a matrix, or of several, with all tokens. Weights are decoded once
# for all tokens, and a token's sums are made in the same order however many there are. AHEAD times WIDE weights of each
# row are on their way before the first of them is used: a lane's own loads hide what memory takes to answer.
_PRODUCTS = """
template <typename T> struct Rows { const device T* x; uint stride; };

template <typename T>
METAL_FUNC void read_row(const thread Rows<T>& rows, uint token, uint n, thread float* v) {
  load_8(rows.x + token * rows.stride + 8 * n, v);
}

template <uint ROWS, uint AHEAD, typename M> struct Batch { typename M::Raw raw[AHEAD][ROWS]; };

template <uint ROWS, uint AHEAD, typename M>
METAL_FUNC void load_batch(thread Batch<ROWS, AHEAD, M>& batch, const thread M* row, uint n) {
  #pragma unroll
  for (uint a = 0; a < AHEAD; a++) {
    #pragma unroll
    for (uint r = 0; r < ROWS; r++) { batch.raw[a][r] = raw(row[r], n + 32 * a); }
  }
}

template <uint ROWS, uint TOKENS, uint AHEAD, typename M, typename X>
METAL_FUNC void add_batch(const thread Batch<ROWS, AHEAD, M>& batch, const thread X& rows, uint n, thread float* sums) {
  #pragma unroll
  for (uint a = 0; a < AHEAD; a++) {
    #pragma unroll
    for (uint h = 0; h < M::WIDE / 8; h++) {
      float w[ROWS][8];
      float scales[ROWS];
      #pragma unroll
      for (uint r = 0; r < ROWS; r++) { scales[r] = decoded(batch.raw[a][r], h, w[r]); }
      #pragma unroll
      for (uint t = 0; t < TOKENS; t++) {
        float v[8];
        read_row(rows, t, (n + 32 * a) * (M::WIDE / 8) + h, v);
        #pragma unroll
        for (uint r = 0; r < ROWS; r++) {
          float dot = 0.0f;
          #pragma unroll
          for (int i = 0; i < 8; i++) { dot += w[r][i] * v[i]; }
          sums[r * TOKENS + t] += scales[r] * dot;
        }
      }
    }
  }
}

// sums[r * TOKENS + t]: row r times token t, the same in every lane. `batch` is the first one, where a row has it.
template <uint K, uint ROWS, uint TOKENS, uint AHEAD, typename M, typename X>
METAL_FUNC void products_of(
    const thread M* row, thread Batch<ROWS, AHEAD, M>& batch, const thread X& rows, uint lane, thread float* sums) {
  constexpr uint UNITS = K / M::WIDE;
  constexpr uint WHOLE = UNITS / (32 * AHEAD) * (32 * AHEAD);
  #pragma unroll
  for (uint i = 0; i < ROWS * TOKENS; i++) { sums[i] = 0.0f; }
  for (uint first = 0; first < WHOLE; first += 32 * AHEAD) {
    if (first != 0) { load_batch(batch, row, first + lane); }
    add_batch<ROWS, TOKENS>(batch, rows, first + lane, sums);
  }
  for (uint n = WHOLE + lane; n < UNITS; n += 32) {
    Batch<ROWS, 1, M> rest;
    load_batch(rest, row, n);
    add_batch<ROWS, TOKENS>(rest, rows, n, sums);
  }
  #pragma unroll
  for (uint i = 0; i < ROWS * TOKENS; i++) { sums[i] = metal::simd_sum(sums[i]); }
}

// The first batch of rows; nothing where they are shorter.
template <uint K, uint ROWS, uint AHEAD, typename M>
METAL_FUNC void begin_products(thread Batch<ROWS, AHEAD, M>& batch, const thread M* row, uint lane) {
  if (K / M::WIDE >= 32 * AHEAD) { load_batch(batch, row, lane); }
}

// Rows from row0 on of a matrix with `count` of them; the last one again where there are no more.
template <uint K, uint ROWS, typename M>
METAL_FUNC void rows_from(M matrix, uint row0, uint count, thread M* row) {
  #pragma unroll
  for (uint r = 0; r < ROWS; r++) { row[r] = from(matrix, size_t(metal::min(row0 + r, count - 1)) * K); }
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


def matrix_type(storage: str) -> str:
    """The struct of matrices in that storage."""
    return _STRUCTS[storage]


def matrix_text(storage: str, matrix: str) -> str:
    """The expression for the struct of that matrix."""
    return f"{_STRUCTS[storage]}{{{', '.join(arrays_of(storage, matrix))}}}"
