// The rasteriser: triangles -> two depth layers a pixel -> composited over what earlier groups left.
//
// Computes, for every pixel centre inside a triangle (edge functions in 1/256 pixel fixed point, top-left rule), 1/z, the
// perspective-correct texture position and attributes, a bicubic (Catmull-Rom) or bilinear fetch of the premultiplied
// texture, and inserts the fragment into the pixel's two depth layers. Fragments outside a boundary edge extrapolate,
// with alpha falling to 0 one pixel away.
//
// Where a triangle's texture is opaque all over, its fragments are opaque before they are fetched: the first pass then
// stores texture positions only, and the composite pass fetches once for each visible pixel, eight in a row.
//
// Cost for a pixel: 16 texels (64 B, cached), 25 B of layers written and read once, 17 B of outputs; spans of eight pixels.
// The result does not depend on how rows are split: every value comes from the triangle and the pixel alone.
#include "kernels.h"
#include "simd.h"

namespace visavis {
namespace VV_ISA {
namespace {

// Fragments this close (relative, in 1/z) lie on one surface: a ramp there gives way to the surface itself ...
constexpr float kSameSurface = 5e-4f;
// ... and of two ramps this close the one with more coverage stays, so that the joints of a boundary are not doubled.
constexpr float kSameRamp = 2e-2f;

struct Fragment {
  float depth;
  uint32_t color;
  uint8_t part, ramp;
  float attr[3];
};

VV_INLINE uint32_t alpha_of(uint32_t c) { return c >> 24; }

// In 255ths, as over() takes the rest: a ramp over the same opaque colour gives that colour back exactly.
VV_INLINE uint32_t scale_color(uint32_t c, uint32_t r255) {
  uint32_t out = 0;
  for (int k = 0; k < 32; k += 8) out |= div255(((c >> k) & 255u) * r255) << k;
  return out;
}

VV_INLINE uint32_t shade_color(uint32_t c, uint32_t b256) {
  const uint32_t a = alpha_of(c);
  uint32_t out = a << 24;
  for (int k = 0; k < 24; k += 8) {
    const uint32_t v = (((c >> k) & 255u) * b256 + 128u) >> 8;
    out |= (v < a ? v : a) << k;
  }
  return out;
}

VV_INLINE uint32_t over(uint32_t top, uint32_t bottom) {
  const uint32_t rest = 255u - alpha_of(top);
  uint32_t out = 0;
  for (int k = 0; k < 32; k += 8) {
    const uint32_t v = ((top >> k) & 255u) + div255(((bottom >> k) & 255u) * rest);
    out |= (v < 255u ? v : 255u) << k;
  }
  return out;
}

// Catmull-Rom over 4x4 (or bilinear over the middle 2x2) texels; p is the padded texture's origin, U and V are padded
// texel coordinates in 1/256. Vertical pass to Q6, horizontal pass from Q20; colour never exceeds alpha.
VV_INLINE uint32_t fetch_bicubic(const uint8_t* p, int stride, int U, int V) {
  p += static_cast<long>((V >> 8) - 1) * stride + ((U >> 8) - 1) * 4;
  const int32_t* wy = reinterpret_cast<const int32_t*>(bicubic_weights[V & 255]);
#if defined(__AVX2__)
  const auto row = [&](int k) __attribute__((always_inline)) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + static_cast<long>(k) * stride)));
  };
  const __m256i r0 = row(0), r1 = row(1), r2 = row(2), r3 = row(3);
  const __m256i w01 = _mm256_set1_epi32(wy[0]), w23 = _mm256_set1_epi32(wy[1]);
  __m256i lo = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpacklo_epi16(r0, r1), w01),
                                _mm256_madd_epi16(_mm256_unpacklo_epi16(r2, r3), w23));
  __m256i hi = _mm256_add_epi32(_mm256_madd_epi16(_mm256_unpackhi_epi16(r0, r1), w01),
                                _mm256_madd_epi16(_mm256_unpackhi_epi16(r2, r3), w23));
  const __m256i half = _mm256_set1_epi32(128);
  lo = _mm256_srai_epi32(_mm256_add_epi32(lo, half), 8);
  hi = _mm256_srai_epi32(_mm256_add_epi32(hi, half), 8);
  const __m256i pair = _mm256_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15,  //
                                        0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15);
  const __m256i v = _mm256_shuffle_epi8(_mm256_packs_epi32(lo, hi), pair);
  const __m256i h = _mm256_madd_epi16(v, _mm256_load_si256(reinterpret_cast<const __m256i*>(bicubic_columns[U & 255])));
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  s = _mm_srai_epi32(_mm_add_epi32(s, _mm_set1_epi32(1 << 19)), 20);
  s = _mm_packs_epi32(s, s);
  s = _mm_packus_epi16(s, s);
  s = _mm_min_epu8(s, _mm_shuffle_epi8(s, _mm_set1_epi8(3)));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(s));
