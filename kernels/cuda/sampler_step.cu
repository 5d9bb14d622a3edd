// One step of a flow-matching sampler, batched over session slots: guidance, update and noise in one pass over the state.
//
// Computes, with velocity v = v_free + guidance (v - v_free) where an unguided velocity is given, and z ~ N(0, 1):
//   start      x = sigma z
//   Euler      x = x + dt v [+ sigma z]
//   predictor  kept = x + dt/2 v;  x = x + dt v        (Heun, first half)
//   corrector  x = kept + dt/2 v [+ sigma z]           (Heun, second half, v at the predicted x)
// Noise is counter-based (Philox4x32-10; Salmon et al., SC 2011): a function of the slot's seed and frame, the step and the
// element, whatever the launch. Box-Muller on logarithm, sine and cosine made of additions, products, divisions and
// square roots only, all rounded as IEEE 754 says (no contraction): the same bits on every processor.
// Bytes an element: Euler 8 read, 4 written (12 with guidance), predictor 8 + 8, corrector 8 + 4; operations 4, and about 60
// with noise: bound by memory. 16-byte accesses.
// Launch: a thread takes four elements (one Philox block), blocks of 128, grid (n / 512, slots). Slots whose mask byte is 0
// are left alone. No host synchronisation; may be captured in a graph (seeds and frames are read from the device).
#include "cuda_on_cpu.h"

struct VvSamplerStep {
  float *x, *kept;               // (slots, n); kept only for Heun
  const float *velocity, *free;  // (slots, n); free or null: no guidance
  const uint64_t* seeds;         // (slots,)
  const uint32_t* frames;        // (slots,)
  const uint8_t* mask;           // (slots,) or null
  float dt, sigma, guidance;     // sigma 0: no noise
  int kind;                      // 0 start, 1 Euler, 2 predictor, 3 corrector
  uint32_t step, purpose;        // two more words of the counter
};

namespace {

constexpr int kThreads = 128;
enum Kind { kStart, kEuler, kPredictor, kCorrector };

__device__ __forceinline__ uint4 philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t seed) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0, p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return make_uint4(c0, c1, c2, c3);
}

// sqrt(-2 ln u) for u = (bits + 1) / 2^24, bits the upper 24: u in (0, 1].
__device__ __forceinline__ float radius(uint32_t word) {
  float m = static_cast<float>((word >> 8) + 1);
  int e = -24;
  // m = 2^n times something in [0.75, 1.5): ln u = (n - 24) ln 2 + ln of that. Scaling by powers of two is exact.
  for (int k = 16; k; k >>= 1) {
    const float power = static_cast<float>(1u << k);
    if (m >= power) {
      m *= 1.f / power;
      e += k;
    }
  }
  if (m >= 1.5f) {
    m *= 0.5f;
    e += 1;
  }
  const float s = (m - 1.f) / (m + 1.f), z = s * s;
  const float series = ((((z * (1.f / 11.f) + 1.f / 9.f) * z + 1.f / 7.f) * z + 0.2f) * z + 1.f / 3.f) * z + 1.f;
  const float log = static_cast<float>(e) * 0.693147180559945f + 2.f * s * series;
  return sqrtf(-2.f * log + 0.f);
}

// Cosine and sine of a full turn times word / 2^32, by octants; the lowest eight bits are not used.
__device__ __forceinline__ float2 direction(uint32_t word) {
  const uint32_t quarter = (word + 0x20000000u) >> 30;
  const int rest = static_cast<int>(word - (quarter << 30)) >> 8;  // within an eighth of a turn either way
  const float t = static_cast<float>(rest) * (6.283185307179586f / 16777216.f), t2 = t * t;
  const float sine = ((((t2 * (1.f / 362880.f) - 1.f / 5040.f) * t2 + 1.f / 120.f) * t2 - 1.f / 6.f) * t2 + 1.f) * t;
  const float cosine = (((t2 * (1.f / 40320.f) - 1.f / 720.f) * t2 + 1.f / 24.f) * t2 - 0.5f) * t2 + 1.f;
  const float c = quarter & 1 ? sine : cosine, s = quarter & 1 ? cosine : sine;
  return make_float2(quarter == 1 || quarter == 2 ? -c : c, quarter >= 2 ? -s : s);
}

