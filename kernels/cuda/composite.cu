// The video network's picture of the face pasted into the frame, and the frame to NV12 or I420, in one pass over the frame.
//
// The picture is a square of `side` pixels; pixel (x, y) of the frame lies at (scale x + x0, scale y + y0) of it, pixel centres
// at halves. Computes, where the frame's pixel lies in the square: its plan (paste_plan.cu) fetched bilinearly (positions in 1/256
// pixel, down before across, each rounded), rgb = rgb (1 - share) + change, rounded; then what rgb_to_yuv.cu computes. Bit for
// bit vv_composite() of the CPU library.
// Bytes a pixel: 3 read, 1.5 written; under the square 32 more from cache, once 8 a pixel of the square; operations: 14, and
// about 70 under the square: bound by memory.
// Launch: a thread takes 16x2 pixels (16-byte loads and stores of frame and output; the square lies at any place), blocks
// of 32x8 threads, grid (width / 512, height / 16, slots). Widths that are no multiple of 16 take the scalar path. Slots whose
// mask byte is 0 are left alone; a scale of 0 pastes nothing. No host synchronisation; may be captured in a graph.
#include "yuv.cuh"

// One slot's arrays, all on the device; the array of these too. rgb and out are 16-byte aligned.
struct VvCompositeSlot {
  const uint8_t* rgb;      // (H, W, 3) the rasteriser's
  const int16_t* plan;     // (side, side, 4) of paste_plan.cu, 8-byte aligned
  const float* placement;  // (3,) scale, x0, y0
  uint8_t* out;            // (H * 3 / 2, W)
};

namespace {

struct Patch {
  const int16_t* plan;
  float scale, x0, y0;
  int side;
};

// A position along one axis: the pixel before it and the share of the next in 1/256.
struct Place {
  int low, high, share;
  bool inside;
};

__device__ __forceinline__ Place place(const Patch& p, int pixel, float origin) {
  const float u = p.scale * (static_cast<float>(pixel) + 0.5f) + origin;
  Place out;
  out.inside = u >= 0.f && u <= static_cast<float>(p.side);
  const int q = out.inside ? static_cast<int>(floorf(u * 256.f - 127.5f)) : 0;
  const int i = q >> 8;
  out.share = q & 255;
  out.low = i < 0 ? 0 : i;
  out.high = i + 1 < p.side ? i + 1 : p.side - 1;
  return out;
}

// A pixel of the plan: three colours to be added in 1/64 level, and the share in 1/16384 of what was there that goes.
__device__ __forceinline__ void planned(const Patch& p, int row, int column, int (&out)[4]) {
  const uint2 w = reinterpret_cast<const uint2*>(p.plan)[row * p.side + column];
  out[0] = static_cast<int16_t>(w.x & 0xffff);
  out[1] = static_cast<int16_t>(w.x >> 16);
  out[2] = static_cast<int16_t>(w.y & 0xffff);
  out[3] = static_cast<int16_t>(w.y >> 16);
}

__device__ __forceinline__ int lerp(int a, int b, int share) { return (a * (256 - share) + b * share + 128) >> 8; }

// What the plan says at a pixel.
__device__ __forceinline__ void fetch(const Patch& p, const Place& row, const Place& column, int (&out)[4]) {
  int t00[4], t01[4], t10[4], t11[4];
  planned(p, row.low, column.low, t00);
  planned(p, row.low, column.high, t01);
  planned(p, row.high, column.low, t10);
  planned(p, row.high, column.high, t11);
#pragma unroll
  for (int c = 0; c < 4; ++c) out[c] = lerp(lerp(t00[c], t10[c], row.share), lerp(t01[c], t11[c], row.share), column.share);
}

__device__ __forceinline__ unsigned mixed(int base, int change, int share) {
  const int x = (base * ((1 << 14) - share) + change * 256 + (1 << 13)) >> 14;
  return static_cast<unsigned>(x < 0 ? 0 : x < 255 ? x : 255);
}

// Sixteen pixels of row y from x on.
__device__ __forceinline__ void paste16(const Patch& p, int x, int y, unsigned (&words)[12]) {
  const Place row = place(p, y, p.y0);
  if (!row.inside) return;
#pragma unroll
  for (int k = 0; k < 16; ++k) {
    const Place column = place(p, x + k, p.x0);
    if (!column.inside) continue;
    int plan[4];
    fetch(p, row, column, plan);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const int at = 3 * k + c, shift = 8 * (at & 3);
      const unsigned old = words[at >> 2];
      words[at >> 2] = (old & ~(255u << shift)) | mixed(static_cast<int>((old >> shift) & 255u), plan[c], plan[3]) << shift;
    }
  }
}