#else
  (void)wy;
  const int16_t* y = bicubic_weights[V & 255];
  const int16_t* x = bicubic_weights[U & 255];
  int32_t sum[4] = {1 << 19, 1 << 19, 1 << 19, 1 << 19};
  for (int j = 0; j < 4; ++j)
    for (int c = 0; c < 4; ++c) {
      int32_t t = 128;
      for (int i = 0; i < 4; ++i) t += y[i] * p[static_cast<long>(i) * stride + 4 * j + c];
      sum[c] += x[j] * (t >> 8);
    }
  int32_t a = sum[3] >> 20;
  a = a < 0 ? 0 : a > 255 ? 255 : a;
  uint32_t out = static_cast<uint32_t>(a) << 24;
  for (int c = 0; c < 3; ++c) {
    int32_t t = sum[c] >> 20;
    t = t < 0 ? 0 : t > a ? a : t;
    out |= static_cast<uint32_t>(t) << (8 * c);
  }
  return out;
#endif
}

VV_INLINE uint32_t fetch_bilinear(const uint8_t* p, int stride, int U, int V) {
  p += static_cast<long>(V >> 8) * stride + (U >> 8) * 4;
  const int fy = V & 255, fx = U & 255;
#if defined(__AVX2__)
  const __m128i r0 = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m128i r1 = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p + stride)));
  const __m128i wy = _mm_set1_epi32((256 - fy) | (fy << 16));
  const __m128i left = _mm_madd_epi16(_mm_unpacklo_epi16(r0, r1), wy);   // texel 0, Q8
  const __m128i right = _mm_madd_epi16(_mm_unpackhi_epi16(r0, r1), wy);  // texel 1
  __m128i s = _mm_add_epi32(_mm_mullo_epi32(left, _mm_set1_epi32(256 - fx)), _mm_mullo_epi32(right, _mm_set1_epi32(fx)));
  s = _mm_srai_epi32(_mm_add_epi32(s, _mm_set1_epi32(1 << 15)), 16);
  s = _mm_packs_epi32(s, s);
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_packus_epi16(s, s)));
#else
  uint32_t out = 0;
  for (int c = 0; c < 4; ++c) {
    const int l = p[c] * (256 - fy) + p[stride + c] * fy, r = p[4 + c] * (256 - fy) + p[stride + 4 + c] * fy;
    out |= static_cast<uint32_t>((l * (256 - fx) + r * fx + (1 << 15)) >> 16) << (8 * c);
  }
  return out;
#endif
}

VV_INLINE bool near_depth(float a, float b, float tolerance) {
  const float d = a > b ? a - b : b - a;
  return d <= tolerance * (a > b ? a : b);
}

template <bool kBicubic>
VV_INLINE uint32_t fetch(const Mesh& mesh, int U, int V) {
  return kBicubic ? fetch_bicubic(mesh.texture.data(), mesh.tex_stride, U, V)
                  : fetch_bilinear(mesh.texture.data(), mesh.tex_stride, U, V);
}

// The colour that the front layer's pixel stands for, if it is still a texture position (texel_v >= 0).
__attribute__((noinline)) uint32_t resolve(const Job& job, long i) {
  const int U = static_cast<int>(job.front.color[i] & 0xffffffu), V = job.texel_v[i];
  const uint32_t c = job.bicubic ? fetch<true>(*job.mesh, U, V) : fetch<false>(*job.mesh, U, V);
  return job.shaded ? shade_color(c, static_cast<uint32_t>(job.light[i])) : c;
}

VV_INLINE Fragment read(const Layer& l, long i) {
  Fragment f;
  f.depth = l.depth[i];
  f.color = l.color[i];
  f.part = l.part[i];
  f.ramp = alpha_of(f.color) < 255 ? l.ramp[i] : 0;
  for (int k = 0; k < 3; ++k) f.attr[k] = l.attr[k][i];
  return f;
}

VV_INLINE void write(const Layer& l, long i, const Fragment& f) {
  l.depth[i] = f.depth;
  l.color[i] = f.color;
  l.part[i] = f.part;
  l.ramp[i] = f.ramp;
  for (int k = 0; k < 3; ++k) l.attr[k][i] = f.attr[k];
}

VV_INLINE Fragment read_front(const Job& job, long i) {
  Fragment f = read(job.front, i);
  if (job.texel_v[i] >= 0) f.color = resolve(job, i);
  return f;
}

VV_INLINE void write_front(const Job& job, long i, const Fragment& f) {
  write(job.front, i, f);
  job.texel_v[i] = -1;
}

// Two fragments become one at the nearer depth; label and attributes of whichever carries the pixel.
VV_INLINE Fragment merge(const Fragment& top, const Fragment& bottom) {
  Fragment f = alpha_of(top.color) >= 128 || alpha_of(bottom.color) < 128 ? top : bottom;
  f.depth = top.depth;
  f.color = over(top.color, bottom.color);
  f.ramp = 0;
  return f;
}

enum class Meet { kDropNew, kReplaceOld, kBoth };

