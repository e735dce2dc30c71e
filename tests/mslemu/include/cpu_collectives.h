// Barriers, and what the lanes of a simdgroup do together: each lane brings its operand to the runtime, waits, and
// reads what the others brought.
#pragma once

namespace metal {
enum msl_kind {
  MSL_SUM, MSL_PRODUCT, MSL_MAX, MSL_MIN, MSL_AND, MSL_OR, MSL_XOR, MSL_ANY, MSL_ALL, MSL_BALLOT,
  MSL_SHUFFLE, MSL_BROADCAST, MSL_SHUFFLE_XOR, MSL_SHUFFLE_DOWN, MSL_SHUFFLE_UP, MSL_ROTATE_DOWN, MSL_ROTATE_UP,
  MSL_FIRST, MSL_INCLUSIVE, MSL_EXCLUSIVE, MSL_QUAD_XOR, MSL_QUAD_BROADCAST, MSL_QUAD_SUM_1, MSL_QUAD_SUM_2,
  MSL_MATRIX_MOVE, MSL_MATRIX_PRODUCT
};

inline void threadgroup_barrier(mem_flags flags, MSL_CALLER) { msl_rt_barrier(true, unsigned(flags), MSL_HERE); }
inline void simdgroup_barrier(mem_flags flags, MSL_CALLER) { msl_rt_barrier(false, unsigned(flags), MSL_HERE); }

// Inlined, to be as unchecked as its callers.
MSL_FN bool msl_takes_part(const msl_collective* c, unsigned lane) { return lane < 32 && ((c->active >> lane) & 1); }

// What `lane` brought; recognisable garbage if it does not take part.
template <class T> MSL_UNCHECKED T msl_operand(const msl_collective* c, unsigned lane, msl_place here) {
  T v;
  if (msl_takes_part(c, lane)) {
    __builtin_memcpy((void*)&v, c->operand[lane], sizeof v);
  } else {
    msl_rt_inactive_lane(here);
    __builtin_memset((void*)&v, 0xFE, sizeof v);
  }
  return v;
}

// The first lane to come back computes for all. Lanes that do not take part count as `identity`.
template <class T, class F> MSL_UNCHECKED T msl_reduce(T v, T identity, F f, int kind, msl_place here) {
  static_assert(sizeof(T) <= MSL_MAX_OPERAND, "operand too large");
  msl_collective* c = msl_rt_collective(&v, sizeof v, kind, here);
  if (!c->reduced) {
    T a[32];
    for (unsigned l = 0; l < 32; l++) { a[l] = msl_takes_part(c, l) ? msl_operand<T>(c, l, here) : identity; }
    if (c->order == 0) {
      for (int apart = 16; apart; apart >>= 1) {
        for (int l = 0; l < apart; l++) { a[l] = f(a[l], a[l + apart]); }
      }
      v = a[0];
    } else if (c->order == 1) {
      v = a[0];
      for (int l = 1; l < 32; l++) { v = f(v, a[l]); }
    } else {
      v = a[31];
      for (int l = 30; l >= 0; l--) { v = f(v, a[l]); }
    }
    __builtin_memcpy(c->result, (void*)&v, sizeof v);
    c->reduced = true;
  }
  __builtin_memcpy((void*)&v, c->result, sizeof v);
  return v;
}

// The identities of max and min: infinities where the type has them.
template <class T> struct msl_extremes {
  static T lowest() { return numeric_limits<T>::lowest(); }
  static T highest() { return numeric_limits<T>::max(); }
};
#define MSL_INFINITE(T) \
  template <> struct msl_extremes<T> { \
    static T lowest() { return T(-MSL_INF); } \
    static T highest() { return T(MSL_INF); } \
  };
MSL_INFINITE(float) MSL_INFINITE(half) MSL_INFINITE(bfloat)
#undef MSL_INFINITE
template <class T, int N> struct msl_extremes<vec<T, N>> {
  static vec<T, N> lowest() { return vec<T, N>(msl_extremes<T>::lowest()); }
  static vec<T, N> highest() { return vec<T, N>(msl_extremes<T>::highest()); }
};

#define MSL_REDUCTION(name, identity, operation, kind) \
  template <class T> inline T name(T v, MSL_CALLER) { return msl_reduce(v, T(identity), operation(), kind, MSL_HERE); }
MSL_REDUCTION(simd_sum, 0.0f, msl_add, MSL_SUM)
MSL_REDUCTION(simd_product, 1.0f, msl_multiply, MSL_PRODUCT)
MSL_REDUCTION(simd_max, msl_extremes<T>::lowest(), msl_max, MSL_MAX)
MSL_REDUCTION(simd_min, msl_extremes<T>::highest(), msl_min, MSL_MIN)
MSL_REDUCTION(simd_and, ~T(0), msl_and, MSL_AND)
MSL_REDUCTION(simd_or, 0, msl_or, MSL_OR)
MSL_REDUCTION(simd_xor, 0, msl_xor, MSL_XOR)
#undef MSL_REDUCTION
inline bool simd_any(bool v, MSL_CALLER) { return msl_reduce(uint(v), 0u, msl_or(), MSL_ANY, MSL_HERE) != 0; }
inline bool simd_all(bool v, MSL_CALLER) { return msl_reduce(uint(v), 1u, msl_and(), MSL_ALL, MSL_HERE) != 0; }
inline simd_vote simd_ballot(bool v, MSL_CALLER) {
  return simd_vote{msl_reduce(v ? 1u << msl_lane() : 0u, 0u, msl_or(), MSL_BALLOT, MSL_HERE)};
}

template <class T> MSL_UNCHECKED T msl_shuffle(T v, unsigned source, int kind, msl_place here) {
  static_assert(sizeof(T) <= MSL_MAX_OPERAND, "operand too large");
  return msl_operand<T>(msl_rt_collective(&v, sizeof v, kind, here), source, here);
}
template <class T> inline T simd_shuffle(T v, ushort lane, MSL_CALLER) {
  return msl_shuffle(v, lane, MSL_SHUFFLE, MSL_HERE);
}
template <class T> inline T simd_broadcast(T v, ushort lane, MSL_CALLER) {
  return msl_shuffle(v, lane, MSL_BROADCAST, MSL_HERE);
}
template <class T> inline T simd_shuffle_xor(T v, ushort mask, MSL_CALLER) {
  return msl_shuffle(v, msl_lane() ^ mask, MSL_SHUFFLE_XOR, MSL_HERE);
}
// A lane without such a neighbour keeps its own value.
template <class T> inline T simd_shuffle_down(T v, ushort by, MSL_CALLER) {
  unsigned lane = msl_lane();
  return msl_shuffle(v, lane + by > 31 ? lane : lane + by, MSL_SHUFFLE_DOWN, MSL_HERE);
}
template <class T> inline T simd_shuffle_up(T v, ushort by, MSL_CALLER) {
  unsigned lane = msl_lane();
  return msl_shuffle(v, lane < by ? lane : lane - by, MSL_SHUFFLE_UP, MSL_HERE);
}
template <class T> inline T simd_shuffle_rotate_down(T v, ushort by, MSL_CALLER) {
  return msl_shuffle(v, (msl_lane() + by) & 31, MSL_ROTATE_DOWN, MSL_HERE);
}
template <class T> inline T simd_shuffle_rotate_up(T v, ushort by, MSL_CALLER) {
  return msl_shuffle(v, (msl_lane() - by) & 31, MSL_ROTATE_UP, MSL_HERE);
}
template <class T> MSL_UNCHECKED T simd_broadcast_first(T v, MSL_CALLER) {
  msl_collective* c = msl_rt_collective(&v, sizeof v, MSL_FIRST, MSL_HERE);
  return msl_operand<T>(c, unsigned(__builtin_ctz(c->active)), MSL_HERE);
}
inline bool simd_is_first(MSL_CALLER) {
  return simd_broadcast_first(msl_lane(), caller_file, caller_line) == msl_lane();
}

// The sum over the first `lanes` lanes.
template <class T> MSL_UNCHECKED T msl_prefix(T v, unsigned lanes, int kind, msl_place here) {
  msl_collective* c = msl_rt_collective(&v, sizeof v, kind, here);
  T sum = T(0);
  for (unsigned l = 0; l < lanes; l++) {
    if (msl_takes_part(c, l)) { sum = T(sum + msl_operand<T>(c, l, here)); }
  }
  return sum;
}
template <class T> inline T simd_prefix_inclusive_sum(T v, MSL_CALLER) {
  return msl_prefix(v, msl_lane() + 1, MSL_INCLUSIVE, MSL_HERE);
}
template <class T> inline T simd_prefix_exclusive_sum(T v, MSL_CALLER) {
  return msl_prefix(v, msl_lane(), MSL_EXCLUSIVE, MSL_HERE);
}

template <class T> inline T quad_shuffle_xor(T v, ushort mask, MSL_CALLER) {
  return msl_shuffle(v, msl_lane() ^ (mask & 3), MSL_QUAD_XOR, MSL_HERE);
}
template <class T> inline T quad_broadcast(T v, ushort lane, MSL_CALLER) {
  return msl_shuffle(v, (msl_lane() & ~3u) | lane, MSL_QUAD_BROADCAST, MSL_HERE);
}
template <class T> inline T quad_sum(T v, MSL_CALLER) {
  v = T(v + msl_shuffle(v, msl_lane() ^ 1, MSL_QUAD_SUM_1, MSL_HERE));
  return T(v + msl_shuffle(v, msl_lane() ^ 2, MSL_QUAD_SUM_2, MSL_HERE));
}
} // namespace metal
