// RGB -> Y, U, V (BT.601, limited range, Q15) of 16x2 or 2x2 pixels: what kernels/src/color.cpp computes, bit for bit.
#pragma once
#include "cuda_on_cpu.h"

namespace {

constexpr int kYr = 8414, kYg = 16519, kYb = 3208;
constexpr int kUr = -4857, kUg = -9535, kUb = 14392;
constexpr int kVr = 14392, kVg = -12052, kVb = -2340;
constexpr int kYBias = (16 << 15) + (1 << 14), kChromaBias = (128 << 17) + (1 << 16);

__device__ __forceinline__ unsigned luma(int r, int g, int b) { return (kYr * r + kYg * g + kYb * b + kYBias) >> 15; }
__device__ __forceinline__ unsigned chroma_u(int r, int g, int b) {
  return (kUr * r + kUg * g + kUb * b + kChromaBias) >> 17;
}
__device__ __forceinline__ unsigned chroma_v(int r, int g, int b) {
  return (kVr * r + kVg * g + kVb * b + kChromaBias) >> 17;
}

// Byte k of 48 that three 16-byte words hold.
__device__ __forceinline__ int byte_of(const unsigned (&w)[12], int k) { return (w[k >> 2] >> (8 * (k & 3))) & 255; }

__device__ __forceinline__ void load48(const uint8_t* p, unsigned (&w)[12]) {
  const uint4* q = reinterpret_cast<const uint4*>(p);
  for (int k = 0; k < 3; ++k) {
    const uint4 v = q[k];
    w[4 * k] = v.x;
    w[4 * k + 1] = v.y;
    w[4 * k + 2] = v.z;
    w[4 * k + 3] = v.w;
  }
}

// One picture (H * 3 / 2, W): Y, then U and V as planes (I420) or in pairs (NV12).
template <bool kNv12>
struct YuvPicture {
  uint8_t* out;
  int width;
  long area;

  // 16x2 pixels from (x, y) on, all stores 8 or 16 bytes: width % 16 == 0, out aligned to 16 bytes.
  __device__ __forceinline__ void store16(int x, int y, const unsigned (&a)[12], const unsigned (&b)[12]) const {
    unsigned y0[4] = {}, y1[4] = {}, u[2] = {}, v[2] = {}, uv[4] = {};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      int sum[3] = {};
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const int i = 2 * k + side, shift = 8 * (i & 3);
        const int r0 = byte_of(a, 3 * i), g0 = byte_of(a, 3 * i + 1), b0 = byte_of(a, 3 * i + 2);
        const int r1 = byte_of(b, 3 * i), g1 = byte_of(b, 3 * i + 1), b1 = byte_of(b, 3 * i + 2);
        y0[i >> 2] |= luma(r0, g0, b0) << shift;
        y1[i >> 2] |= luma(r1, g1, b1) << shift;
        sum[0] += r0 + r1;
        sum[1] += g0 + g1;
        sum[2] += b0 + b1;
      }
      const unsigned cu = chroma_u(sum[0], sum[1], sum[2]), cv = chroma_v(sum[0], sum[1], sum[2]);
      if (kNv12) {
        uv[k >> 1] |= (cu | cv << 8) << (16 * (k & 1));
      } else {
        u[k >> 2] |= cu << (8 * (k & 3));
        v[k >> 2] |= cv << (8 * (k & 3));
      }
    }
    uint8_t* row = out + static_cast<long>(y) * width + x;
    *reinterpret_cast<uint4*>(row) = make_uint4(y0[0], y0[1], y0[2], y0[3]);
    *reinterpret_cast<uint4*>(row + width) = make_uint4(y1[0], y1[1], y1[2], y1[3]);
    if (kNv12) {
      *reinterpret_cast<uint4*>(out + area + static_cast<long>(y / 2) * width + x) = make_uint4(uv[0], uv[1], uv[2], uv[3]);
    } else {
      uint8_t* pu = out + area + static_cast<long>(y / 2) * (width / 2) + x / 2;
      *reinterpret_cast<uint2*>(pu) = make_uint2(u[0], u[1]);
      *reinterpret_cast<uint2*>(pu + area / 4) = make_uint2(v[0], v[1]);
    }
  }

  // 2x2 pixels from (x, y) on: top and bottom hold two RGB pixels each.
  __device__ __forceinline__ void store2(int x, int y, const uint8_t* p, const uint8_t* q) const {
    uint8_t* row = out + static_cast<long>(y) * width + x;
    row[0] = static_cast<uint8_t>(luma(p[0], p[1], p[2]));
    row[1] = static_cast<uint8_t>(luma(p[3], p[4], p[5]));
    row[width] = static_cast<uint8_t>(luma(q[0], q[1], q[2]));
    row[width + 1] = static_cast<uint8_t>(luma(q[3], q[4], q[5]));
    const int r = p[0] + p[3] + q[0] + q[3], g = p[1] + p[4] + q[1] + q[4], b = p[2] + p[5] + q[2] + q[5];
    const uint8_t cu = static_cast<uint8_t>(chroma_u(r, g, b)), cv = static_cast<uint8_t>(chroma_v(r, g, b));
    if (kNv12) {
      uint8_t* o = out + area + static_cast<long>(y / 2) * width + x;
      o[0] = cu;
      o[1] = cv;
    } else {
      uint8_t* o = out + area + static_cast<long>(y / 2) * (width / 2) + x / 2;
      o[0] = cu;
      o[area / 4] = cv;
    }
  }
};

}  // namespace