// What happens when two fragments of one pixel meet, before depth order is asked: ramps give way (see kSame...).
VV_INLINE Meet meet(const Fragment& f, const Fragment& old) {
  if (f.ramp && old.ramp) {
    if (!near_depth(f.depth, old.depth, kSameRamp)) return Meet::kBoth;
    return alpha_of(f.color) > alpha_of(old.color) ? Meet::kReplaceOld : Meet::kDropNew;
  }
  if (f.ramp != old.ramp && near_depth(f.depth, old.depth, kSameSurface))
    return f.ramp ? Meet::kDropNew : Meet::kReplaceOld;
  return Meet::kBoth;
}

// The general insertion: exact for two partly transparent fragments in any order; further ones are merged.
__attribute__((noinline)) void insert(const Job& job, long i, Fragment f) {
  if (alpha_of(f.color) < 2) return;
  if (alpha_of(f.color) == 255) f.ramp = 0;
  const Layer &front = job.front, &back = job.back;
  if (front.depth[i] == 0.f) {
    write_front(job, i, f);
    back.depth[i] = 0.f;
    return;
  }
  const Fragment top = read_front(job, i);
  const bool top_opaque = alpha_of(top.color) == 255, opaque = alpha_of(f.color) == 255;
  const Meet with_top = meet(f, top);
  if (with_top == Meet::kDropNew) return;
  if (with_top == Meet::kReplaceOld) {
    write_front(job, i, f);
    return;
  }
  if (f.depth > top.depth) {
    if (!opaque) write(back, i, top_opaque || back.depth[i] == 0.f ? top : merge(top, read(back, i)));
    write_front(job, i, f);
    return;
  }
  if (top_opaque) return;
  if (back.depth[i] == 0.f) {
    write(back, i, f);
    return;
  }
  const Fragment low = read(back, i);
  const Meet with_low = meet(f, low);
  if (with_low == Meet::kDropNew) return;
  if (with_low == Meet::kReplaceOld) {
    write(back, i, f);
  } else if (f.depth > low.depth) {
    write(back, i, opaque ? f : merge(f, low));
  } else if (alpha_of(low.color) != 255) {
    write(back, i, merge(low, f));
  }
}

// Everything that is linear over a triangle, as value = base + gx (x - x0) + gy (y - y0).
struct Planes {
  f8 gx, gy, base, lo, hi;  // lanes as VertexRecord::value; base is 0 where the plane is a numerator
  float origin[8];          // value at vertex 0, added after the division
  float x0, y0;
};

VV_INLINE bool make_planes(const Job& job, const int32_t* t, Planes& out) {
  const float *a = job.vertices + 3 * t[0], *b = job.vertices + 3 * t[1], *c = job.vertices + 3 * t[2];
  const VertexRecord &ra = job.records[t[0]], &rb = job.records[t[1]], &rc = job.records[t[2]];
  const float dx1 = b[0] - a[0], dy1 = b[1] - a[1], dx2 = c[0] - a[0], dy2 = c[1] - a[1];
  const float det = dx1 * dy2 - dx2 * dy1;
  const f8 va = load(ra.value), vb = load(rb.value), vc = load(rc.value);
  const f8 d1 = (vb - va) * load(rb.weight), d2 = (vc - va) * load(rc.weight);
  if (det == 0.f) {  // the snapped triangle has area, the true one has none: one value all over
    out.gx = out.gy = splat(0.f);
  } else {
    // A texture laid at rest has d == dx or dy: then these are exactly 1 and 0.
    out.gx = (d1 * splat(dy2) - d2 * splat(dy1)) / splat(det);
    out.gy = (splat(dx1) * d2 - splat(dx2) * d1) / splat(det);
  }
  const i8 depth_like = {0, 0, -1, -1, 0, 0, 0, -1};
  out.base = reinterpret_cast<f8>(reinterpret_cast<i8>(va) & depth_like);
  out.lo = vmin(va, vmin(vb, vc));
  out.hi = vmax(va, vmax(vb, vc));
  store(out.origin, va);
  out.x0 = a[0];
  out.y0 = a[1];
  const f8 sum = out.gx + out.gy;
  const f8 finite = sum - sum;  // NaN where a plane overflowed
  return move_mask(finite == splat(0.f)) == 255;
}

// The planes at eight neighbouring pixels.
struct Span {
  f8 depth, attr[3], bright;
  i8 U, V;
};

struct Setup {
  Planes planes;
  float u_lo, u_hi, v_lo, v_hi;
  const Job* job;
};

// The depth plane, and the position relative to vertex 0. Ramps leave the triangle: keep within its own range.
VV_INLINE f8 span_depth(const Planes& p, f8 dx, f8 dy) {
  return clamp(splat(p.base[3]) + splat(p.gx[3]) * dx + splat(p.gy[3]) * dy, p.lo[3], p.hi[3]);
}