__device__ __forceinline__ void normals(const uint4& w, float (&z)[4]) {
  const float r0 = radius(w.x), r1 = radius(w.z);
  const float2 d0 = direction(w.y), d1 = direction(w.w);
  z[0] = r0 * d0.x;
  z[1] = r0 * d0.y;
  z[2] = r1 * d1.x;
  z[3] = r1 * d1.y;
}

// Four elements, or what is left of them at the end of a slot.
__device__ __forceinline__ void load4(const float* p, int count, bool wide, float (&v)[4]) {
  if (wide) {
    const float4 w = *reinterpret_cast<const float4*>(p);
    v[0] = w.x;
    v[1] = w.y;
    v[2] = w.z;
    v[3] = w.w;
    return;
  }
  for (int k = 0; k < 4; ++k) v[k] = k < count ? p[k] : 0.f;
}

__device__ __forceinline__ void store4(float* p, int count, bool wide, const float (&v)[4]) {
  if (wide) {
    *reinterpret_cast<float4*>(p) = make_float4(v[0], v[1], v[2], v[3]);
    return;
  }
  for (int k = 0; k < count; ++k) p[k] = v[k];
}

__global__ void __launch_bounds__(kThreads) sampler_step(VvSamplerStep s, int n) {
  const int slot = blockIdx.y;
  if (s.mask && !s.mask[slot]) return;
  const int group = blockIdx.x * kThreads + threadIdx.x;
  if (4 * group >= n) return;
  const int count = n - 4 * group < 4 ? n - 4 * group : 4;
  const bool wide = n % 4 == 0;
  const long at = static_cast<long>(slot) * n + 4 * group;
  float x[4] = {0.f, 0.f, 0.f, 0.f};
  if (s.kind != kStart) {
    float v[4];
    load4(s.velocity + at, count, wide, v);
    if (s.free) {
      float u[4];
      load4(s.free + at, count, wide, u);
      for (int k = 0; k < 4; ++k) v[k] = u[k] + s.guidance * (v[k] - u[k]);
    }
    load4((s.kind == kCorrector ? s.kept : s.x) + at, count, wide, x);
    const float half = 0.5f * s.dt;
    if (s.kind == kPredictor) {
      float kept[4];
      for (int k = 0; k < 4; ++k) kept[k] = x[k] + half * v[k];
      store4(s.kept + at, count, wide, kept);
    }
    const float dt = s.kind == kCorrector ? half : s.dt;
    for (int k = 0; k < 4; ++k) x[k] = x[k] + dt * v[k];
  }
  if (s.sigma != 0.f && s.kind != kPredictor) {
    float z[4];
    normals(philox(static_cast<uint32_t>(group), s.step, s.frames[slot], s.purpose, s.seeds[slot]), z);
    for (int k = 0; k < 4; ++k) x[k] = x[k] + s.sigma * z[k];
  }
  store4(s.x + at, count, wide, x);
}

}  // namespace

// n elements a slot; arrays on the device, 16-byte aligned. Returns a cudaError_t; 1 (invalid value) for a kind that is not
// there, or arrays that it needs and were not given.
VV_CUDA_API int vvc_sampler_step(const VvSamplerStep* step, int slots, int n, cudaStream_t stream) {
  const VvSamplerStep s = *step;
  if (n < 1 || s.kind < kStart || s.kind > kCorrector || !s.x || (s.kind != kStart && !s.velocity) ||
      (s.kind >= kPredictor && !s.kept) || (s.sigma != 0.f && (!s.seeds || !s.frames)))
    return 1;
  const dim3 grid(((n + 3) / 4 + kThreads - 1) / kThreads, slots);
  VV_LAUNCH(sampler_step, grid, dim3(kThreads), stream, s, n);
  return cudaGetLastError();
}