// One pixel.
__device__ __forceinline__ void paste1(const Patch& p, int x, int y, uint8_t* pixel) {
  const Place row = place(p, y, p.y0), column = place(p, x, p.x0);
  if (!row.inside || !column.inside) return;
  int plan[4];
  fetch(p, row, column, plan);
  for (int c = 0; c < 3; ++c) pixel[c] = static_cast<uint8_t>(mixed(pixel[c], plan[c], plan[3]));
}

template <bool kNv12>
__global__ void __launch_bounds__(256) composite(const VvCompositeSlot* slots, const uint8_t* mask, int side,
                                                 int width, int height, bool wide) {
  if (mask && !mask[blockIdx.z]) return;
  const VvCompositeSlot& s = slots[blockIdx.z];
  const int x = 16 * (blockIdx.x * blockDim.x + threadIdx.x), y = 2 * (blockIdx.y * blockDim.y + threadIdx.y);
  if (x >= width || y >= height) return;
  const long area = static_cast<long>(width) * height;
  const uint8_t* in0 = s.rgb + 3 * (static_cast<long>(y) * width + x);
  const uint8_t* in1 = in0 + 3L * width;
  const YuvPicture<kNv12> picture = {s.out, width, area};
  const Patch patch = {s.plan, s.placement[0], s.placement[1], s.placement[2], side};
  const bool pasted = patch.scale > 0.f;
  if (wide) {
    unsigned a[12], b[12];
    load48(in0, a);
    load48(in1, b);
    if (pasted) {
      paste16(patch, x, y, a);
      paste16(patch, x, y + 1, b);
    }
    picture.store16(x, y, a, b);
    return;
  }
  const int n = width - x < 16 ? width - x : 16;
  for (int i = 0; i < n; i += 2) {
    uint8_t top[6], bottom[6];
    for (int k = 0; k < 6; ++k) {
      top[k] = in0[3 * i + k];
      bottom[k] = in1[3 * i + k];
    }
    for (int k = 0; pasted && k < 2; ++k) {
      paste1(patch, x + i + k, y, top + 3 * k);
      paste1(patch, x + i + k, y + 1, bottom + 3 * k);
    }
    picture.store2(x + i, y, top, bottom);
  }
}

}  // namespace

// Frame width x height (even), squares of side x side. Returns a cudaError_t; 1 (invalid value) for sizes that make no sense.
VV_CUDA_API int vvc_composite(const VvCompositeSlot* slots, const uint8_t* mask, int n_slots, int side, int width, int height, int nv12,
                              cudaStream_t stream) {
  if (width < 2 || height < 2 || width % 2 || height % 2 || side < 1 || side > 8192) return 1;
  const dim3 block(32, 8), grid((width + 511) / 512, (height + 15) / 16, n_slots);
  const bool wide = width % 16 == 0;
  if (nv12)
    VV_LAUNCH(composite<true>, grid, block, stream, slots, mask, side, width, height, wide);
  else
    VV_LAUNCH(composite<false>, grid, block, stream, slots, mask, side, width, height, wide);
  return cudaGetLastError();
}