VV_INLINE void span_values(const Setup& s, f8 dx, f8 dy, f8 depth, bool position, Span& out) {
  const Planes& p = s.planes;
  const Job& job = *s.job;
  const auto numerator = [&](int k) __attribute__((always_inline)) { return splat(p.gx[k]) * dx + splat(p.gy[k]) * dy; };
  f8 u = numerator(0), v = numerator(1);
  if (job.perspective) {
    const f8 q = clamp(splat(p.base[2]) + numerator(2), p.lo[2], p.hi[2]);
    const f8 inverse = splat(1.f) / q;
    u = u * inverse;
    v = v * inverse;
  }
  u = clamp(splat(p.origin[0]) + u, s.u_lo, s.u_hi);
  v = clamp(splat(p.origin[1]) + v, s.v_lo, s.v_hi);
  // Texel centres lie at .5, the padding shifts by kPad; the sum is positive, so truncation is floor.
  out.U = to_int((u + splat(kPad - 0.5f)) * splat(256.f) + splat(0.5f));
  out.V = to_int((v + splat(kPad - 0.5f)) * splat(256.f) + splat(0.5f));
  if (position) {
    const f8 z = job.perspective ? splat(1.f) / depth : splat(1.f);
    for (int k = 0; k < 3; ++k)
      out.attr[k] = clamp(splat(p.origin[4 + k]) + numerator(4 + k) * z, p.lo[4 + k], p.hi[4 + k]);
  }
  if (job.shaded) out.bright = clamp(splat(p.base[7]) + numerator(7), p.lo[7], p.hi[7]);
  out.depth = depth;
}

// Stores the lanes of `bits`; without mask registers the others are read and written back.
VV_INLINE void store_lanes(float* p, unsigned bits, i8 mask, f8 v) {
#if defined(__AVX512VL__)
  (void)mask;
  _mm256_mask_storeu_ps(p, static_cast<__mmask8>(bits), reinterpret_cast<__m256>(v));
#else
  (void)bits;
  store(p, mask ? v : load(p));
#endif
}
VV_INLINE void store_lanes(int32_t* p, unsigned bits, i8 mask, i8 v) {
  store_lanes(reinterpret_cast<float*>(p), bits, mask, reinterpret_cast<f8>(v));
}

// Are positions wanted of any of `n` pixels from (x, y) on?
VV_INLINE bool wants_positions(const Job& job, int x, int y, int n) {
  return (y >= job.position_y0) & (y < job.position_y1) & (x + n > job.position_x0) & (x < job.position_x1);
}

VV_INLINE void touch(const Job& job, int y, int x0, int x1) {
  int16_t* d = job.dirty + 2 * y;
  if (x0 < d[0]) d[0] = static_cast<int16_t>(x0);
  if (x1 > d[1]) d[1] = static_cast<int16_t>(x1);
}

// Draws the lanes of `inside` at pixels (x .. x+7, y).
template <bool kBicubic>
VV_INLINE void draw_span(const Setup& s, uint8_t part, bool solid, int x, int y, f8 dx, f8 dy, unsigned inside) {
  const Job& job = *s.job;
  const Mesh& mesh = *job.mesh;
  const long i = static_cast<long>(y) * job.stride + x;
  const f8 depth = span_depth(s.planes, dx, dy);
  const i8 nearer_v = depth > load(job.front.depth + i);
  const i8 partial_v = (load(job.front.color + i) >> 24) != splat(-1);  // arithmetic shift: alpha 255 is -1
  const unsigned nearer = move_mask(nearer_v) & inside;
  unsigned todo = inside & (nearer | move_mask(partial_v));
  if (!todo) return;
  Span span;
  const bool position = wants_positions(job, x, y, 8);
  span_values(s, dx, dy, depth, position, span);
  i8 light = splat(256);
  if (job.shaded) light = to_int(span.bright * splat(256.f) + splat(0.5f));
  unsigned fast = 0, slow = 0;  // opaque and in front: whatever was here is hidden; all else
  alignas(32) uint32_t slow_color[8];
  if (solid) {
    fast = nearer;
    slow = todo & ~nearer;
  }
  if (!solid || slow) {
    alignas(32) int32_t U[8], V[8], B[8];
    store(U, span.U);
    store(V, span.V);
    store(B, light);
    unsigned wanted = solid ? slow : todo;
    slow = 0;
    while (wanted) {
      const int k = __builtin_ctz(wanted);
      const unsigned bit = wanted & (0u - wanted);
      wanted ^= bit;
      uint32_t c = fetch<kBicubic>(mesh, U[k], V[k]);
      if (job.shaded) c = shade_color(c, static_cast<uint32_t>(B[k]));
      if (alpha_of(c) == 255 && (nearer & bit)) {
        job.front.color[i + k] = c;
        fast |= bit;
      } else if (alpha_of(c) >= 2) {
        slow_color[k] = c;
        slow |= bit;
      }
    }
  }
  if (fast) {
    const i8 m = lanes_of(fast);
    store_lanes(job.front.depth + i, fast, m, depth);
    if (position)
      for (int k = 0; k < 3; ++k) store_lanes(job.front.attr[k] + i, fast, m, span.attr[k]);
    if (solid) {
      store_lanes(reinterpret_cast<int32_t*>(job.front.color + i), fast, m, span.U | splat(static_cast<int32_t>(0xff000000u)));
      store_lanes(job.texel_v + i, fast, m, span.V);
      if (job.shaded) store_lanes(job.light + i, fast, m, light);
    } else {
      store_lanes(job.texel_v + i, fast, m, splat(-1));
    }
#if defined(__AVX512VL__) && defined(__AVX512BW__)
    _mm_mask_storeu_epi8(job.front.part + i, static_cast<__mmask16>(fast), _mm_set1_epi8(static_cast<char>(part)));
#else
    uint64_t labels;
    std::memcpy(&labels, job.front.part + i, 8);
    const uint64_t bytes = byte_masks[fast];
    labels = (labels & ~bytes) | (bytes & (part * 0x0101010101010101u));
    std::memcpy(job.front.part + i, &labels, 8);
#endif
  }
  while (slow) {
    const int k = __builtin_ctz(slow);
    slow &= slow - 1;
    Fragment f = {depth[k], slow_color[k], part, 0, {0.f, 0.f, 0.f}};
    if (position)
      for (int c = 0; c < 3; ++c) f.attr[c] = span.attr[c][k];
    insert(job, i + k, f);
  }
}

