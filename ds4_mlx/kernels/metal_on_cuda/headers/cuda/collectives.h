// Barriers and what the lanes of a simdgroup do together. Masks are full: all 32 lanes must arrive, as the emulator's
// strict mode proves.

namespace metal {

// for: threadgroup_barrier
// CUDA's barriers order all memory within the block, so every mem_flags is covered.
MSL_FN void threadgroup_barrier(mem_flags) { __syncthreads(); }

// for: simdgroup_barrier
MSL_FN void simdgroup_barrier(mem_flags) { __syncwarp(); }

// for: msl_shuffle
// The value of lane `source`, of any size, in words.
template <class T> MSL_FN T msl_shuffle(T v, uint source) {
  uint words[(sizeof(T) + 3) / 4] = {};
  MSL_MEMCPY(words, &v, sizeof(T));
  for (unsigned i = 0; i < (sizeof(T) + 3) / 4; i++) { words[i] = __shfl_sync(0xffffffffu, words[i], source); }
  MSL_MEMCPY(&v, words, sizeof(T));
  return v;
}

// for: msl_reduce
template <class T, class F> MSL_FN T msl_reduce(T v, F f) {
  for (int apart = 16; apart; apart >>= 1) { v = f(v, msl_shuffle(v, msl_lane() ^ apart)); }
  return v;
}

// for: simd_sum
template <class T> MSL_FN T simd_sum(T v) { return msl_reduce(v, msl_add()); }

// for: simd_product
template <class T> MSL_FN T simd_product(T v) { return msl_reduce(v, msl_multiply()); }

// for: simd_max
template <class T> MSL_FN T simd_max(T v) { return msl_reduce(v, msl_max()); }

// for: simd_min
template <class T> MSL_FN T simd_min(T v) { return msl_reduce(v, msl_min()); }

// for: simd_and
template <class T> MSL_FN T simd_and(T v) { return msl_reduce(v, msl_and()); }

// for: simd_or
template <class T> MSL_FN T simd_or(T v) { return msl_reduce(v, msl_or()); }

// for: simd_xor
template <class T> MSL_FN T simd_xor(T v) { return msl_reduce(v, msl_xor()); }

// for: simd_any simd_all simd_is_first
MSL_FN bool simd_any(bool v) { return __any_sync(0xffffffffu, v); }
MSL_FN bool simd_all(bool v) { return __all_sync(0xffffffffu, v); }
MSL_FN bool simd_is_first() { return msl_lane() == 0; }

// for: simd_ballot
MSL_FN simd_vote simd_ballot(bool v) { return simd_vote{__ballot_sync(0xffffffffu, v)}; }

// for: simd_shuffle simd_broadcast simd_broadcast_first
template <class T> MSL_FN T simd_shuffle(T v, ushort lane) { return msl_shuffle(v, lane); }
template <class T> MSL_FN T simd_broadcast(T v, ushort lane) { return msl_shuffle(v, lane); }
template <class T> MSL_FN T simd_broadcast_first(T v) { return msl_shuffle(v, 0); }

// for: simd_shuffle_xor
template <class T> MSL_FN T simd_shuffle_xor(T v, ushort mask) { return msl_shuffle(v, msl_lane() ^ mask); }

// for: simd_shuffle_down simd_shuffle_up
// A lane without such a neighbour keeps its own value.
template <class T> MSL_FN T simd_shuffle_down(T v, ushort by) {
  uint lane = msl_lane();
  return msl_shuffle(v, lane + by > 31 ? lane : lane + by);
}
template <class T> MSL_FN T simd_shuffle_up(T v, ushort by) {
  uint lane = msl_lane();
  return msl_shuffle(v, lane < by ? lane : lane - by);
}

// for: simd_shuffle_rotate_down simd_shuffle_rotate_up
template <class T> MSL_FN T simd_shuffle_rotate_down(T v, ushort by) { return msl_shuffle(v, (msl_lane() + by) & 31); }
template <class T> MSL_FN T simd_shuffle_rotate_up(T v, ushort by) { return msl_shuffle(v, (msl_lane() - by) & 31); }

// for: simd_prefix_inclusive_sum simd_prefix_exclusive_sum
template <class T> MSL_FN T simd_prefix_inclusive_sum(T v) {
  for (uint by = 1; by < 32; by *= 2) {
    uint lane = msl_lane();
    T below = msl_shuffle(v, lane < by ? lane : lane - by);
    if (lane >= by) { v = T(v + below); }
  }
  return v;
}
template <class T> MSL_FN T simd_prefix_exclusive_sum(T v) {
  uint lane = msl_lane();
  T below = msl_shuffle(simd_prefix_inclusive_sum(v), lane == 0 ? 0 : lane - 1);
  return lane == 0 ? T(0) : below;
}

// for: quad_shuffle_xor quad_broadcast quad_sum
template <class T> MSL_FN T quad_shuffle_xor(T v, ushort mask) { return msl_shuffle(v, msl_lane() ^ (mask & 3)); }
template <class T> MSL_FN T quad_broadcast(T v, ushort lane) { return msl_shuffle(v, (msl_lane() & ~3u) | lane); }
template <class T> MSL_FN T quad_sum(T v) {
  v = T(v + msl_shuffle(v, msl_lane() ^ 1));
  return T(v + msl_shuffle(v, msl_lane() ^ 2));
}

} // namespace metal
