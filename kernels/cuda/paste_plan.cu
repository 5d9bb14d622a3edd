// What the video network's painting changes in the frame that it is pasted into, a pixel of the square, batched over session slots.
//
// A painting has the square's resolution, the frame often twice or three times that: to paste it over is to blur what the photo
// knows. So only the change against what the square showed of the frame (`under`) is added, and the frame's own finer detail
// stays by as much as the painting kept of the finest that the square does show. Computes, in whole numbers,
//   m = round(255 blend window(column) window(row)),  change = m (colour - under) / 255  in 1/64 level;
//   h = 9 s - (sum of s over 3x3, the border repeated), s = the three channels' sum in 1/4 level, of under and of under + change;
//   lost = clip(sum of h_under (h_under - h_new) / (sum of h_under^2 + floor)) over 9x9 pixels in the square, in 1/16384: what goes
// of the finest, by regression of the new detail on the old; share = lost (2 - lost), what goes of all that is finer: what smooths
// keeps less of it, here the square; plan = (change + share under, share), which composite.cu reads.
// Bit for bit vv_paste_plan() of the CPU library. In a photo without colours of its own the painted one first takes the photo's, by its mean
// (engine/video/tones.py).
// Bytes a pixel of the square: 10 read, 8 written; operations about 250, of them 60 of 64 bits: bound by issue.
// Launch: a thread a pixel, blocks of 16x16 with five pixels around in shared memory, grid (side / 16, side / 16, slots), rounded
// up. Slots whose mask byte is 0 are left alone. No host synchronisation; may be captured in a graph.
#include "cuda_on_cpu.h"

// One slot's arrays, all on the device; the array of these too. plan is 8-byte aligned.
struct VvPastePlanSlot {
  const uint8_t* colour;  // (side, side, 3) painted
  const uint8_t* under;   // (side, side, 3) what was painted on
  const float* blend;     // (side, side) how much of it is wanted, 0..1
  int16_t* plan;          // (side, side, 4)
  const uint8_t* tones;   // (256, 3) the photo's colour by brightness; null where it has colours
};

namespace {

constexpr int kTile = 16, kThreads = kTile * kTile, kReach = 4, kHalo = kReach + 1;
constexpr int kSeen = kTile + 2 * kHalo, kFine = kTile + 2 * kReach;  // sides of what is read, and of what is compared
constexpr long long kFloor = 472392;                                  // half a level squared in all of the window
constexpr int kOne = 1 << 14;

__device__ __forceinline__ int within(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }

__device__ __forceinline__ int weight(const float* blend, const float* window, int side, int row, int column) {
  const float m = blend[row * side + column];
  const float kept = m > 0.f ? (m < 1.f ? m : 1.f) : 0.f;  // nothing where it is not a number
  return static_cast<int>(kept * (255.f * (window[row] * window[column])) + 0.5f);
}

// What was painted, three channels, in the photo's tones.
__device__ __forceinline__ const uint8_t* toned(const VvPastePlanSlot& s, const uint8_t* colour) {
  return s.tones ? s.tones + 3 * ((2 * (colour[0] + colour[1] + colour[2]) + 3) / 6) : colour;
}

__device__ __forceinline__ int change(int weight, int colour, int under) {
  return (weight * (colour - under) * 16448 + 32768) >> 16;
}

__global__ void __launch_bounds__(kThreads) paste_plan(const VvPastePlanSlot* slots, const uint8_t* mask, const float* window,
                                                        int side) {
  __shared__ int before[kSeen * kSeen], after[kSeen * kSeen];
  __shared__ int lost[kFine * kFine], had[kFine * kFine];
  __shared__ long long lost_rows[kFine * kTile], had_rows[kFine * kTile];
  if (mask && !mask[blockIdx.z]) return;  // the same for the whole block
  const VvPastePlanSlot& s = slots[blockIdx.z];
  const int left = blockIdx.x * kTile, top = blockIdx.y * kTile, tid = threadIdx.y * kTile + threadIdx.x;

  for (int i = tid; i < kSeen * kSeen; i += kThreads) {
    const int row = within(top + i / kSeen - kHalo, side), column = within(left + i % kSeen - kHalo, side);
    const int w = weight(s.blend, window, side, row, column);
    const uint8_t *c = toned(s, s.colour + 3L * (row * side + column)), *u = s.under + 3L * (row * side + column);
    int sum = 0;
    for (int k = 0; k < 3; ++k) sum += change(w, c[k], u[k]);
    before[i] = 4 * (u[0] + u[1] + u[2]);
    after[i] = before[i] + (sum >> 4);
  }
  __syncthreads();
  for (int i = tid; i < kFine * kFine; i += kThreads) {
    const int row = i / kFine, column = i % kFine;
    const int y = top + row - kReach, x = left + column - kReach;
    int l = 0, h = 0;
    if (y >= 0 && y < side && x >= 0 && x < side) {
      const int at = (row + 1) * kSeen + column + 1;
      int old = 9 * before[at], fresh = 9 * after[at];
      for (int j = -1; j <= 1; ++j)
        for (int k = -1; k <= 1; ++k) {
          old -= before[at + j * kSeen + k];
          fresh -= after[at + j * kSeen + k];
        }
      l = old * (old - fresh);
      h = old * old;
    }
    lost[i] = l;
    had[i] = h;
  }
  __syncthreads();
  for (int i = tid; i < kFine * kTile; i += kThreads) {
    const int at = i / kTile * kFine + i % kTile;
    long long l = 0, h = 0;
    for (int k = 0; k <= 2 * kReach; ++k) {
      l += lost[at + k];
      h += had[at + k];
    }
    lost_rows[i] = l;
    had_rows[i] = h;
  }
  __syncthreads();
  const int x = left + threadIdx.x, y = top + threadIdx.y;
  if (x >= side || y >= side) return;
  long long l = 0, h = kFloor;
  for (int k = 0; k <= 2 * kReach; ++k) {
    l += lost_rows[tid + k * kTile];
    h += had_rows[tid + k * kTile];
  }
  int share = 0;
  if (l > 0) share = l < h ? static_cast<int>((l * kOne + h / 2) / h) : kOne;
  share = (share * (2 * kOne - share)) >> 14;
  const long at = static_cast<long>(y) * side + x;
  const int w = weight(s.blend, window, side, y, x);
  const uint8_t* c = toned(s, s.colour + 3 * at);
  short out[4];
  for (int k = 0; k < 3; ++k) {
    const int u = s.under[3 * at + k];
    out[k] = static_cast<short>(change(w, c[k], u) + ((share * u + 128) >> 8));
  }
  out[3] = static_cast<short>(share);
  const auto pair = [](short a, short b) {
    return static_cast<unsigned>(static_cast<uint16_t>(a)) | static_cast<unsigned>(static_cast<uint16_t>(b)) << 16;
  };
  reinterpret_cast<uint2*>(s.plan)[at] = make_uint2(pair(out[0], out[1]), pair(out[2], out[3]));
}

}  // namespace

// Squares of side x side, window (side,) on the device: the feather along one side. Returns a cudaError_t; 1 (invalid value) for
// sizes that make no sense.
VV_CUDA_API int vvc_paste_plan(const VvPastePlanSlot* slots, const uint8_t* mask, const float* window, int n_slots, int side,
                               cudaStream_t stream) {
  if (side < 1 || side > 8192 || n_slots < 1) return 1;
  const int tiles = (side + kTile - 1) / kTile;
  VV_LAUNCH(paste_plan, dim3(tiles, tiles, n_slots), dim3(kTile, kTile), stream, slots, mask, window, side);
  return cudaGetLastError();
}