// Edge functions of pixel centres, from fixed-point corners in positive order; >= 0 is inside. Integer = int32_t lanes
// where the triangle is under 1024 pixels, int64_t lanes else. The fill rule is in the constant: E - 1 >= 0 on edges that
// are neither top nor left. Division by 256 keeps the sign since both steps are multiples of it.
template <class Int, class Lanes, bool kBicubic>
VV_INLINE void fill(const Setup& s, const int32_t (&px)[3], const int32_t (&py)[3], uint8_t part, bool solid, int x0,
                    int x1, int y0, int y1) {
  Int ex[3], ey[3], e0[3];
  for (int k = 0; k < 3; ++k) {
    const int n = k == 2 ? 0 : k + 1;
    const int64_t A = py[k] - py[n], B = px[n] - px[k];
    const bool top_left = A > 0 || (A == 0 && B > 0);
    const int64_t at = B * (y0 * int64_t{kSubpixel} + kSubpixel / 2 - py[k]) +
                       A * (x0 * int64_t{kSubpixel} + kSubpixel / 2 - px[k]) - (top_left ? 0 : 1);
    e0[k] = static_cast<Int>(at >> 8);
    ex[k] = static_cast<Int>(A);
    ey[k] = static_cast<Int>(B);
  }
  const Lanes step = {0, 1, 2, 3, 4, 5, 6, 7};
  Lanes lane[3];
  for (int k = 0; k < 3; ++k) lane[k] = step * ex[k];
  const f8 lane_x = {0, 1, 2, 3, 4, 5, 6, 7};
  for (int y = y0; y < y1; ++y) {
    const f8 dy = splat(static_cast<float>(y) + 0.5f - s.planes.y0);
    int first = x1, last = x0;
    for (int x = x0; x < x1; x += 8) {
      const Int dxi = static_cast<Int>(x - x0);
      const Lanes out = (lane[0] + (e0[0] + ex[0] * dxi)) | (lane[1] + (e0[1] + ex[1] * dxi)) |
                        (lane[2] + (e0[2] + ex[2] * dxi));
      unsigned inside = ~move_mask(out) & 255u;
      if (x1 - x < 8) inside &= (1u << (x1 - x)) - 1u;
      if (!inside) {
        if (last > first) break;
        continue;
      }
      const int lo = x + __builtin_ctz(inside), hi = x + 32 - __builtin_clz(inside);
      if (lo < first) first = lo;
      if (hi > last) last = hi;
      const f8 dx = (splat(static_cast<float>(x)) + lane_x + splat(0.5f)) - splat(s.planes.x0);
      draw_span<kBicubic>(s, part, solid, x, y, dx, dy, inside);
    }
    if (last > first) touch(*s.job, y, first, last);
    for (int k = 0; k < 3; ++k) e0[k] += ey[k];
  }
}


