// Names of scalar types, and the traits by which overloads for scalars and for vectors are told apart.

namespace metal {

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;

// for: msl_if
// T if B holds; otherwise nothing, and the overload that asked drops out.
template <bool B, class T = void> struct msl_if {};
template <class T> struct msl_if<true, T> { typedef T type; };

// for: msl_is_small_float msl_small_float
// half and bfloat, which C++ does not count among its numbers: their functions are computed in float, rounded once.
template <class T> struct msl_is_small_float { static constexpr bool value = false; };
template <class T> using msl_small_float = typename msl_if<msl_is_small_float<T>::value, T>::type;

// for: msl_is_scalar msl_scalar MSL_IF_SCALAR
template <class T> struct msl_is_scalar {
  static constexpr bool value = MSL_IS_ARITHMETIC(T) || msl_is_small_float<T>::value;
};
template <class T> using msl_scalar = typename msl_if<msl_is_scalar<T>::value, T>::type;
#define MSL_IF_SCALAR(S) class = msl_scalar<S>

// for: as_type
// The same bits as another type.
template <class To, class From> MSL_FN To as_type(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "as_type: the sizes differ");
  To to;
  MSL_MEMCPY(&to, &from, sizeof(To));
  return to;
}

} // namespace metal
