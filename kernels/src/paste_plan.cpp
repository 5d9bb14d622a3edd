// What a painted square changes in the frame it is pasted into, a pixel of the square: see cuda/paste_plan.cu, which computes the same.
//
// Sums over a window slide: about 60 operations and 40 bytes a pixel of the part that is wanted and ten pixels around, all of it in cache.
#include "kernels.h"
#include "simd.h"

namespace visavis {
namespace VV_ISA {
namespace {

constexpr int kReach = 4;                      // the window is 2 kReach + 1 pixels wide
constexpr int kFine = 1;                       // and what is fine is finer than 2 kFine + 1
constexpr int64_t kFloor = 472392;             // half a level squared in all of the window
constexpr int kOut = kReach + kFine;           // so far from what is wanted something may change
constexpr int kOne = 1 << 14;

struct Box {
  int x0, x1, y0, y1;
  Box grown(int by, int side) const {
    return {x0 - by > 0 ? x0 - by : 0, x1 + by < side ? x1 + by : side, y0 - by > 0 ? y0 - by : 0, y1 + by < side ? y1 + by : side};
  }
};

VV_INLINE int inside(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }

// Weights in 0..255, and the smallest box that holds all that are not 0.
Box weights(const float* mask, const float* window, int side, uint8_t* out) {
  Box box{side, 0, side, 0};
  for (int i = 0; i < side; ++i) {
    const float* m = mask + static_cast<long>(i) * side;
    uint8_t* w = out + static_cast<long>(i) * side;
    unsigned any = 0;
    for (int j = 0; j < side; ++j) {
      const float kept = m[j] > 0.f ? (m[j] < 1.f ? m[j] : 1.f) : 0.f;  // nothing where it is not a number
      w[j] = static_cast<uint8_t>(kept * (255.f * (window[i] * window[j])) + 0.5f);
      any |= w[j];
    }
    if (!any) continue;
    if (box.y0 > i) box.y0 = i;
    box.y1 = i + 1;
    int from = 0, to = side;
    while (!w[from]) ++from;
    while (!w[to - 1]) --to;
    if (box.x0 > from) box.x0 = from;
    if (box.x1 < to) box.x1 = to;
  }
  return box;
}

void paste_plan(const uint8_t* colour, const uint8_t* under, const float* mask, const float* window, int side, int16_t* plan,
                PastePlanScratch& scratch) {
  uint8_t* weight = scratch.weight;
  std::memset(plan, 0, 8L * side * side);
  const Box wanted = weights(mask, window, side, weight);
  if (wanted.y0 >= wanted.y1) return;
  const Box out = wanted.grown(kOut, side), summed = out.grown(kReach, side), seen = summed.grown(kFine, side);

  // Colours changed, and three channels' sum before and after, in quarters of a level; rows and columns are padded by one.
  const long pitch = side + 2;
  int32_t *before = scratch.before + pitch + 1, *after = scratch.after + pitch + 1;
  for (int i = seen.y0; i < seen.y1; ++i)
    for (int j = seen.x0; j < seen.x1; ++j) {
      const long at = static_cast<long>(i) * side + j;
      const uint8_t *c = colour + 3 * at, *u = under + 3 * at;
      const int w = weight[at];
      int sum = 0;
      for (int k = 0; k < 3; ++k) {
        const int change = (w * (c[k] - u[k]) * 16448 + 32768) >> 16;
        plan[4 * at + k] = static_cast<int16_t>(change);
        sum += change;
      }
      const int was = 4 * (u[0] + u[1] + u[2]);
      before[i * pitch + j] = was;
      after[i * pitch + j] = was + (sum >> 4);
    }
  // What is fine in both: a pixel against the square of nine, the border repeated.
  int32_t *lost = scratch.lost, *had = scratch.had;
  for (int i = summed.y0; i < summed.y1; ++i) {
    const auto fine = [&](int32_t* picture, int32_t* to) __attribute__((always_inline)) {
      const long first = inside(i - 1, side) * pitch, last = inside(i + 1, side) * pitch;
      if (summed.x0 == 0)
        for (const long row : {first, i * pitch, last}) picture[row - 1] = picture[row];
      if (summed.x1 == side)
        for (const long row : {first, i * pitch, last}) picture[row + side] = picture[row + side - 1];
      const int32_t *a = picture + first, *b = picture + i * pitch, *c = picture + last;
      for (int j = summed.x0; j < summed.x1; ++j)
        to[j] = 9 * b[j] - (a[j - 1] + a[j] + a[j + 1] + b[j - 1] + b[j] + b[j + 1] + c[j - 1] + c[j] + c[j + 1]);
    };
    int32_t *l = lost + static_cast<long>(i) * side, *h = had + static_cast<long>(i) * side;
    fine(before, h);
    fine(after, l);
    for (int j = summed.x0; j < summed.x1; ++j) {
      l[j] = h[j] * (h[j] - l[j]);
      h[j] *= h[j];
    }
  }
  // Sums over the window: down the columns, then along the row.
  int64_t *lost_sum = scratch.sums, *had_sum = scratch.sums + side;
  for (int j = summed.x0; j < summed.x1; ++j) lost_sum[j] = had_sum[j] = 0;
  const auto add = [&](int i, int sign) __attribute__((always_inline)) {
    if (i < summed.y0 || i >= summed.y1) return;
    const int32_t *l = lost + static_cast<long>(i) * side, *h = had + static_cast<long>(i) * side;
    for (int j = summed.x0; j < summed.x1; ++j) {
      lost_sum[j] += sign * static_cast<int64_t>(l[j]);
      had_sum[j] += sign * static_cast<int64_t>(h[j]);
    }
  };
  for (int i = out.y0 - kReach; i < out.y0 + kReach; ++i) add(i, 1);
  for (int i = out.y0; i < out.y1; ++i) {
    add(i + kReach, 1);
    int64_t lost_here = 0, had_here = kFloor;
    for (int j = summed.x0; j < out.x0 + kReach && j < summed.x1; ++j) {
      lost_here += lost_sum[j];
      had_here += had_sum[j];
    }
    for (int j = out.x0; j < out.x1; ++j) {
      if (j + kReach < summed.x1) {
        lost_here += lost_sum[j + kReach];
        had_here += had_sum[j + kReach];
      }
      if (lost_here > 0) {
        const long at = static_cast<long>(i) * side + j;
        const int gone = lost_here < had_here ? static_cast<int>((lost_here * kOne + had_here / 2) / had_here) : kOne;
        const int share = (gone * (2 * kOne - gone)) >> 14;
        int16_t* p = plan + 4 * at;
        for (int k = 0; k < 3; ++k) p[k] = static_cast<int16_t>(p[k] + ((share * under[3 * at + k] + 128) >> 8));
        p[3] = static_cast<int16_t>(share);
      }
      if (j - kReach >= summed.x0) {
        lost_here -= lost_sum[j - kReach];
        had_here -= had_sum[j - kReach];
      }
    }
    add(i - kReach, -1);
  }
}

}  // namespace

void fill_paste_plan(Kernels& k) { k.paste_plan = paste_plan; }

}  // namespace VV_ISA
}  // namespace visavis