// The outside of boundary edge `k` (corners in positive order): alpha 1 - distance to the edge, with round ends, so that
// the joints of a boundary have no gap. The integer edge function tells outside, exactly where fill() said not inside.
template <bool kBicubic>
void draw_ramp(const Setup& s, const int32_t (&px)[3], const int32_t (&py)[3], const float (&fx)[3], const float (&fy)[3],
               int k, uint8_t part, int row0, int row1) {
  const Job& job = *s.job;
  const int n = k == 2 ? 0 : k + 1;
  const auto least = [](int a, int b) { return a < b ? a : b; };
  const auto most = [](int a, int b) { return a > b ? a : b; };
  const int reach = kSubpixel - kSubpixel / 2;  // one pixel, less the half to the centre
  const int x0 = most((least(px[k], px[n]) - reach) / kSubpixel - 1, 0);
  const int x1 = least((most(px[k], px[n]) + reach) / kSubpixel + 1, job.width);
  const int y0 = most((least(py[k], py[n]) - reach) / kSubpixel - 1, row0);
  const int y1 = least((most(py[k], py[n]) + reach) / kSubpixel + 1, row1);
  const int64_t A = py[k] - py[n], B = px[n] - px[k];
  const bool top_left = A > 0 || (A == 0 && B > 0);
  const float ax = fx[k], ay = fy[k], ex = fx[n] - ax, ey = fy[n] - ay, length2 = ex * ex + ey * ey;
  const float inverse = length2 > 0.f ? 1.f / length2 : 0.f;
  const l8 lane = l8{0, 1, 2, 3, 4, 5, 6, 7} * A;
  const f8 lane_x = {0, 1, 2, 3, 4, 5, 6, 7};
  for (int y = y0; y < y1; ++y) {
    const f8 dy = splat(static_cast<float>(y) + 0.5f - s.planes.y0);
    const float from_y = static_cast<float>(y) + 0.5f - ay;
    for (int x = x0; x < x1; x += 8) {
      const f8 centre = splat(static_cast<float>(x)) + lane_x + splat(0.5f);
      const f8 from_x = centre - splat(ax);
      const f8 along = clamp((from_x * splat(ex) + splat(from_y * ey)) * splat(inverse), 0.f, 1.f);
      const f8 gap_x = from_x - along * splat(ex), gap_y = splat(from_y) - along * splat(ey);
      const f8 cover = splat(1.f) - vsqrt(gap_x * gap_x + gap_y * gap_y);
      unsigned todo = move_mask(cover > splat(0.f));
      if (x1 - x < 8) todo &= (1u << (x1 - x)) - 1u;
      if (!todo) continue;
      const int64_t at = (B * (y * int64_t{kSubpixel} + kSubpixel / 2 - py[k]) +
                          A * (x * int64_t{kSubpixel} + kSubpixel / 2 - px[k]) - (top_left ? 0 : 1)) >> 8;
      todo &= move_mask(lane + at);
      if (!todo) continue;
      const f8 dx = centre - splat(s.planes.x0);
      Span span;
      span_values(s, dx, dy, span_depth(s.planes, dx, dy), true, span);
      const i8 weight = to_int(cover * splat(255.f) + splat(0.5f));
      touch(job, y, x + __builtin_ctz(todo), x + 32 - __builtin_clz(todo));
      while (todo) {
        const int j = __builtin_ctz(todo);
        todo &= todo - 1;
        uint32_t c = fetch<kBicubic>(*job.mesh, span.U[j], span.V[j]);
        if (job.shaded) c = shade_color(c, static_cast<uint32_t>(span.bright[j] * 256.f + 0.5f));
        c = scale_color(c, static_cast<uint32_t>(weight[j]));
        insert(job, static_cast<long>(y) * job.stride + x + j,
               {span.depth[j], c, part, 1, {span.attr[0][j], span.attr[1][j], span.attr[2][j]}});
      }
    }
  }
}

template <bool kBicubic>
void draw_triangles(const Job& job, int row0, int row1) {
  const Mesh& mesh = *job.mesh;
  const int32_t* t = mesh.triangles.data();
  const auto least = [](int a, int b) { return a < b ? a : b; };
  const auto most = [](int a, int b) { return a > b ? a : b; };
  for (int index = 0; index < mesh.n_triangles; ++index, t += 3) {
    if (mesh.kind[index] == kClear) continue;
    const int32_t *a = job.fixed + 2 * t[0], *b = job.fixed + 2 * t[1], *c = job.fixed + 2 * t[2];
    if (a[0] == INT32_MIN || b[0] == INT32_MIN || c[0] == INT32_MIN) continue;
    const int min_y = least(a[1], least(b[1], c[1])), max_y = most(a[1], most(b[1], c[1]));
    const uint8_t edges = mesh.edges[index];
    const int reach = edges ? kSubpixel : 0;
    // Pixel rows and columns whose centres lie in the box; boundary edges reach one pixel further.
    if (max_y + reach < row0 * kSubpixel || min_y - reach > row1 * kSubpixel) continue;
    const int min_x = least(a[0], least(b[0], c[0])), max_x = most(a[0], most(b[0], c[0]));
    if (max_x + reach < 0 || min_x - reach > job.width * kSubpixel) continue;
    const int64_t area = static_cast<int64_t>(b[0] - a[0]) * (c[1] - a[1]) - static_cast<int64_t>(c[0] - a[0]) * (b[1] - a[1]);
    if (area == 0 || (job.cull && area > 0)) continue;
    const int x0 = most((min_x + kSubpixel / 2 - 1) >> 8, 0), x1 = least((max_x + kSubpixel / 2) >> 8, job.width);
    const int y0 = most((min_y + kSubpixel / 2 - 1) >> 8, row0), y1 = least((max_y + kSubpixel / 2) >> 8, row1);
    if (!edges && (x0 >= x1 || y0 >= y1)) continue;

    Setup s;
    s.job = &job;
    if (!make_planes(job, t, s.planes)) continue;
    const float tw = static_cast<float>(mesh.tex_width), th = static_cast<float>(mesh.tex_height);
    const auto within = [](float v, float hi) { return v < 0.f ? 0.f : v > hi ? hi : v; };
    s.u_lo = within(s.planes.lo[0] - mesh.uv_margin, tw);
    s.u_hi = within(s.planes.hi[0] + mesh.uv_margin, tw);
    s.v_lo = within(s.planes.lo[1] - mesh.uv_margin, th);
    s.v_hi = within(s.planes.hi[1] + mesh.uv_margin, th);
    const uint8_t part = mesh.part[index];
    const bool solid = mesh.kind[index] == kSolid;
    const int32_t *p1 = area > 0 ? b : c, *p2 = area > 0 ? c : b;
    const int32_t px[3] = {a[0], p1[0], p2[0]}, py[3] = {a[1], p1[1], p2[1]};
    if (x0 < x1 && y0 < y1) {
      if (max_x - min_x < 1024 * kSubpixel && max_y - min_y < 1024 * kSubpixel)
        fill<int32_t, i8, kBicubic>(s, px, py, part, solid, x0, x1, y0, y1);
      else
        fill<int64_t, l8, kBicubic>(s, px, py, part, solid, x0, x1, y0, y1);
    }
    if (edges) {
      const float *va = job.vertices + 3 * t[0], *v1 = job.vertices + 3 * t[area > 0 ? 1 : 2],
                  *v2 = job.vertices + 3 * t[area > 0 ? 2 : 1];
      const float fx[3] = {va[0], v1[0], v2[0]}, fy[3] = {va[1], v1[1], v2[1]};
      for (int k = 0; k < 3; ++k)
        if (edges >> k & 1) draw_ramp<kBicubic>(s, px, py, fx, fy, area > 0 ? k : 2 - k, part, row0, row1);
    }
  }
}

