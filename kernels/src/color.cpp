// RGB -> I420 (BT.601, limited range: what WebRTC encoders take) and the blend of a patch into a picture.
//
// rgb_to_i420: Y a pixel, U and V from the sum of 2x2 pixels, Q15 coefficients, rounded once. 3 B read and 1.5 B written a
// pixel. blend: base += (patch - base) * mask / 255, rounded. paste: a square's plan (paste_plan.cpp) by scale and offset into a
// frame, as cuda/composite.cu has it; fused with the conversion, a pair of rows passes through the cache once.
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

// Two rows.
void i420_rows(const uint8_t* r0, const uint8_t* r1, int width, uint8_t* y0, uint8_t* y1, uint8_t* u, uint8_t* v) {
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
}

void rgb_to_i420(const uint8_t* rgb, int width, int height, uint8_t* out) {
  const long stride = 3L * width;
  uint8_t* u = out + static_cast<long>(width) * height;
  uint8_t* v = u + static_cast<long>(width / 2) * (height / 2);
  for (int y = 0; y < height; y += 2, u += width / 2, v += width / 2) {
    uint8_t* to = out + static_cast<long>(y) * width;
    i420_rows(rgb + y * stride, rgb + (y + 1) * stride, width, to, to + width, u, v);
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

// Where the pixels of one axis of the frame lie in the square: see composite.cu.
void place(int pixels, float scale, float origin, int side, PasteAxis& axis) {
  axis.from = pixels;
  axis.to = 0;
  int n = 0;
  for (int k = 0; k < pixels; ++k) {
    const float u = scale * (static_cast<float>(k) + 0.5f) + origin;
    if (!(u >= 0.f && u <= static_cast<float>(side))) continue;
    if (axis.from > k) axis.from = k;
    axis.to = k + 1;
    const int q = static_cast<int>(__builtin_floorf(u * 256.f - 127.5f)), i = q >> 8;
    const int low = i < 0 ? 0 : i, high = i + 1 < side ? i + 1 : side - 1;
    axis.low[n] = low;
    axis.step[n] = static_cast<uint16_t>(high - low);
    axis.share[n++] = static_cast<uint16_t>(q & 255);
  }
}

// A row of the plan between two rows, in 1/256: four channels a pixel.
VV_INLINE void between_rows(const int16_t* top, const int16_t* bottom, int share, int n, int16_t* out) {
  int i = 0;
#if defined(__AVX2__)
  const __m256i shares = _mm256_set1_epi32((256 - share) | share << 16), half = _mm256_set1_epi32(128);
  for (; i + 16 <= n; i += 16) {
    const __m256i t = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(top + i));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bottom + i));
    const auto mean = [&](__m256i pairs) __attribute__((always_inline)) {
      return _mm256_srai_epi32(_mm256_add_epi32(_mm256_madd_epi16(pairs, shares), half), 8);
    };
    const __m256i lo = mean(_mm256_unpacklo_epi16(t, b)), hi = mean(_mm256_unpackhi_epi16(t, b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), _mm256_packs_epi32(lo, hi));
  }
#endif
  for (; i < n; ++i) out[i] = static_cast<int16_t>((top[i] * (256 - share) + bottom[i] * share + 128) >> 8);
}

// The plan's pixels over those of a row: of its places on the axis those from k up to n.
VV_INLINE void paste_row(const PasteAxis& axis, const int16_t* plan, int k, int n, uint8_t* rgb) {
#if defined(__AVX2__)
  // Two pixels at a time, a half each, 32 bits a channel. Eight bytes are read where six are meant.
  const __m256i half = _mm256_set1_epi32(1 << 13), full = _mm256_set1_epi32(1 << 14), bias = _mm256_set1_epi32(128);
  const __m256i zero = _mm256_setzero_si256(), most = _mm256_set1_epi32(255);
  const __m256i spread = _mm256_setr_epi8(0, -1, -1, -1, 1, -1, -1, -1, 2, -1, -1, -1, -1, -1, -1, -1,  //
                                          3, -1, -1, -1, 4, -1, -1, -1, 5, -1, -1, -1, -1, -1, -1, -1);
  const __m256i join = _mm256_setr_epi8(0, 4, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
                                        -1, -1, -1, 0, 4, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  for (; k + 3 <= n; k += 2) {
    const int16_t *l0 = plan + 4L * axis.low[k], *l1 = plan + 4L * axis.low[k + 1];
    const auto two = [](const int16_t* p, const int16_t* q) __attribute__((always_inline)) {
      const __m128i a = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
      const __m128i b = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q));
      return _mm256_cvtepi16_epi32(_mm_unpacklo_epi64(a, b));
    };
    const __m256i l = two(l0, l1), r = two(l0 + 4 * axis.step[k], l1 + 4 * axis.step[k + 1]);
    if (_mm256_testz_si256(_mm256_or_si256(l, r), _mm256_or_si256(l, r))) continue;
    const __m256i f = _mm256_inserti128_si256(_mm256_set1_epi32(axis.share[k]), _mm_set1_epi32(axis.share[k + 1]), 1);
    __m256i v = _mm256_add_epi32(_mm256_slli_epi32(l, 8), _mm256_mullo_epi32(_mm256_sub_epi32(r, l), f));
    v = _mm256_srai_epi32(_mm256_add_epi32(v, bias), 8);
    const __m256i kept = _mm256_sub_epi32(full, _mm256_shuffle_epi32(v, 0xFF));
    uint8_t* o = rgb + 3L * k;
    uint64_t base;
    std::memcpy(&base, o, 8);
    const __m256i old = _mm256_shuffle_epi8(_mm256_set1_epi64x(static_cast<int64_t>(base)), spread);
    // Bytes times 15 bits: the lower halves of the lanes, the upper ones are 0.
    __m256i x = _mm256_add_epi32(_mm256_madd_epi16(old, kept), _mm256_slli_epi32(v, 8));
    x = _mm256_srai_epi32(_mm256_add_epi32(x, half), 14);
    x = _mm256_shuffle_epi8(_mm256_min_epi32(_mm256_max_epi32(x, zero), most), join);
    const __m128i six = _mm_or_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    // No more than the six: what the next two read would wait for a store that holds a part of it.
    const uint64_t fresh = static_cast<uint64_t>(_mm_cvtsi128_si64(six));
    const uint32_t head = static_cast<uint32_t>(fresh);
    const uint16_t rest = static_cast<uint16_t>(fresh >> 32);
    std::memcpy(o, &head, 4);
    std::memcpy(o + 4, &rest, 2);
  }
