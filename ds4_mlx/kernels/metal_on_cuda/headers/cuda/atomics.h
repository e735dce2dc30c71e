// Relaxed atomics of 32 bits, in device or threadgroup memory.

namespace metal {

// for: atomic atomic_int atomic_uint atomic_float
template <class T> struct atomic { T value; };
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;

// for: atomic_load_explicit atomic_store_explicit
template <class T> MSL_FN T atomic_load_explicit(const atomic<T>* p, memory_order) {
  return *(const volatile T*)&p->value;
}
template <class T, class U> MSL_FN void atomic_store_explicit(atomic<T>* p, U v, memory_order) {
  *(volatile T*)&p->value = T(v);
}

// for: atomic_exchange_explicit
template <class T, class U> MSL_FN T atomic_exchange_explicit(atomic<T>* p, U v, memory_order) {
  return atomicExch(&p->value, T(v));
}

// for: atomic_compare_exchange_weak_explicit
template <class T> MSL_FN bool atomic_compare_exchange_weak_explicit(
    atomic<T>* p, T* expected, T desired, memory_order, memory_order) {
  uint was = atomicCAS((uint*)&p->value, as_type<uint>(*expected), as_type<uint>(desired));
  bool exchanged = was == as_type<uint>(*expected);
  *expected = as_type<T>(was);
  return exchanged;
}

// for: atomic_fetch_add_explicit
template <class T, class U> MSL_FN T atomic_fetch_add_explicit(atomic<T>* p, U v, memory_order) {
  return atomicAdd(&p->value, T(v));
}

// for: atomic_fetch_or_explicit atomic_fetch_and_explicit atomic_fetch_xor_explicit
template <class T, class U> MSL_FN T atomic_fetch_or_explicit(atomic<T>* p, U v, memory_order) {
  return atomicOr(&p->value, T(v));
}
template <class T, class U> MSL_FN T atomic_fetch_and_explicit(atomic<T>* p, U v, memory_order) {
  return atomicAnd(&p->value, T(v));
}
template <class T, class U> MSL_FN T atomic_fetch_xor_explicit(atomic<T>* p, U v, memory_order) {
  return atomicXor(&p->value, T(v));
}

// for: msl_modify
// Tries again until no other thread came between; works for float too, for which CUDA has only the sum.
template <class T, class F> MSL_FN T msl_modify(atomic<T>* p, T v, F f) {
  uint* word = (uint*)&p->value;
  uint seen = *(volatile uint*)word, was;
  do {
    was = seen;
    seen = atomicCAS(word, was, as_type<uint>(f(as_type<T>(was), v)));
  } while (seen != was);
  return as_type<T>(was);
}

// for: atomic_fetch_sub_explicit
struct msl_subtract { template <class T> MSL_FN T operator()(T a, T b) const { return T(a - b); } };
template <class T, class U> MSL_FN T atomic_fetch_sub_explicit(atomic<T>* p, U v, memory_order) {
  return msl_modify(p, T(v), msl_subtract());
}

// for: atomic_fetch_max_explicit
template <class T, class U> MSL_FN T atomic_fetch_max_explicit(atomic<T>* p, U v, memory_order) {
  return msl_modify(p, T(v), msl_max());
}

// for: atomic_fetch_min_explicit
template <class T, class U> MSL_FN T atomic_fetch_min_explicit(atomic<T>* p, U v, memory_order) {
  return msl_modify(p, T(v), msl_min());
}

} // namespace metal
