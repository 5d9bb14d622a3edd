// The video network's picture of the face pasted into the frame, and the frame to NV12 or I420, in one pass over the frame.
//
// The picture is a square of `side` pixels; pixel (x, y) of the frame lies at (scale x + x0, scale y + y0) of it, pixel centres
// at halves. Computes, where the frame's pixel lies in the square: colour and weight fetched bilinearly (positions in 1/256
// pixel), weight = mask 255 window(column) window(row) at the square's pixels, rgb = rgb + (colour - rgb) weight / 255, each
// rounded; then what rgb_to_yuv.cu computes. Bit for bit vv_composite() of the CPU library.
// Bytes a pixel: 3 read, 1.5 written; under the square 28 more from cache, once 7 a pixel of the square; operations: 14, and
// about 110 under the square: bound by memory, where the square covers most of the frame by issue.
// Launch: a thread takes 16x2 pixels (16-byte loads and stores of frame and output; the square lies at any place), blocks
// of 32x8 threads, grid (width / 512, height / 16, slots). Widths that are no multiple of 16 take the scalar path. Slots whose
// mask byte is 0 are left alone; a scale of 0 pastes nothing. No host synchronisation; may be captured in a graph.
#include "yuv.cuh"

// One slot's arrays, all on the device; the array of these too. rgb and out are 16-byte aligned.
struct VvCompositeSlot {
  const uint8_t* rgb;      // (H, W, 3) the rasteriser's
  const uint8_t* colour;   // (side, side, 3)
  const float* blend;      // (side, side) how much of it is wanted, 0..1
  const float* placement;  // (3,) scale, x0, y0
  uint8_t* out;            // (H * 3 / 2, W)
};

namespace {

__device__ __forceinline__ unsigned div255(unsigned x) { x += 128; return (x + (x >> 8)) >> 8; }

struct Patch {
  const uint8_t* colour;
  const float* blend;
  const float* window;  // (side,)
  float scale, x0, y0;
  int side;
};

// A position along one axis: the pixel before it and the share of the next in 1/256.
struct Place {
  int low, high;
  unsigned share;
  bool inside;
};

__device__ __forceinline__ Place place(const Patch& p, int pixel, float origin) {
  const float u = p.scale * (static_cast<float>(pixel) + 0.5f) + origin;
  Place out;
  out.inside = u >= 0.f && u <= static_cast<float>(p.side);
  const int q = out.inside ? static_cast<int>(floorf(u * 256.f - 127.5f)) : 0;
  const int i = q >> 8;
  out.share = static_cast<unsigned>(q & 255);
  out.low = i < 0 ? 0 : i;
  out.high = i + 1 < p.side ? i + 1 : p.side - 1;
  return out;
}

__device__ __forceinline__ unsigned weight(const Patch& p, int row, int column) {
  const float m = p.blend[row * p.side + column];
  const float kept = m > 0.f ? (m < 1.f ? m : 1.f) : 0.f;  // nothing where it is not a number
  return static_cast<unsigned>(kept * (255.f * (p.window[row] * p.window[column])) + 0.5f);
}

__device__ __forceinline__ unsigned lerp(unsigned t00, unsigned t01, unsigned t10, unsigned t11, unsigned fx, unsigned fy) {
  const unsigned l = t00 * (256u - fy) + t10 * fy, r = t01 * (256u - fy) + t11 * fy;
  return (l * (256u - fx) + r * fx + (1u << 15)) >> 16;
}

// What the square puts at a pixel: weight 0 where nothing.
__device__ __forceinline__ unsigned fetch(const Patch& p, const Place& row, const Place& column, unsigned (&rgb)[3]) {
  const unsigned w = lerp(weight(p, row.low, column.low), weight(p, row.low, column.high), weight(p, row.high, column.low),
                          weight(p, row.high, column.high), column.share, row.share);
  if (w == 0) return 0;
  const uint8_t *top = p.colour + 3 * row.low * p.side, *bottom = p.colour + 3 * row.high * p.side;
#pragma unroll
  for (int c = 0; c < 3; ++c)
    rgb[c] = lerp(top[3 * column.low + c], top[3 * column.high + c], bottom[3 * column.low + c],
                  bottom[3 * column.high + c], column.share, row.share);
  return w;
}

__device__ __forceinline__ unsigned mixed(unsigned base, unsigned patch, unsigned w) {
  return div255(patch * w + base * (255u - w));
}

// Sixteen pixels of row y from x on.
__device__ __forceinline__ void paste16(const Patch& p, int x, int y, unsigned (&words)[12]) {
  const Place row = place(p, y, p.y0);
  if (!row.inside) return;
#pragma unroll
  for (int k = 0; k < 16; ++k) {
    const Place column = place(p, x + k, p.x0);
    unsigned rgb[3];
    const unsigned w = column.inside ? fetch(p, row, column, rgb) : 0u;
    if (w == 0) continue;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const int at = 3 * k + c, shift = 8 * (at & 3);
      const unsigned old = words[at >> 2];
      words[at >> 2] = (old & ~(255u << shift)) | mixed((old >> shift) & 255u, rgb[c], w) << shift;
    }
  }
}

// One pixel.
__device__ __forceinline__ void paste1(const Patch& p, int x, int y, uint8_t* pixel) {
  const Place row = place(p, y, p.y0), column = place(p, x, p.x0);
  if (!row.inside || !column.inside) return;
  unsigned rgb[3];
  const unsigned w = fetch(p, row, column, rgb);
  if (w == 0) return;
  for (int c = 0; c < 3; ++c) pixel[c] = static_cast<uint8_t>(mixed(pixel[c], rgb[c], w));
}

template <bool kNv12>
__global__ void __launch_bounds__(256) composite(const VvCompositeSlot* slots, const uint8_t* mask, const float* window,
                                                 int side, int width, int height, bool wide) {
  if (mask && !mask[blockIdx.z]) return;
  const VvCompositeSlot& s = slots[blockIdx.z];
  const int x = 16 * (blockIdx.x * blockDim.x + threadIdx.x), y = 2 * (blockIdx.y * blockDim.y + threadIdx.y);
  if (x >= width || y >= height) return;
  const long area = static_cast<long>(width) * height;
  const uint8_t* in0 = s.rgb + 3 * (static_cast<long>(y) * width + x);
  const uint8_t* in1 = in0 + 3L * width;
  const YuvPicture<kNv12> picture = {s.out, width, area};
  const Patch patch = {s.colour, s.blend, window, s.placement[0], s.placement[1], s.placement[2], side};
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

// Frame width x height (even), squares of side x side, window (side,) on the device: the feather along one side.
// Returns a cudaError_t; 1 (invalid value) for sizes that make no sense.
VV_CUDA_API int vvc_composite(const VvCompositeSlot* slots, const uint8_t* mask, const float* window, int n_slots, int side,
                              int width, int height, int nv12, cudaStream_t stream) {
  if (width < 2 || height < 2 || width % 2 || height % 2 || side < 1 || side > 8192) return 1;
  const dim3 block(32, 8), grid((width + 511) / 512, (height + 15) / 16, n_slots);
  const bool wide = width % 16 == 0;
  if (nv12)
    VV_LAUNCH(composite<true>, grid, block, stream, slots, mask, window, side, width, height, wide);
  else
    VV_LAUNCH(composite<false>, grid, block, stream, slots, mask, window, side, width, height, wide);
  return cudaGetLastError();
}
