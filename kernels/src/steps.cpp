// One step of a flow-matching sampler with counter-based noise, and the key/value ring: the CPU twins of
// cuda/sampler_step.cu and cuda/kv_ring.cu, the same bits.
//
// Sampler: eight Philox blocks (32 numbers) at a time; additions, products, divisions and square roots only, no contraction,
// so every instruction set gives the same bits. 8 to 16 B an element, about 60 operations with noise.
// Ring: rows are copied to their place, nothing is moved; positions are counted anew.
#include "kernels.h"
#include "simd.h"

namespace visavis {
namespace VV_ISA {
namespace {

typedef uint32_t u8 __attribute__((vector_size(32)));
typedef uint64_t w8 __attribute__((vector_size(64)));

enum Kind { kStart, kEuler, kPredictor, kCorrector };

VV_INLINE u8 splat_u(uint32_t x) { return u8{x, x, x, x, x, x, x, x}; }
VV_INLINE f8 to_float(u8 x) { return __builtin_convertvector(reinterpret_cast<i8>(x), f8); }  // x < 2^31
VV_INLINE u8 high(w8 x) { return __builtin_convertvector(x >> 32, u8); }
VV_INLINE u8 low(w8 x) { return __builtin_convertvector(x, u8); }
VV_INLINE w8 product(uint32_t a, u8 b) {
  return __builtin_convertvector(b, w8) * w8{a, a, a, a, a, a, a, a};
}

// sqrt(-2 ln u), u = (bits + 1) / 2^24 of the upper 24 bits; see sampler_step.cu.
VV_INLINE f8 radius(u8 word) {
  const f8 x = to_float((word >> 8) + splat_u(1));
  // x = m 2^e with m in [1, 2): taken apart by its bits, which is exact.
  const u8 bits = reinterpret_cast<u8>(x);
  f8 m = reinterpret_cast<f8>((bits & splat_u(0x007fffff)) | splat_u(0x3f800000));
  f8 e = to_float(bits >> 23) - splat(127.f + 24.f);
  const i8 large = m >= splat(1.5f);
  m = large ? m * splat(0.5f) : m;
  e = large ? e + splat(1.f) : e;
  const f8 s = (m - splat(1.f)) / (m + splat(1.f)), z = s * s;
  const f8 series = ((((z * splat(1.f / 11.f) + splat(1.f / 9.f)) * z + splat(1.f / 7.f)) * z + splat(0.2f)) * z +
                     splat(1.f / 3.f)) * z + splat(1.f);
  const f8 log = e * splat(0.693147180559945f) + splat(2.f) * s * series;
  return vsqrt(splat(-2.f) * log + splat(0.f));
}

VV_INLINE void direction(u8 word, f8& c, f8& s) {
  const u8 quarter = (word + splat_u(0x20000000u)) >> 30;
  const i8 rest = reinterpret_cast<i8>(word - (quarter << 30)) >> 8;
  const f8 t = __builtin_convertvector(rest, f8) * splat(6.283185307179586f / 16777216.f), t2 = t * t;
  const f8 sine = ((((t2 * splat(1.f / 362880.f) - splat(1.f / 5040.f)) * t2 + splat(1.f / 120.f)) * t2 -
                    splat(1.f / 6.f)) * t2 + splat(1.f)) * t;
  const f8 cosine = (((t2 * splat(1.f / 40320.f) - splat(1.f / 720.f)) * t2 + splat(1.f / 24.f)) * t2 - splat(0.5f)) * t2 +
                    splat(1.f);
  const i8 odd = reinterpret_cast<i8>((quarter & splat_u(1)) != splat_u(0));
  const i8 left = reinterpret_cast<i8>((quarter == splat_u(1)) | (quarter == splat_u(2)));
  const i8 lower = reinterpret_cast<i8>(quarter >= splat_u(2));
  c = odd ? sine : cosine;
  s = odd ? cosine : sine;
  c = left ? -c : c;
  s = lower ? -s : s;
}

// The 32 numbers of blocks `group` .. group + 7.
void normals(const uint32_t group, uint32_t step, uint32_t frame, uint32_t purpose, uint64_t seed, float* out) {
  u8 c0 = splat_u(group) + u8{0, 1, 2, 3, 4, 5, 6, 7}, c1 = splat_u(step), c2 = splat_u(frame), c3 = splat_u(purpose);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const w8 p0 = product(0xD2511F53u, c0), p1 = product(0xCD9E8D57u, c2);
    c0 = high(p1) ^ c1 ^ splat_u(k0);
    c2 = high(p0) ^ c3 ^ splat_u(k1);
    c1 = low(p1);
    c3 = low(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const f8 r0 = radius(c0), r1 = radius(c2);
  f8 x0, y0, x1, y1;
  direction(c1, x0, y0);
  direction(c3, x1, y1);
  alignas(32) float z[4][8];
  store(z[0], r0 * x0);
  store(z[1], r0 * y0);
  store(z[2], r1 * x1);
  store(z[3], r1 * y1);
  for (int g = 0; g < 8; ++g)
    for (int k = 0; k < 4; ++k) out[4 * g + k] = z[k][g];
}

// What `step` says for n elements of one slot; z holds noise for them, if there is any.
VV_INLINE void update(const SamplerStep& s, float* x, float* kept, const float* v, const float* free, const float* z, long n) {
  const float half = 0.5f * s.dt, dt = s.kind == kCorrector ? half : s.dt;
  for (long i = 0; i < n; ++i) {
    float to = 0.f;
    if (s.kind != kStart) {
      const float w = free ? free[i] + s.guidance * (v[i] - free[i]) : v[i];
      const float from = s.kind == kCorrector ? kept[i] : x[i];
      if (s.kind == kPredictor) kept[i] = from + half * w;
      to = from + dt * w;
    }
    x[i] = z ? to + s.sigma * z[i] : to;
  }
}

void sampler_step(const SamplerStep& s, int slots, long n) {
  const bool noisy = s.sigma != 0.f && s.kind != kPredictor;
  for (int slot = 0; slot < slots; ++slot) {
    if (s.mask && !s.mask[slot]) continue;
    const long at = slot * n;
    const auto row = [&](auto* p) { return p ? p + at : nullptr; };
    float *x = row(s.x), *kept = row(s.kept);
    const float *v = row(s.velocity), *free = row(s.free);
    if (!noisy) {
      update(s, x, kept, v, free, nullptr, n);
      continue;
    }
    for (long i = 0; i < n; i += 32) {
      alignas(32) float z[32];
      normals(static_cast<uint32_t>(i / 4), s.step, s.frames[slot], s.purpose, s.seeds[slot], z);
      const long count = n - i < 32 ? n - i : 32;
      const auto from = [&](auto* p) { return p ? p + i : nullptr; };
      update(s, from(x), from(kept), from(v), from(free), z, count);
    }
  }
}

void kv_ring(const uint8_t* fresh, const uint8_t* sink, uint8_t* cache, int32_t* positions, int64_t* written,
             const uint8_t* mask, const uint8_t* reset, const KvRing& r) {
  const long rows = r.sink + r.window, row = r.row_bytes;
  for (int slot = 0; slot < r.slots; ++slot) {
    if (mask && !mask[slot]) continue;
    const bool anew = reset && reset[slot];
    const int64_t before = anew ? 0 : written[slot], total = before + r.fresh;
    for (int plane = 0; plane < r.planes; ++plane) {
      const long at = static_cast<long>(plane) * r.slots + slot;
      uint8_t* to = cache + at * rows * row;
      if (anew && sink) std::memcpy(to, sink + at * r.sink * row, static_cast<size_t>(r.sink * row));
      for (int k = 0; k < r.fresh; ++k)
        std::memcpy(to + (r.sink + (before + k) % r.window) * row, fresh + (at * r.fresh + k) * row, static_cast<size_t>(row));
    }
    written[slot] = total;
    const int64_t oldest = total > r.window ? total - r.window : 0;
    int32_t* p = positions + slot * rows;
    for (int i = 0; i < r.sink; ++i) p[i] = i;
    for (int i = r.sink; i < rows; ++i) p[i] = -1;
    int at = static_cast<int>(oldest % r.window);
    for (int k = 0; k < static_cast<int>(total - oldest); ++k) {
      p[r.sink + at] = r.sink + k;
      if (++at == r.window) at = 0;
    }
  }
}

}  // namespace

void fill_steps(Kernels& k) {
  k.sampler_step = sampler_step;
  k.kv_ring = kv_ring;
}

}  // namespace VV_ISA
}  // namespace visavis
