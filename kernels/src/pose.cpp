// Blend shapes + linear blend skinning + perspective projection, sixteen vertices at a time.
//
// vertex = rest + sum_k c_k delta_k;  p = sum_j w_j M_j [vertex, 1];  screen = (fx p.x / p.z + cx, fy p.y / p.z + cy, p.z).
// Only the (block, shape) pairs that move something are stored, and shapes whose coefficient is 0 are not read: at most
// 96 B (float16) or 192 B a pair, one pass, everything between in registers.
#include "kernels.h"
#include "simd.h"

namespace visavis {
namespace VV_ISA {
namespace {

constexpr int kBlock = 16;

VV_INLINE f8 load_half(const uint16_t* p) {
#if defined(__F16C__)
  return reinterpret_cast<f8>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  // Shift the half's exponent and mantissa into place and let a product fix the exponent (subnormals included).
  f8 r;
  for (int k = 0; k < 8; ++k) {
    const uint32_t h = p[k];
    uint32_t bits = (h & 0x7fffu) << 13;
    float x;
    std::memcpy(&x, &bits, 4);
    x *= 0x1p112f;
    std::memcpy(&bits, &x, 4);
    bits |= (h & 0x8000u) << 16;
    std::memcpy(&x, &bits, 4);
    r[k] = x;
  }
  return r;
#endif
}

void pose(const PoseRig& rig, const float* coefficients, const float* joints, const float* camera, float* out,
          float* camera_space) {
  for (int block = 0; block < rig.n_blocks; ++block) {
    f8 v[3][2];
    const float* rest = rig.rest.data() + static_cast<long>(block) * 3 * kBlock;
    for (int c = 0; c < 3; ++c)
      for (int h = 0; h < 2; ++h) v[c][h] = load(rest + kBlock * c + 8 * h);
    for (int e = rig.first[block]; e < rig.first[block + 1]; ++e) {
      const float k = coefficients[rig.shape[e]];
      if (k == 0.f) continue;
      const f8 kk = splat(k);
      if (rig.half) {
        const uint16_t* d = rig.delta16.data() + static_cast<long>(e) * 3 * kBlock;
        for (int c = 0; c < 3; ++c)
          for (int h = 0; h < 2; ++h) v[c][h] += kk * load_half(d + kBlock * c + 8 * h);
      } else {
        const float* d = rig.delta32.data() + static_cast<long>(e) * 3 * kBlock;
        for (int c = 0; c < 3; ++c)
          for (int h = 0; h < 2; ++h) v[c][h] += kk * load(d + kBlock * c + 8 * h);
      }
    }
    f8 p[3][2];
    for (int c = 0; c < 3; ++c) p[c][0] = p[c][1] = splat(0.f);
    const float* weights = rig.weights.data() + static_cast<long>(block) * rig.n_joints * kBlock;
    for (int j = 0; j < rig.n_joints; ++j) {
      if (!(rig.joint_mask[block] >> (j < 63 ? j : 63) & 1)) continue;
      const float* m = joints + 12 * j;
      for (int h = 0; h < 2; ++h) {
        const f8 w = load(weights + kBlock * j + 8 * h);
        for (int c = 0; c < 3; ++c)
          p[c][h] += w * (splat(m[4 * c]) * v[0][h] + splat(m[4 * c + 1]) * v[1][h] + splat(m[4 * c + 2]) * v[2][h] +
                          splat(m[4 * c + 3]));
      }
    }
    alignas(32) float screen[3][kBlock], space[3][kBlock];
    for (int h = 0; h < 2; ++h) {
      const f8 inverse = splat(1.f) / p[2][h];
      store(screen[0] + 8 * h, splat(camera[0]) * (p[0][h] * inverse) + splat(camera[2]));
      store(screen[1] + 8 * h, splat(camera[1]) * (p[1][h] * inverse) + splat(camera[3]));
      store(screen[2] + 8 * h, p[2][h]);
      for (int c = 0; c < 3; ++c) store(space[c] + 8 * h, p[c][h]);
    }
    const int left = rig.n_vertices - block * kBlock, n = left < kBlock ? left : kBlock;
    float* o = out + static_cast<long>(block) * 3 * kBlock;
    for (int i = 0; i < n; ++i)
      for (int c = 0; c < 3; ++c) o[3 * i + c] = screen[c][i];
    if (camera_space) {
      float* s = camera_space + static_cast<long>(block) * 3 * kBlock;
      for (int i = 0; i < n; ++i)
        for (int c = 0; c < 3; ++c) s[3 * i + c] = space[c][i];
    }
  }
}

}  // namespace

void fill_pose(Kernels& k) { k.pose = pose; }

}  // namespace VV_ISA
}  // namespace visavis
