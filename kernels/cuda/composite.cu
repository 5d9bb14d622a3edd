// A face region from the video network pasted into the frame, and the frame to NV12 or I420, in one pass over the frame.
//
// Computes, where the patch lies: weight = mask * feather / 255, rgb = rgb + (patch - rgb) * weight / 255 (each rounded, as
// vv_blend does), with a feather that rises linearly from the patch's border to 255 over some pixels; then what
// rgb_to_yuv.cu computes. Bit for bit vv_blend() and vv_rgb_to_i420() of the CPU library one after the other.
// Bytes a pixel: 3 read, 1.5 written, 4 more read under the patch (vv_blend and conversion apart: 3 + 3 + 3 + 1.5 + 4);
// operations: 14, and 25 under the patch: bound by memory.
// Launch: a thread takes 16x2 pixels (16-byte loads and stores of frame and output; bytes of the patch, which lies at any
// place), blocks of 32x8 threads, grid (width / 512, height / 16, slots). Widths that are no multiple of 16 take the scalar
// path. Slots whose mask byte is 0 are left alone. No host synchronisation; may be captured in a graph.
#include "yuv.cuh"

// One slot's arrays, all on the device; the array of these too. rgb and out are 16-byte aligned.
struct VvCompositeSlot {
  const uint8_t* rgb;    // (H, W, 3) the rasteriser's
  const uint8_t* patch;  // (h, w, 3)
  const uint8_t* blend;  // (h, w) how much of the patch is wanted
  uint8_t* out;          // (H * 3 / 2, W)
  int x, y;              // of the patch's corner in the frame; any part of it may lie outside
};

namespace {

__device__ __forceinline__ unsigned div255(unsigned x) { x += 128; return (x + (x >> 8)) >> 8; }

struct Patch {
  int width, height, feather;
};

// In 255ths; i, j within the patch. The centre of the border pixel lies half a pixel inside.
__device__ __forceinline__ unsigned weight(const VvCompositeSlot& s, const Patch& p, int i, int j) {
  const int right = p.width - 1 - j, below = p.height - 1 - i;
  const int across = j < right ? j : right, down = i < below ? i : below, d = across < down ? across : down;
  const unsigned m = s.blend[static_cast<long>(i) * p.width + j];
  if (d >= p.feather) return m;
  return div255(m * static_cast<unsigned>((255 * (2 * d + 1) + p.feather) / (2 * p.feather)));
}

__device__ __forceinline__ bool in_patch(const VvCompositeSlot& s, const Patch& p, int x, int y) {
  return x >= s.x && x - s.x < p.width && y >= s.y && y - s.y < p.height;
}

__device__ __forceinline__ unsigned mixed(unsigned base, unsigned patch, unsigned w) {
  return div255(patch * w + base * (255u - w));
}

// Sixteen pixels of row y from x on.
__device__ __forceinline__ void paste16(const VvCompositeSlot& s, const Patch& p, int x, int y, unsigned (&words)[12]) {
  if (y < s.y || y - s.y >= p.height || x + 16 <= s.x || x - s.x >= p.width) return;
#pragma unroll
  for (int k = 0; k < 16; ++k) {
    if (!in_patch(s, p, x + k, y)) continue;
    const int i = y - s.y, j = x + k - s.x;
    const unsigned w = weight(s, p, i, j);
    if (w == 0) continue;
    const uint8_t* q = s.patch + 3 * (static_cast<long>(i) * p.width + j);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const int at = 3 * k + c, shift = 8 * (at & 3);
      const unsigned old = words[at >> 2];
      words[at >> 2] = (old & ~(255u << shift)) | mixed((old >> shift) & 255u, q[c], w) << shift;
    }
  }
}

// One pixel.
__device__ __forceinline__ void paste1(const VvCompositeSlot& s, const Patch& p, int x, int y, uint8_t* rgb) {
  if (!in_patch(s, p, x, y)) return;
  const int i = y - s.y, j = x - s.x;
  const unsigned w = weight(s, p, i, j);
  const uint8_t* q = s.patch + 3 * (static_cast<long>(i) * p.width + j);
  for (int c = 0; c < 3; ++c) rgb[c] = static_cast<uint8_t>(mixed(rgb[c], q[c], w));
}

template <bool kNv12>
__global__ void __launch_bounds__(256) composite(const VvCompositeSlot* slots, const uint8_t* mask, int width, int height,
                                                 Patch patch, bool wide) {
  if (mask && !mask[blockIdx.z]) return;
  const VvCompositeSlot& s = slots[blockIdx.z];
  const int x = 16 * (blockIdx.x * blockDim.x + threadIdx.x), y = 2 * (blockIdx.y * blockDim.y + threadIdx.y);
  if (x >= width || y >= height) return;
  const long area = static_cast<long>(width) * height;
  const uint8_t* in0 = s.rgb + 3 * (static_cast<long>(y) * width + x);
  const uint8_t* in1 = in0 + 3L * width;
  const YuvPicture<kNv12> picture = {s.out, width, area};
  if (wide) {
    unsigned a[12], b[12];
    load48(in0, a);
    load48(in1, b);
    paste16(s, patch, x, y, a);
    paste16(s, patch, x, y + 1, b);
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
    for (int k = 0; k < 2; ++k) {
      paste1(s, patch, x + i + k, y, top + 3 * k);
      paste1(s, patch, x + i + k, y + 1, bottom + 3 * k);
    }
    picture.store2(x + i, y, top, bottom);
  }
}

}  // namespace

// Frame width x height (even), patch and blend patch_width x patch_height; feather in pixels, 0 = a hard border.
// Returns a cudaError_t; 1 (invalid value) for sizes that make no sense.
VV_CUDA_API int vvc_composite(const VvCompositeSlot* slots, const uint8_t* mask, int n_slots, int width, int height,
                              int patch_width, int patch_height, int feather, int nv12, cudaStream_t stream) {
  if (width < 2 || height < 2 || width % 2 || height % 2 || patch_width < 0 || patch_height < 0 || feather < 0 ||
      feather > 8192)
    return 1;
  const dim3 block(32, 8), grid((width + 511) / 512, (height + 15) / 16, n_slots);
  const Patch patch = {patch_width, patch_height, feather};
  const bool wide = width % 16 == 0;
  if (nv12)
    VV_LAUNCH(composite<true>, grid, block, stream, slots, mask, width, height, patch, wide);
  else
    VV_LAUNCH(composite<false>, grid, block, stream, slots, mask, width, height, patch, wide);
  return cudaGetLastError();
}
