// Metal's macros for numbers. CUDA defines some of them itself.

// for: INFINITY
#ifndef INFINITY
#define INFINITY MSL_INF
#endif

// for: NAN
#ifndef NAN
#define NAN MSL_NAN
#endif

// for: FLT_MAX FLT_MIN FLT_EPSILON
#ifndef FLT_MAX
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#endif

// for: HALF_MAX
#define HALF_MAX 65504.0f

// for: INT_MAX INT_MIN UINT_MAX
#ifndef INT_MAX
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#endif

// for: M_PI_F M_LOG2E_F M_LN2_F
#define M_PI_F 3.14159265358979323846f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LN2_F 0.69314718055994530942f
