// RGB -> I420 (BT.601, limited range: what WebRTC encoders take) and the blend of a patch into a picture.
//
// rgb_to_i420: Y a pixel, U and V from the sum of 2x2 pixels, Q15 coefficients, rounded once. 3 B read and 1.5 B written a
// pixel. blend: base += (patch - base) * mask / 255, rounded.
#include "kernels.h"
#include "simd.h"

namespace visavis {
namespace VV_ISA {
namespace {

constexpr int kYr = 8414, kYg = 16519, kYb = 3208;      // 65.481, 128.553, 24.966 over 255
constexpr int kUr = -4857, kUg = -9535, kUb = 14392;    // -37.797, -74.203, 112
constexpr int kVr = 14392, kVg = -12052, kVb = -2340;   // 112, -93.786, -18.214
constexpr int kYBias = (16 << 15) + (1 << 14), kChromaBias = (128 << 17) + (1 << 16);

#if defined(__AVX2__)
// Eight pixels as (R, G, B, 0) bytes, four a half.
VV_INLINE __m256i load_rgb8(const uint8_t* p) {
  const __m256i x = _mm256_inserti128_si256(
      _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)), 1);
  const __m256i spread = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,  //
                                          4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
  return _mm256_shuffle_epi8(x, spread);
}

// Dot product of (R, G, B, 0) 16-bit groups: `lo` holds two groups a half, `hi` the next two; result in pixel order.
VV_INLINE __m256i dot(__m256i lo, __m256i hi, __m256i coefficients) {
  return _mm256_hadd_epi32(_mm256_madd_epi16(lo, coefficients), _mm256_madd_epi16(hi, coefficients));
}

VV_INLINE __m256i luma8(__m256i lo, __m256i hi) {
  const __m256i k = _mm256_setr_epi16(kYr, kYg, kYb, 0, kYr, kYg, kYb, 0, kYr, kYg, kYb, 0, kYr, kYg, kYb, 0);
  return _mm256_srli_epi32(_mm256_add_epi32(dot(lo, hi, k), _mm256_set1_epi32(kYBias)), 15);
}

// 2x16 pixels: 32 luma values, 8 + 8 chroma values.
VV_INLINE void block(const uint8_t* r0, const uint8_t* r1, uint8_t* y0, uint8_t* y1, uint8_t* u, uint8_t* v) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i sums[2], luma[2][2];
  for (int half = 0; half < 2; ++half) {
    const __m256i a = load_rgb8(r0 + 24 * half), b = load_rgb8(r1 + 24 * half);
    const __m256i al = _mm256_unpacklo_epi8(a, zero), ah = _mm256_unpackhi_epi8(a, zero);
    const __m256i bl = _mm256_unpacklo_epi8(b, zero), bh = _mm256_unpackhi_epi8(b, zero);
    luma[0][half] = luma8(al, ah);
    luma[1][half] = luma8(bl, bh);
    const __m256i lo = _mm256_add_epi16(al, bl), hi = _mm256_add_epi16(ah, bh);  // columns summed
    sums[half] = _mm256_add_epi16(_mm256_unpacklo_epi64(lo, hi), _mm256_unpackhi_epi64(lo, hi));  // 2x2 sums
  }
  const auto put_luma = [](uint8_t* out, __m256i a, __m256i b) __attribute__((always_inline)) {
    __m256i x = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8);
    x = _mm256_packus_epi16(x, x);
    x = _mm256_permute4x64_epi64(x, 0xD8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(x));
  };
  put_luma(y0, luma[0][0], luma[0][1]);
  put_luma(y1, luma[1][0], luma[1][1]);
  const auto put_chroma = [&](uint8_t* out, int r, int g, int b) __attribute__((always_inline)) {
    const short cr = static_cast<short>(r), cg = static_cast<short>(g), cb = static_cast<short>(b);
    const __m256i k = _mm256_setr_epi16(cr, cg, cb, 0, cr, cg, cb, 0, cr, cg, cb, 0, cr, cg, cb, 0);
    // dot() puts, a half: sums[0] pairs, then sums[1] pairs.
    __m256i x = _mm256_srai_epi32(_mm256_add_epi32(dot(sums[0], sums[1], k), _mm256_set1_epi32(kChromaBias)), 17);
    x = _mm256_permute4x64_epi64(x, 0xD8);
    const __m128i w = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packus_epi16(w, w));
  };
  put_chroma(u, kUr, kUg, kUb);
  put_chroma(v, kVr, kVg, kVb);
}
#endif

VV_INLINE uint8_t luma(const uint8_t* p) {
  return static_cast<uint8_t>((kYr * p[0] + kYg * p[1] + kYb * p[2] + kYBias) >> 15);
}

void rgb_to_i420(const uint8_t* rgb, int width, int height, uint8_t* out) {
  const long stride = 3L * width;
  uint8_t* u = out + static_cast<long>(width) * height;
  uint8_t* v = u + static_cast<long>(width / 2) * (height / 2);
  for (int y = 0; y < height; y += 2) {
    const uint8_t *r0 = rgb + y * stride, *r1 = r0 + stride;
    uint8_t *y0 = out + static_cast<long>(y) * width, *y1 = y0 + width;
    int x = 0;
#if defined(__AVX2__)
    for (; x + 16 <= width; x += 16) block(r0 + 3 * x, r1 + 3 * x, y0 + x, y1 + x, u + x / 2, v + x / 2);
#endif
    for (; x < width; x += 2) {
      const uint8_t *a = r0 + 3 * x, *b = r1 + 3 * x;
      y0[x] = luma(a);
      y0[x + 1] = luma(a + 3);
      y1[x] = luma(b);
      y1[x + 1] = luma(b + 3);
      const int red = a[0] + a[3] + b[0] + b[3], green = a[1] + a[4] + b[1] + b[4], blue = a[2] + a[5] + b[2] + b[5];
      u[x / 2] = static_cast<uint8_t>((kUr * red + kUg * green + kUb * blue + kChromaBias) >> 17);
      v[x / 2] = static_cast<uint8_t>((kVr * red + kVg * green + kVb * blue + kChromaBias) >> 17);
    }
    u += width / 2;
    v += width / 2;
  }
}

void blend(uint8_t* base, long base_stride, const uint8_t* patch, const uint8_t* mask, int width, int height) {
  for (int y = 0; y < height; ++y, base += base_stride, patch += 3L * width, mask += width)
    for (int x = 0; x < width; ++x) {
      const uint32_t m = mask[x];
      for (int c = 0; c < 3; ++c)
        base[3 * x + c] = static_cast<uint8_t>(div255(patch[3 * x + c] * m + base[3 * x + c] * (255u - m)));
    }
}

}  // namespace

void fill_color(Kernels& k) {
  k.rgb_to_i420 = rgb_to_i420;
  k.blend = blend;
}

}  // namespace VV_ISA
}  // namespace visavis
