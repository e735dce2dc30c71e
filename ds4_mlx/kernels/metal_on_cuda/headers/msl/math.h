// Functions of floats: float does the work, half and bfloat round once, vectors go by component.
// `V::self` exists in vectors only; it keeps their overloads apart from the scalars'.

namespace metal {

// for: MSL_FUNCTION1
#define MSL_FUNCTION1(name, result) \
  MSL_FN float name(float x) { return result; } \
  template <class T> MSL_FN msl_small_float<T> name(T x) { return T(name(float(x))); } \
  template <class V> MSL_FN typename V::self name(V a) { \
    for (int i = 0; i < V::size; i++) { a[i] = name(a[i]); } \
    return a; \
  }

// for: MSL_FUNCTION2
#define MSL_FUNCTION2(name, result) \
  MSL_FN float name(float x, float y) { return result; } \
  template <class T> MSL_FN msl_small_float<T> name(T x, T y) { return T(name(float(x), float(y))); } \
  template <class V> MSL_FN typename V::self name(V a, V b) { \
    for (int i = 0; i < V::size; i++) { a[i] = name(a[i], b[i]); } \
    return a; \
  }

// for: MSL_MATH1
// Those that Metal also has as fast:: and precise::. Here all three are the same, C's own.
#define MSL_MATH1(name, result) \
  MSL_FUNCTION1(name, result) \
  namespace fast { using metal::name; } \
  namespace precise { using metal::name; }

// for: MSL_MATH2
#define MSL_MATH2(name, result) \
  MSL_FUNCTION2(name, result) \
  namespace fast { using metal::name; } \
  namespace precise { using metal::name; }

// for: exp
MSL_MATH1(exp, MSL_BUILTIN(expf)(x))

// for: exp2
MSL_MATH1(exp2, MSL_BUILTIN(exp2f)(x))

// for: exp10
MSL_MATH1(exp10, MSL_BUILTIN(exp10f)(x))

// for: log
MSL_MATH1(log, MSL_BUILTIN(logf)(x))

// for: log2
MSL_MATH1(log2, MSL_BUILTIN(log2f)(x))

// for: log10
MSL_MATH1(log10, MSL_BUILTIN(log10f)(x))

// for: sqrt
MSL_MATH1(sqrt, MSL_BUILTIN(sqrtf)(x))

// for: rsqrt
MSL_MATH1(rsqrt, 1.0f / MSL_BUILTIN(sqrtf)(x))

// for: sin cos tan
MSL_MATH1(sin, MSL_BUILTIN(sinf)(x))
MSL_MATH1(cos, MSL_BUILTIN(cosf)(x))
MSL_MATH1(tan, MSL_BUILTIN(tanf)(x))

// for: sinh cosh tanh
MSL_MATH1(sinh, MSL_BUILTIN(sinhf)(x))
MSL_MATH1(cosh, MSL_BUILTIN(coshf)(x))
MSL_MATH1(tanh, MSL_BUILTIN(tanhf)(x))

// for: asin acos atan atan2
MSL_MATH1(asin, MSL_BUILTIN(asinf)(x))
MSL_MATH1(acos, MSL_BUILTIN(acosf)(x))
MSL_MATH1(atan, MSL_BUILTIN(atanf)(x))
MSL_MATH2(atan2, MSL_BUILTIN(atan2f)(x, y))

// for: pow powr
MSL_MATH2(pow, MSL_BUILTIN(powf)(x, y))
MSL_MATH2(powr, MSL_BUILTIN(powf)(x, y))

// for: fmod
MSL_MATH2(fmod, MSL_BUILTIN(fmodf)(x, y))

// for: floor ceil trunc rint round fract
MSL_FUNCTION1(floor, MSL_BUILTIN(floorf)(x))
MSL_FUNCTION1(ceil, MSL_BUILTIN(ceilf)(x))
MSL_FUNCTION1(trunc, MSL_BUILTIN(truncf)(x))
MSL_FUNCTION1(rint, MSL_BUILTIN(rintf)(x))
MSL_FUNCTION1(round, MSL_BUILTIN(roundf)(x))
MSL_FUNCTION1(fract, x - MSL_BUILTIN(floorf)(x))

// for: fabs
MSL_FUNCTION1(fabs, MSL_BUILTIN(fabsf)(x))

// for: sign copysign step
MSL_FUNCTION1(sign, x > 0.0f ? 1.0f : (x < 0.0f ? -1.0f : x))
MSL_FUNCTION2(copysign, MSL_BUILTIN(copysignf)(x, y))
MSL_FUNCTION2(step, y < x ? 0.0f : 1.0f)

// for: saturate
MSL_FUNCTION1(saturate, !(x > 0.0f) ? 0.0f : (x > 1.0f ? 1.0f : x))

// for: fmin fmax
MSL_FUNCTION2(fmin, MSL_BUILTIN(fminf)(x, y))
MSL_FUNCTION2(fmax, MSL_BUILTIN(fmaxf)(x, y))

// for: fma
// A float holds the exact product of two halfs or bfloats, so the sum is rounded twice at most.
MSL_FN float fma(float a, float b, float c) { return MSL_BUILTIN(fmaf)(a, b, c); }
template <class T> MSL_FN msl_small_float<T> fma(T a, T b, T c) { return T(fma(float(a), float(b), float(c))); }
template <class V> MSL_FN typename V::self fma(V a, V b, V c) {
  for (int i = 0; i < V::size; i++) { a[i] = fma(a[i], b[i], c[i]); }
  return a;
}

// for: isnan isinf isfinite
MSL_FN bool isnan(float x) { return x != x; }
MSL_FN bool isinf(float x) { return MSL_BUILTIN(fabsf)(x) == MSL_INF; }
MSL_FN bool isfinite(float x) { return MSL_BUILTIN(fabsf)(x) < MSL_INF; }

// for: ldexp
MSL_FN float ldexp(float x, int exponent) { return MSL_BUILTIN(ldexpf)(x, exponent); }

// for: mix
template <class T> MSL_FN T mix(T a, T b, T t) { return a + (b - a) * t; }

// for: dot
template <class T, int N> MSL_FN T dot(const vec<T, N>& a, const vec<T, N>& b) {
  T r = a[0] * b[0];
  for (int i = 1; i < N; i++) { r = r + a[i] * b[i]; }
  return r;
}

// for: length
template <class T, int N> MSL_FN T length(const vec<T, N>& a) { return sqrt(dot(a, a)); }

} // namespace metal
