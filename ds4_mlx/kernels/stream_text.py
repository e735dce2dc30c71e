"""Metal text for kernels that write streams: a tile of a sublayer's output goes back, the next site's sums are made."""

# A threadgroup has SIMDGROUPS simdgroups and `TILE` channels, from `first` on, of all tokens. To each simdgroup belong
# the rows of fn from its own number on, SIMDGROUPS apart. They are read before there is anything to multiply them with,
# so that memory is not waited for in the end.
STREAM_TEXT = """
template <uint M, uint N, uint D, uint TILE, uint SIMDGROUPS>
struct Site {
  float rows[(M + SIMDGROUPS - 1) / SIMDGROUPS][N * TILE / 32];
};

template <uint M, uint N, uint D, uint TILE, uint SIMDGROUPS>
METAL_FUNC void load_site(
    thread Site<M, N, D, TILE, SIMDGROUPS>& site, const device float* fn, uint first, uint simdgroup, uint lane) {
  #pragma unroll
  for (uint i = 0; i < (M + SIMDGROUPS - 1) / SIMDGROUPS; i++) {
    #pragma unroll
    for (uint c = 0; c < N * TILE / 32; c++) {
      uint m = simdgroup + i * SIMDGROUPS;
      uint channel = first + (lane + 32 * c) % TILE;
      site.rows[i][c] = m < M && channel < D ? fn[(m * N + (lane + 32 * c) / TILE) * D + channel] : 0.0f;
    }
  }
}

// What writing back needs of the old streams, read early too: EACH channels of new ones are a thread's.
template <uint N, uint EACH> struct Old { float h[EACH][N]; float comb[EACH][N]; float post[EACH]; };

template <uint N, uint D, uint TILE, uint TOKENS, uint THREADS, uint EACH, typename T>
METAL_FUNC void load_old(
    thread Old<N, EACH>& old, const device T* h, const device float* mix, uint first, uint thread_index) {
  #pragma unroll
  for (uint e = 0; e < EACH; e++) {
    uint i = thread_index + e * THREADS;
    uint t = metal::min(i / (N * TILE), TOKENS - 1);
    uint k = i / TILE % N;
    uint channel = metal::min(first + i % TILE, D - 1);
    const device float* gates = mix + t * (N + N * N);
    old.post[e] = gates[k];
    #pragma unroll
    for (uint j = 0; j < N; j++) {
      old.comb[e][j] = gates[N + j * N + k];
      old.h[e][j] = float(h[(t * N + j) * D + channel]);
    }
  }
}

// h'[k] = post[k] * y + sum_j comb[j][k] * h[j], rounded; kept in `z` [TOKENS, N, TILE] too, with zeros past the end.
template <uint N, uint D, uint TILE, uint TOKENS, uint THREADS, uint EACH, typename T>
METAL_FUNC void write_back(
    const thread Old<N, EACH>& old, const threadgroup float* y, uint first, uint thread_index, device T* streams,
    threadgroup float* z) {
  #pragma unroll
  for (uint e = 0; e < EACH; e++) {
    uint i = thread_index + e * THREADS;
    if (i < TOKENS * N * TILE) {
      uint t = i / (N * TILE);
      uint k = i / TILE % N;
      uint channel = first + i % TILE;
      float mixed = 0.0f;
      #pragma unroll
      for (uint j = 0; j < N; j++) { mixed += old.comb[e][j] * old.h[e][j]; }
      T rounded = static_cast<T>(old.post[e] * y[t * TILE + i % TILE] + mixed);
      z[i] = channel < D ? float(rounded) : 0.0f;
      if (channel < D) { streams[(t * N + k) * D + channel] = rounded; }
    }
  }
}

// sums [TOKENS, M + 1, tiles]
template <uint M, uint N, uint D, uint TILE, uint SIMDGROUPS, uint TOKENS>
METAL_FUNC void sum_site(
    const thread Site<M, N, D, TILE, SIMDGROUPS>& site, const threadgroup float* z, uint tile, uint simdgroup,
    uint lane, device float* sums) {
  constexpr uint TILES = (D + TILE - 1) / TILE;
  for (uint t = 0; t < TOKENS; t++) {
    float v[N * TILE / 32];
    float squares = 0.0f;
    #pragma unroll
    for (uint c = 0; c < N * TILE / 32; c++) {
      v[c] = z[t * N * TILE + 32 * c + lane];
      squares += v[c] * v[c];
    }
    device float* row = sums + t * (M + 1) * TILES + tile;
    #pragma unroll
    for (uint i = 0; i < (M + SIMDGROUPS - 1) / SIMDGROUPS; i++) {
      float dot = 0.0f;
      #pragma unroll
      for (uint c = 0; c < N * TILE / 32; c++) { dot += site.rows[i][c] * v[c]; }
      dot = metal::simd_sum(dot);
      uint m = simdgroup + i * SIMDGROUPS;
      if (lane == 0 && m < M) { row[m * TILES] = dot; }
    }
    squares = metal::simd_sum(squares);
    if (lane == 0 && simdgroup == SIMDGROUPS - 1) { row[M * TILES] = squares; }
  }
}
"""
