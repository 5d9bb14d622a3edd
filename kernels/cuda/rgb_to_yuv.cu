// RGB -> I420 or NV12 (BT.601, limited range), batched over session slots.
//
// Computes what kernels/src/color.cpp computes, bit for bit: Y a pixel, U and V from the sum of 2x2 pixels, Q15.
// Bytes a pixel: 3 read, 1.5 written; about 14 integer operations: bound by memory.
// Launch: a thread takes 16x2 pixels (three 16-byte loads and one 16-byte store a row; chroma 8-byte stores, or one of 16);
// blocks of 32x8 threads, grid (width / 512, height / 16, slots). Widths that are no multiple of 16 take the scalar path.
// Slots whose mask byte is 0 are left alone. No host synchronisation; may be captured in a graph.
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

template <bool kNv12>
__global__ void __launch_bounds__(256) rgb_to_yuv(const uint8_t* rgb, uint8_t* out, const uint8_t* mask, int width,
                                                  int height, bool wide) {
  const int slot = blockIdx.z;
  if (mask && !mask[slot]) return;
  const int x = 16 * (blockIdx.x * blockDim.x + threadIdx.x), y = 2 * (blockIdx.y * blockDim.y + threadIdx.y);
  if (x >= width || y >= height) return;
  const long area = static_cast<long>(width) * height;
  const uint8_t* in0 = rgb + slot * 3 * area + 3 * (static_cast<long>(y) * width + x);
  const uint8_t* in1 = in0 + 3L * width;
  uint8_t* luma0 = out + slot * (area + area / 2) + static_cast<long>(y) * width + x;
  uint8_t* luma1 = luma0 + width;
  uint8_t* chroma = out + slot * (area + area / 2) + area;
  if (wide) {
    unsigned a[12], b[12];
    load48(in0, a);
    load48(in1, b);
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
    *reinterpret_cast<uint4*>(luma0) = make_uint4(y0[0], y0[1], y0[2], y0[3]);
    *reinterpret_cast<uint4*>(luma1) = make_uint4(y1[0], y1[1], y1[2], y1[3]);
    if (kNv12) {
      *reinterpret_cast<uint4*>(chroma + static_cast<long>(y / 2) * width + x) = make_uint4(uv[0], uv[1], uv[2], uv[3]);
    } else {
      uint8_t* pu = chroma + static_cast<long>(y / 2) * (width / 2) + x / 2;
      *reinterpret_cast<uint2*>(pu) = make_uint2(u[0], u[1]);
      *reinterpret_cast<uint2*>(pu + area / 4) = make_uint2(v[0], v[1]);
    }
    return;
  }
  const int n = width - x < 16 ? width - x : 16;
  for (int i = 0; i < n; i += 2) {
    const uint8_t *p = in0 + 3 * i, *q = in1 + 3 * i;
    luma0[i] = static_cast<uint8_t>(luma(p[0], p[1], p[2]));
    luma0[i + 1] = static_cast<uint8_t>(luma(p[3], p[4], p[5]));
    luma1[i] = static_cast<uint8_t>(luma(q[0], q[1], q[2]));
    luma1[i + 1] = static_cast<uint8_t>(luma(q[3], q[4], q[5]));
    const int r = p[0] + p[3] + q[0] + q[3], g = p[1] + p[4] + q[1] + q[4], b = p[2] + p[5] + q[2] + q[5];
    const uint8_t cu = static_cast<uint8_t>(chroma_u(r, g, b)), cv = static_cast<uint8_t>(chroma_v(r, g, b));
    if (kNv12) {
      uint8_t* o = chroma + static_cast<long>(y / 2) * width + x + i;
      o[0] = cu;
      o[1] = cv;
    } else {
      uint8_t* o = chroma + static_cast<long>(y / 2) * (width / 2) + (x + i) / 2;
      o[0] = cu;
      o[area / 4] = cv;
    }
  }
}

}  // namespace

// rgb (slots, H, W, 3), out (slots, H * 3 / 2, W), mask (slots,) or null: device pointers, 16-byte aligned; even sides.
// Returns a cudaError_t.
VV_CUDA_API int vvc_rgb_to_yuv(const uint8_t* rgb, uint8_t* out, const uint8_t* mask, int slots, int width, int height,
                               int nv12, cudaStream_t stream) {
  const dim3 block(32, 8), grid((width + 511) / 512, (height + 15) / 16, slots);
  // Chroma rows of I420 are 8-byte aligned in every slot where area / 4 is a multiple of 8: so it is for widths of 16 n.
  const bool wide = width % 16 == 0;
  if (nv12)
    VV_LAUNCH(rgb_to_yuv<true>, grid, block, stream, rgb, out, mask, width, height, wide);
  else
    VV_LAUNCH(rgb_to_yuv<false>, grid, block, stream, rgb, out, mask, width, height, wide);
  return cudaGetLastError();
}
