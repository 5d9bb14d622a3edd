// The square around the face that the video network sees, cut out of a drawn frame, batched over session slots.
//
// Pixel (x, y) of the frame lies at (scale x + x0, scale y + y0) of the square, pixel centres at halves. Computes colour and
// coverage bilinearly (positions in 1/256 pixel), of the frame averaged over `by` x `by` pixels where it is shrunk much; labels
// and rest positions from the nearest pixel, positions as bytes within a box (1..255, 0 where the label is background). For a
// slot whose first frame this is also the picture as floats in planes: its own history.
// Bytes a pixel of the square: 4 by^2 x 4 read (from cache, once 4 / scale^2), 13 read for the nearest, 8 written; operations
// about 60 + 16 by^2: bound by memory. 16-byte stores, by way of shared memory.
// Launch: a thread a pixel, a block of 256 a piece of a row, grid (side / 256, side, slots). Slots whose mask byte is 0 are left
// alone. No host synchronisation; may be captured in a graph.
#include "cuda_on_cpu.h"

// One slot's place: scale, x0, y0, and the averaged picture: `by` pixels a side, its corner in the frame, its size.
struct VvCropPlace {
  float scale, x0, y0;
  int by, left, top, columns, rows;
};

// Arrays of all slots, on the device, 16-byte aligned.
struct VvFaceCrop {
  const uint8_t* rgb;        // (slots, H, W, 3)
  const uint8_t* coverage;   // (slots, H, W)
  const uint8_t* labels;     // (slots, H, W)
  const float* position;     // (slots, H, W, 3)
  const VvCropPlace* place;  // (slots,)
  const uint8_t* mask;       // (slots,) or null
  const uint8_t* fresh;      // (slots,)
  uint8_t *warp, *seen, *part, *rest;  // (slots, side, side, 3 / 1 / 1 / 3)
  float* previous;           // (slots, 3, side, side)
  float factor[3], offset[3];  // positions in metres to bytes
  int width, height, side;
};

namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ int within(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }

// A pixel of the averaged picture: red, green, blue, coverage.
__device__ __forceinline__ void average(const uint8_t* rgb, const uint8_t* coverage, const VvCropPlace& p, int width, int row,
                                        int column, unsigned (&out)[4]) {
  unsigned sum[4] = {0, 0, 0, 0};
  const int y0 = p.top + row * p.by, x0 = p.left + column * p.by;
  for (int y = y0; y < y0 + p.by; ++y)
    for (int x = x0; x < x0 + p.by; ++x) {
      const long at = static_cast<long>(y) * width + x;
      for (int c = 0; c < 3; ++c) sum[c] += rgb[3 * at + c];
      sum[3] += coverage[at];
    }
  const unsigned n = static_cast<unsigned>(p.by * p.by);
  for (int c = 0; c < 4; ++c) out[c] = (sum[c] + n / 2) / n;
}

__device__ __forceinline__ uint8_t quantised(float x, float factor, float offset) {
  const float q = x * factor + offset;
  return static_cast<uint8_t>(q > 1.f ? (q < 255.f ? q : 255.f) : 1.f);
}

