// RGB -> I420 or NV12 (BT.601, limited range), batched over session slots.
//
// Computes what kernels/src/color.cpp computes, bit for bit: Y a pixel, U and V from the sum of 2x2 pixels, Q15.
// Bytes a pixel: 3 read, 1.5 written; about 14 integer operations: bound by memory.
// Launch: a thread takes 16x2 pixels (three 16-byte loads and one 16-byte store a row; chroma 8-byte stores, or one of 16);
// blocks of 32x8 threads, grid (width / 512, height / 16, slots). Widths that are no multiple of 16 take the scalar path.
// Slots whose mask byte is 0 are left alone. No host synchronisation; may be captured in a graph.
#include "yuv.cuh"

namespace {

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
  const YuvPicture<kNv12> picture = {out + slot * (area + area / 2), width, area};
  if (wide) {
    unsigned a[12], b[12];
    load48(in0, a);
    load48(in1, b);
    picture.store16(x, y, a, b);
    return;
  }
  const int n = width - x < 16 ? width - x : 16;
  for (int i = 0; i < n; i += 2) picture.store2(x + i, y, in0 + 3 * i, in1 + 3 * i);
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
