// Eight-lane vectors on the compiler's vector extensions: the same text becomes SSE2, AVX2, AVX-512 or NEON.
// Only what the extensions cannot say (move mask, widening multiply-add) uses intrinsics, behind #if.
// Everything has internal linkage: no inline function of one instruction set may be merged with another's.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#define VV_INLINE static inline __attribute__((always_inline))

namespace {

typedef float f8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef int64_t l8 __attribute__((vector_size(64)));

VV_INLINE f8 load(const float* p) { f8 v; std::memcpy(&v, p, sizeof v); return v; }
VV_INLINE i8 load(const uint32_t* p) { i8 v; std::memcpy(&v, p, sizeof v); return v; }
VV_INLINE i8 load(const int32_t* p) { i8 v; std::memcpy(&v, p, sizeof v); return v; }
VV_INLINE void store(float* p, f8 v) { std::memcpy(p, &v, sizeof v); }
VV_INLINE void store(int32_t* p, i8 v) { std::memcpy(p, &v, sizeof v); }
VV_INLINE f8 splat(float x) { return f8{x, x, x, x, x, x, x, x}; }
VV_INLINE i8 splat(int32_t x) { return i8{x, x, x, x, x, x, x, x}; }
VV_INLINE f8 vmin(f8 a, f8 b) { return a < b ? a : b; }
VV_INLINE f8 vmax(f8 a, f8 b) { return a > b ? a : b; }
VV_INLINE f8 clamp(f8 x, float lo, float hi) { return vmin(vmax(x, splat(lo)), splat(hi)); }
VV_INLINE i8 to_int(f8 x) { return __builtin_convertvector(x, i8); }  // towards zero

// One bit a lane: the lane's sign bit.
VV_INLINE unsigned move_mask(i8 m) {
#if defined(__AVX2__)
  return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(m)));
#elif defined(__SSE2__)
  __m128 h[2];
  std::memcpy(h, &m, sizeof h);
  return static_cast<unsigned>(_mm_movemask_ps(h[0]) | (_mm_movemask_ps(h[1]) << 4));
#else
  unsigned r = 0;
  for (int k = 0; k < 8; ++k) r |= (static_cast<uint32_t>(m[k]) >> 31) << k;
  return r;
#endif
}
VV_INLINE unsigned move_mask(l8 m) {
  unsigned r = 0;
  for (int k = 0; k < 8; ++k) r |= static_cast<unsigned>(static_cast<uint64_t>(m[k]) >> 63) << k;
  return r;
}

VV_INLINE i8 lanes_of(unsigned bits) {
  const i8 bit = {1, 2, 4, 8, 16, 32, 64, 128};
  return (splat(static_cast<int32_t>(bits)) & bit) == bit;
}

VV_INLINE f8 vsqrt(f8 x) {
#if defined(__AVX2__)
  return reinterpret_cast<f8>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x)));
#else
  f8 r;
  for (int k = 0; k < 8; ++k) r[k] = __builtin_sqrtf(x[k]);
  return r;
#endif
}

// Rounded division by 255 of a value in 0..65025.
VV_INLINE uint32_t div255(uint32_t x) { x += 128; return (x + (x >> 8)) >> 8; }

}  // namespace