__global__ void __launch_bounds__(kThreads) face_crop(VvFaceCrop k) {
  __shared__ uint4 warp_row[3 * kThreads / 16], rest_row[3 * kThreads / 16], seen_row[kThreads / 16], part_row[kThreads / 16];
  const int slot = blockIdx.z;
  if (k.mask && !k.mask[slot]) return;  // the same for the whole block
  const int tid = threadIdx.x, u = blockIdx.x * kThreads + tid, v = blockIdx.y;
  const long area = static_cast<long>(k.width) * k.height, square = static_cast<long>(k.side) * k.side;
  const VvCropPlace p = k.place[slot];
  const uint8_t *rgb = k.rgb + 3 * slot * area, *coverage = k.coverage + slot * area, *labels = k.labels + slot * area;
  const float* position = k.position + 3 * slot * area;

  const float x = (static_cast<float>(u) + 0.5f - p.x0) / p.scale, y = (static_cast<float>(v) + 0.5f - p.y0) / p.scale;
  const float by = static_cast<float>(p.by);
  // Far outside the frame the border repeats: kept to what an int holds.
  const auto q8 = [](float t) { return static_cast<int>(floorf((t < -1e6f ? -1e6f : t < 1e6f ? t : 1e6f) * 256.f - 127.5f)); };
  const int qx = q8((x - static_cast<float>(p.left)) / by), qy = q8((y - static_cast<float>(p.top)) / by);
  const unsigned fx = static_cast<unsigned>(qx & 255), fy = static_cast<unsigned>(qy & 255);
  const int c0 = within(qx >> 8, p.columns), c1 = within((qx >> 8) + 1, p.columns);
  const int r0 = within(qy >> 8, p.rows), r1 = within((qy >> 8) + 1, p.rows);
  unsigned t00[4], t01[4], t10[4], t11[4], colour[4];
  average(rgb, coverage, p, k.width, r0, c0, t00);
  average(rgb, coverage, p, k.width, r0, c1, t01);
  average(rgb, coverage, p, k.width, r1, c0, t10);
  average(rgb, coverage, p, k.width, r1, c1, t11);
  for (int c = 0; c < 4; ++c) {
    const unsigned l = t00[c] * (256u - fy) + t10[c] * fy, r = t01[c] * (256u - fy) + t11[c] * fy;
    colour[c] = (l * (256u - fx) + r * fx + (1u << 15)) >> 16;
  }
  const auto pixel = [](float t, int n) {
    return within(static_cast<int>(floorf(t < -1.f ? -1.f : t < 16384.f ? t : 16384.f)), n);
  };
  const long at = static_cast<long>(pixel(y, k.height)) * k.width + pixel(x, k.width);
  const uint8_t label = labels[at];

  uint8_t *warp = reinterpret_cast<uint8_t*>(warp_row), *rest = reinterpret_cast<uint8_t*>(rest_row);
  for (int c = 0; c < 3; ++c) {
    warp[3 * tid + c] = static_cast<uint8_t>(colour[c]);
    rest[3 * tid + c] = label ? quantised(position[3 * at + c], k.factor[c], k.offset[c]) : static_cast<uint8_t>(0);
  }
  reinterpret_cast<uint8_t*>(seen_row)[tid] = static_cast<uint8_t>(colour[3]);
  reinterpret_cast<uint8_t*>(part_row)[tid] = label;
  if (k.fresh[slot])
    for (int c = 0; c < 3; ++c)
      k.previous[(3 * slot + c) * square + static_cast<long>(v) * k.side + u] = static_cast<float>(colour[c]) / 255.f;
  __syncthreads();
  const long first = slot * square + static_cast<long>(v) * k.side + blockIdx.x * kThreads;
  constexpr int kWide = 3 * kThreads / 16, kNarrow = kThreads / 16;
  if (tid < kWide)
    reinterpret_cast<uint4*>(k.warp + 3 * first)[tid] = warp_row[tid];
  else if (tid < 2 * kWide)
    reinterpret_cast<uint4*>(k.rest + 3 * first)[tid - kWide] = rest_row[tid - kWide];
  else if (tid < 2 * kWide + kNarrow)
    reinterpret_cast<uint4*>(k.seen + first)[tid - 2 * kWide] = seen_row[tid - 2 * kWide];
  else if (tid < 2 * kWide + 2 * kNarrow)
    reinterpret_cast<uint4*>(k.part + first)[tid - 2 * kWide - kNarrow] = part_row[tid - 2 * kWide - kNarrow];
}

}  // namespace

// `crop` is on the host. Returns a cudaError_t; 1 (invalid value) unless side is a multiple of 256.
VV_CUDA_API int vvc_face_crop(const VvFaceCrop* crop, int slots, cudaStream_t stream) {
  const VvFaceCrop k = *crop;
  if (k.side < kThreads || k.side % kThreads || slots < 1 || k.width < 1 || k.height < 1) return 1;
  VV_LAUNCH(face_crop, dim3(k.side / kThreads, k.side, slots), dim3(kThreads), stream, k);
  return cudaGetLastError();
}
