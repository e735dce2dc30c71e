// Componentwise operators; a scalar operand counts for every component.

namespace metal {

// for: vector_operators
#define MSL_ARITHMETIC_OPERATOR(op) \
  template <class T, int N> MSL_FN vec<T, N> operator op(const vec<T, N>& a, const vec<T, N>& b) { \
    vec<T, N> r; \
    for (int i = 0; i < N; i++) { r[i] = T(a[i] op b[i]); } \
    return r; \
  } \
  template <class T, int N, class S, MSL_IF_SCALAR(S)> MSL_FN vec<T, N> operator op(const vec<T, N>& a, S s) { \
    return a op vec<T, N>(s); \
  } \
  template <class T, int N, class S, MSL_IF_SCALAR(S)> MSL_FN vec<T, N> operator op(S s, const vec<T, N>& a) { \
    return vec<T, N>(s) op a; \
  } \
  template <class T, int N, class B> MSL_FN vec<T, N>& operator op##=(vec<T, N>& a, const B& b) { \
    a = a op b; \
    return a; \
  }
MSL_ARITHMETIC_OPERATOR(+) MSL_ARITHMETIC_OPERATOR(-) MSL_ARITHMETIC_OPERATOR(*) MSL_ARITHMETIC_OPERATOR(/)
MSL_ARITHMETIC_OPERATOR(%) MSL_ARITHMETIC_OPERATOR(&) MSL_ARITHMETIC_OPERATOR(|) MSL_ARITHMETIC_OPERATOR(^)
MSL_ARITHMETIC_OPERATOR(<<) MSL_ARITHMETIC_OPERATOR(>>)
#undef MSL_ARITHMETIC_OPERATOR

// for: vector_operators
#define MSL_COMPARISON(op) \
  template <class T, int N> MSL_FN vec<bool, N> operator op(const vec<T, N>& a, const vec<T, N>& b) { \
    vec<bool, N> r; \
    for (int i = 0; i < N; i++) { r[i] = a[i] op b[i]; } \
    return r; \
  } \
  template <class T, int N, class S, MSL_IF_SCALAR(S)> MSL_FN vec<bool, N> operator op(const vec<T, N>& a, S s) { \
    return a op vec<T, N>(s); \
  } \
  template <class T, int N, class S, MSL_IF_SCALAR(S)> MSL_FN vec<bool, N> operator op(S s, const vec<T, N>& a) { \
    return vec<T, N>(s) op a; \
  }
MSL_COMPARISON(<) MSL_COMPARISON(>) MSL_COMPARISON(<=) MSL_COMPARISON(>=) MSL_COMPARISON(==) MSL_COMPARISON(!=)
MSL_COMPARISON(&&) MSL_COMPARISON(||)
#undef MSL_COMPARISON

// for: vector_operators
#define MSL_PREFIX_OPERATOR(op) \
  template <class T, int N> MSL_FN vec<T, N> operator op(const vec<T, N>& a) { \
    vec<T, N> r; \
    for (int i = 0; i < N; i++) { r[i] = T(op a[i]); } \
    return r; \
  }
MSL_PREFIX_OPERATOR(-) MSL_PREFIX_OPERATOR(~) MSL_PREFIX_OPERATOR(!)
#undef MSL_PREFIX_OPERATOR

// for: any
template <int N> MSL_FN bool any(const vec<bool, N>& a) {
  bool r = false;
  for (int i = 0; i < N; i++) { r = r || a[i]; }
  return r;
}

// for: all
template <int N> MSL_FN bool all(const vec<bool, N>& a) {
  bool r = true;
  for (int i = 0; i < N; i++) { r = r && a[i]; }
  return r;
}

} // namespace metal