#endif
  for (; k < n; ++k) {
    const int16_t* l = plan + 4L * axis.low[k];
    const int16_t* r = l + 4 * axis.step[k];
    const int f = axis.share[k];
    int v[4];
    for (int c = 0; c < 4; ++c) v[c] = (l[c] * (256 - f) + r[c] * f + 128) >> 8;
    uint8_t* o = rgb + 3L * k;
    for (int c = 0; c < 3; ++c) {
      const int x = (o[c] * ((1 << 14) - v[3]) + v[c] * 256 + (1 << 13)) >> 14;
      o[c] = static_cast<uint8_t>(x < 0 ? 0 : x < 255 ? x : 255);
    }
  }
}

// rgb (height, width, 3) is changed in place where out is null; else it stays, and out is the result in I420.
void composite(uint8_t* rgb, int width, int height, const int16_t* plan, int side, float scale, float x0, float y0, uint8_t* out,
               PasteScratch& scratch) {
  PasteAxis &across = scratch.across, &down = scratch.down;
  place(width, scale, x0, side, across);
  place(height, scale, y0, side, down);
  uint8_t *wanted = scratch.wanted, *pair = scratch.pair;
  int first = side, last = -1;  // columns of the square that change anything
  for (int i = 0; i < side; ++i) {
    const int16_t* p = plan + 4L * i * side;
    int any = 0;
    for (int j = 0; j < 4 * side; ++j) any |= p[j];
    wanted[i] = any != 0;
    if (!any) continue;
    const auto empty = [&](int j) { return !(p[4 * j] | p[4 * j + 1] | p[4 * j + 2] | p[4 * j + 3]); };
    for (int j = 0; j < first; ++j)
      if (!empty(j)) first = j;
    for (int j = side - 1; j > last; --j)
      if (!empty(j)) last = j;
  }
  int from = 0, to = across.to - across.from;
  while (from < to && across.low[from] + across.step[from] < first) ++from;
  while (from < to && across.low[to - 1] > last) --to;
  const auto paste = [&](int y, uint8_t* at) __attribute__((always_inline)) {
    const int k = y - down.from, low = down.low[k], high = low + down.step[k];
    between_rows(plan + 4L * (low * side + first), plan + 4L * (high * side + first), down.share[k], 4 * (last + 1 - first),
                 scratch.row + 4 * first);
    paste_row(across, scratch.row, from, to, at + 3L * across.from);
  };
  const auto touched = [&](int y) {
    return y >= down.from && y < down.to && from < to &&
           (wanted[down.low[y - down.from]] | wanted[down.low[y - down.from] + down.step[y - down.from]]);
  };
  const long stride = 3L * width;
  if (!out) {
    for (int y = down.from; y < down.to; ++y)
      if (touched(y)) paste(y, rgb + y * stride);
    return;
  }
  uint8_t* u = out + static_cast<long>(width) * height;
  uint8_t* v = u + static_cast<long>(width / 2) * (height / 2);
  for (int y = 0; y < height; y += 2, u += width / 2, v += width / 2) {
    const uint8_t* from = rgb + y * stride;
    if (touched(y) || touched(y + 1)) {
      std::memcpy(pair, from, static_cast<size_t>(2 * stride));
      for (int k = 0; k < 2; ++k)
        if (touched(y + k)) paste(y + k, pair + k * stride);
      from = pair;
    }
    uint8_t* to = out + static_cast<long>(y) * width;
    i420_rows(from, from + stride, width, to, to + width, u, v);
  }
}

}  // namespace

void fill_color(Kernels& k) {
  k.rgb_to_i420 = rgb_to_i420;
  k.blend = blend;
  k.composite = composite;
}

}  // namespace VV_ISA
}  // namespace visavis