void draw_rows(const Job& job, int y0, int y1) {
  if (job.bicubic)
    draw_triangles<true>(job, y0, y1);
  else
    draw_triangles<false>(job, y0, y1);
}

VV_INLINE void composite_pixel(const Job& job, long i, long o, bool position) {
  if (job.front.depth[i] == 0.f) return;
  const Fragment top = read_front(job, i);
  Fragment f = top;
  if (alpha_of(top.color) < 255 && job.back.depth[i] != 0.f) f = merge(top, read(job.back, i));
  uint8_t* rgb = job.rgb + 3 * o;
  const uint32_t below = rgb[0] | rgb[1] << 8 | rgb[2] << 16 | static_cast<uint32_t>(job.coverage[o]) << 24;
  const uint32_t c = over(f.color, below);
  for (int k = 0; k < 3; ++k) rgb[k] = static_cast<uint8_t>(c >> (8 * k));
  job.coverage[o] = static_cast<uint8_t>(c >> 24);
  // The label is that of the front-most fragment that covers at least half by itself.
  const Fragment* label = nullptr;
  Fragment low;
  if (alpha_of(top.color) >= 128) {
    label = &top;
  } else if (job.back.depth[i] != 0.f) {
    low = read(job.back, i);
    if (alpha_of(low.color) >= 128) label = &low;
  }
  if (label) {
    job.part[o] = label->part;
    if (position)
      for (int k = 0; k < 3; ++k) job.position[3 * o + k] = label->attr[k];
  }
}

VV_INLINE void store_rgb(uint8_t* p, const uint32_t* color) {
#if defined(__AVX2__)
  const __m256i drop = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,  //
                                        0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  __m256i c = _mm256_shuffle_epi8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(color)), drop);
  c = _mm256_permutevar8x32_epi32(c, _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 7, 7));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(c));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p + 16), _mm256_extracti128_si256(c, 1));
#else
  for (int k = 0; k < 8; ++k)
    for (int c = 0; c < 3; ++c) p[3 * k + c] = static_cast<uint8_t>(color[k] >> (8 * c));
#endif
}

// x0 y0 z0 x1 y1 z1 ...
VV_INLINE void store_triples(float* p, f8 x, f8 y, f8 z) {
#if defined(__clang__)
  for (int k = 0; k < 8; ++k) {
    p[3 * k] = x[k];
    p[3 * k + 1] = y[k];
    p[3 * k + 2] = z[k];
  }
#else
  // Each third takes a few lanes of x and y, then of z.
  const f8 a = __builtin_shuffle(x, y, i8{0, 8, 0, 1, 9, 0, 2, 10}), b = __builtin_shuffle(x, y, i8{0, 3, 11, 0, 4, 12, 0, 5});
  const f8 c = __builtin_shuffle(x, y, i8{13, 0, 6, 14, 0, 7, 15, 0});
  store(p, __builtin_shuffle(a, z, i8{0, 1, 8, 3, 4, 9, 6, 7}));
  store(p + 8, __builtin_shuffle(b, z, i8{10, 1, 2, 11, 4, 5, 12, 7}));
  store(p + 16, __builtin_shuffle(c, z, i8{0, 13, 2, 3, 14, 5, 6, 15}));
#endif
}

