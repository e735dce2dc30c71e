"""Metal text for moving 8 numbers at a time, 16 bytes where they are 16-bit ones."""

# A vector of bfloat16 is moved element by element by some compilers, words are not. Callers align to 8 elements.
LOAD_8 = """
template <typename T> struct Eight { uint4 words; };
template <> struct Eight<float> { float4 low; float4 high; };

template <typename T>
METAL_FUNC Eight<T> eight(const device T* x) { return Eight<T>{*((const device uint4*)x)}; }

METAL_FUNC Eight<float> eight(const device float* x) {
  return Eight<float>{((const device float4*)x)[0], ((const device float4*)x)[1]};
}

template <typename T>
METAL_FUNC void floats(Eight<T> m, thread float* v) {
  for (int i = 0; i < 4; i++) {
    uint word = i == 0 ? m.words.x : i == 1 ? m.words.y : i == 2 ? m.words.z : m.words.w;
    float2 pair = float2(as_type<vec<T, 2>>(word));
    v[2 * i] = pair.x;
    v[2 * i + 1] = pair.y;
  }
}

METAL_FUNC void floats(Eight<float> m, thread float* v) {
  for (int i = 0; i < 2; i++) {
    float4 four = i == 0 ? m.low : m.high;
    v[4 * i] = four.x;
    v[4 * i + 1] = four.y;
    v[4 * i + 2] = four.z;
    v[4 * i + 3] = four.w;
  }
}

template <typename T>
METAL_FUNC void load_8(const device T* x, thread float* v) { floats(eight(x), v); }
"""

# The way back to memory of the device.
PUT_8 = """
template <typename T>
METAL_FUNC uint word_of(float low, float high) {
  return as_type<uint>(vec<T, 2>(static_cast<T>(low), static_cast<T>(high)));
}

template <typename T>
METAL_FUNC void put_8(device T* p, const thread float* v) {
  *((device uint4*)p) =
      uint4(word_of<T>(v[0], v[1]), word_of<T>(v[2], v[3]), word_of<T>(v[4], v[5]), word_of<T>(v[6], v[7]));
}

METAL_FUNC void put_8(device float* p, const thread float* v) {
  ((device float4*)p)[0] = float4(v[0], v[1], v[2], v[3]);
  ((device float4*)p)[1] = float4(v[4], v[5], v[6], v[7]);
}
"""

_STORE_8 = """
METAL_FUNC void store_8(threadgroup half* p, const thread float* v) {
  uint4 words;
  words.x = as_type<uint>(half2(half(v[0]), half(v[1])));
  words.y = as_type<uint>(half2(half(v[2]), half(v[3])));
  words.z = as_type<uint>(half2(half(v[4]), half(v[5])));
  words.w = as_type<uint>(half2(half(v[6]), half(v[7])));
  *((threadgroup uint4*)p) = words;
}

METAL_FUNC void store_8(threadgroup float* p, const thread float* v) {
  ((threadgroup float4*)p)[0] = float4(v[0], v[1], v[2], v[3]);
  ((threadgroup float4*)p)[1] = float4(v[4], v[5], v[6], v[7]);
}
"""

VECTORS = LOAD_8 + _STORE_8