// Eight opaque pixels: colours, fetched now where only the texture position is known.
template <bool kBicubic>
VV_INLINE void colors_of(const Job& job, long i, uint32_t (&color)[8]) {
  const i8 U = load(job.front.color + i), V = load(job.texel_v + i);
  if (move_mask(V) == 0) {
    alignas(32) int32_t u[8], v[8];
    store(u, U & splat(0xffffff));
    store(v, V);
    for (int k = 0; k < 8; ++k) color[k] = fetch<kBicubic>(*job.mesh, u[k], v[k]);
    if (job.shaded) {
      const i8 c = load(color), b = load(job.light + i);
      i8 lit = splat(static_cast<int32_t>(0xff000000u));
      for (int k = 0; k < 24; k += 8) {
        const i8 x = (((c >> k) & splat(255)) * b + splat(128)) >> 8;
        lit |= (x < splat(255) ? x : splat(255)) << k;
      }
      store(reinterpret_cast<int32_t*>(color), lit);
    }
  } else {
    for (int k = 0; k < 8; ++k) color[k] = job.texel_v[i + k] >= 0 ? resolve(job, i + k) : job.front.color[i + k];
  }
}

template <bool kBicubic>
void composite(const Job& job, int y0, int y1) {
  for (int y = y0; y < y1; ++y) {
    int16_t* d = job.dirty + 2 * y;
    const int x0 = d[0], x1 = d[1];
    d[0] = INT16_MAX;
    d[1] = 0;
    if (x0 >= x1) continue;
    const long in = static_cast<long>(y) * job.stride, out = static_cast<long>(y) * job.width;
    const bool wanted = y >= job.position_y0 && y < job.position_y1;
    const int inner_x0 = wanted ? job.position_x0 : 0, inner_x1 = wanted ? job.position_x1 : 0;
    for (int x = x0; x < x1; x += 8) {
      const long i = in + x, o = out + x;
      const i8 here = load(job.front.depth + i) != splat(0.f);
      if (!move_mask(here)) continue;
      const i8 opaque = here & ((load(job.front.color + i) >> 24) == splat(-1));
      if (x + 8 <= x1 && move_mask(opaque) == 255) {
        alignas(32) uint32_t color[8];
        colors_of<kBicubic>(job, i, color);
        store_rgb(job.rgb + 3 * o, color);
        std::memset(job.coverage + o, 255, 8);
        std::memcpy(job.part + o, job.front.part + i, 8);
        if (x >= inner_x0 && x + 8 <= inner_x1) {
          store_triples(job.position + 3 * o, load(job.front.attr[0] + i), load(job.front.attr[1] + i),
                        load(job.front.attr[2] + i));
        } else if (x + 8 > inner_x0 && x < inner_x1) {
          for (int k = 0; k < 8; ++k)
            if (x + k >= inner_x0 && x + k < inner_x1)
              for (int c = 0; c < 3; ++c) job.position[3 * (o + k) + c] = job.front.attr[c][i + k];
        }
      } else {
        for (int k = 0; k < 8 && x + k < x1; ++k)
          composite_pixel(job, i + k, o + k, x + k >= inner_x0 && x + k < inner_x1);
      }
      store(job.front.depth + i, splat(0.f));
    }
  }
}

void composite_rows(const Job& job, int y0, int y1) {
  if (job.bicubic)
    composite<true>(job, y0, y1);
  else
    composite<false>(job, y0, y1);
}

void prepare(const Mesh& mesh, const float* vertices, const float* brightness, bool perspective, int32_t* fixed,
             VertexRecord* records) {
  for (int i = 0; i < mesh.n_vertices; ++i) {
    const float x = vertices[3 * i], y = vertices[3 * i + 1], z = vertices[3 * i + 2];
    const float inverse = 1.f / z;
    VertexRecord& r = records[i];
    if (!(x > -kGuard && x < kGuard && y > -kGuard && y < kGuard && z > 0.f && inverse > 0.f && inverse < 3e38f)) {
      fixed[2 * i] = fixed[2 * i + 1] = INT32_MIN;
      continue;
    }
    // Rounded to the nearest step; the offset makes truncation floor.
    constexpr int kOffset = 1 << 23;
    fixed[2 * i] = static_cast<int32_t>(x * static_cast<double>(kSubpixel) + (kOffset + 0.5)) - kOffset;
    fixed[2 * i + 1] = static_cast<int32_t>(y * static_cast<double>(kSubpixel) + (kOffset + 0.5)) - kOffset;
    float q = perspective ? inverse : 1.f;
    if (perspective && mesh.has_rest_depth) q = mesh.rest_depth[i] / z;
    float b = mesh.shade.empty() ? 1.f : mesh.shade[i];
    if (brightness) b *= brightness[i];
    b = b >= 0.f ? (b < 16.f ? b : 16.f) : 0.f;
    const float w = perspective ? inverse : 1.f;
    const float value[8] = {mesh.uv[2 * i], mesh.uv[2 * i + 1], q, inverse, mesh.attr[3 * i], mesh.attr[3 * i + 1],
                            mesh.attr[3 * i + 2], b};
    const float weight[8] = {q, q, 1.f, 1.f, w, w, w, 1.f};
    std::memcpy(r.value, value, sizeof value);
    std::memcpy(r.weight, weight, sizeof weight);
  }
}

}  // namespace

void fill_raster(Kernels& k) {
  k.prepare = prepare;
  k.draw_rows = draw_rows;
  k.composite_rows = composite_rows;
}

}  // namespace VV_ISA
}  // namespace visavis
