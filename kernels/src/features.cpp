// What networks are given: log-mel features and the square around the face, the CPU twins of cuda/log_mel.cu and
// cuda/face_crop.cu, the same bits (but for the C library's logarithm).
//
// Log-mel: up to eight windows at a time, one a lane, the FFT's butterflies one after the other: 16 kB of working memory.
// Face crop: a row of the square at a time. The two rows of the frame (averaged first where it is shrunk much) that it lies
// between are packed once and mixed over their whole length, then each pixel mixes two columns: 16 B a pixel of the square.
#include <cmath>

#include "kernels.h"
#include "simd.h"

namespace visavis {
namespace VV_ISA {
namespace {

constexpr int kFft = 512, kLog2 = 9, kWindow = 400, kHop = 160, kBands = 80, kLanes = 8;

int reversed(int i) {
  int r = 0;
  for (int b = 0; b < kLog2; ++b) r |= (i >> b & 1) << (kLog2 - 1 - b);
  return r;
}

void log_mel(const MelTables& t, const float* sound, int windows, float* out) {
  f8 re[kFft], im[kFft], power[kFft / 2 + 1];
  for (int begin = 0; begin < windows; begin += kLanes) {
    const int n = windows - begin < kLanes ? windows - begin : kLanes;
    for (int i = 0; i < kFft; ++i) {
      const int from = reversed(i);
      f8 x = splat(0.f);
      if (from < kWindow)
        for (int w = 0; w < n; ++w) x[w] = sound[(begin + w) * kHop + from] * t.window[from];
      re[i] = x;
      im[i] = splat(0.f);
    }
    for (int half = 1; half < kFft; half *= 2)
      for (int first = 0; first < kFft; first += 2 * half)
        for (int k = 0; k < half; ++k) {
          const int a = first + k, b = a + half;
          const f8 c = splat(t.cosine[k * (kFft / 2 / half)]), s = splat(t.sine[k * (kFft / 2 / half)]);
          const f8 xr = re[b] * c - im[b] * s, xi = re[b] * s + im[b] * c;
          re[b] = re[a] - xr;
          im[b] = im[a] - xi;
          re[a] = re[a] + xr;
          im[a] = im[a] + xi;
        }
    for (int i = 0; i <= kFft / 2; ++i) power[i] = (re[i] * re[i] + im[i] * im[i]) * splat(t.scale);
    for (int band = 0; band < kBands; ++band) {
      f8 sum = splat(0.f);
      for (int i = t.first[band]; i < t.first[band + 1]; ++i)
        sum += splat(t.weights[i]) * power[t.bin[band] + i - t.first[band]];
      sum = (sum + splat(t.floor)) / splat(t.floor);
      for (int w = 0; w < n; ++w) out[(begin + w) * kBands + band] = logf(sum[w]);
    }
  }
}

typedef uint16_t h4 __attribute__((vector_size(8)));
typedef uint32_t w4 __attribute__((vector_size(16)));
typedef uint8_t b4 __attribute__((vector_size(4)));

int within(int i, int n) { return i < 0 ? 0 : i < n ? i : n - 1; }
int q8(float t) { return static_cast<int>(floorf((t < -1e6f ? -1e6f : t < 1e6f ? t : 1e6f) * 256.f - 127.5f)); }
int pixel(float t, int n) { return within(static_cast<int>(floorf(t < -1.f ? -1.f : t < 16384.f ? t : 16384.f)), n); }

// Columns [from, to) of row `row` of the averaged picture: red, green, blue, coverage of each.
void pack(const FaceCrop& k, int row, int from, int to, uint8_t* __restrict out) {
  if (k.by == 1) {
    const long at = static_cast<long>(k.top + row) * k.width + k.left;
    const uint8_t *__restrict rgb = k.rgb + 3 * at, *__restrict coverage = k.coverage + at;
    for (int c = from; c < to; ++c) {
      for (int i = 0; i < 3; ++i) out[4 * c + i] = rgb[3 * c + i];
      out[4 * c + 3] = coverage[c];
    }
    return;
  }
  if (k.by == 2) {
    const long at = static_cast<long>(k.top + 2 * row) * k.width + k.left;
    const uint8_t *__restrict a = k.rgb + 3 * at, *__restrict b = a + 3L * k.width;
    const uint8_t *__restrict p = k.coverage + at, *__restrict q = p + k.width;
    for (int c = from; c < to; ++c) {
      for (int i = 6 * c; i < 6 * c + 3; ++i) out[4 * c + i - 6 * c] = static_cast<uint8_t>((a[i] + a[i + 3] + b[i] + b[i + 3] + 2) >> 2);
      out[4 * c + 3] = static_cast<uint8_t>((p[2 * c] + p[2 * c + 1] + q[2 * c] + q[2 * c + 1] + 2) >> 2);
    }
    return;
  }
  const unsigned n = static_cast<unsigned>(k.by * k.by);
  for (int c = from; c < to; ++c) {
    unsigned sum[4] = {0, 0, 0, 0};
    const int y0 = k.top + row * k.by, x0 = k.left + c * k.by;
    for (int y = y0; y < y0 + k.by; ++y)
      for (int x = x0; x < x0 + k.by; ++x) {
        const long at = static_cast<long>(y) * k.width + x;
        for (int i = 0; i < 3; ++i) sum[i] += k.rgb[3 * at + i];
        sum[3] += k.coverage[at];
      }
    for (int i = 0; i < 4; ++i) out[4 * c + i] = static_cast<uint8_t>((sum[i] + n / 2) / n);
  }
}

void mix(const uint8_t* __restrict top, const uint8_t* __restrict bottom, unsigned share, int n, uint16_t* __restrict out) {
  for (int i = 0; i < n; ++i) out[i] = static_cast<uint16_t>(top[i] * (256u - share) + bottom[i] * share);
}

// Colour and coverage of a row, from the mixed one.
void fetch(const FaceCropScratch& s, int side, uint8_t* __restrict warp, uint8_t* __restrict seen) {
  const int32_t *__restrict low = s.low, *__restrict high = s.high;
  const uint16_t *__restrict share = s.share, *__restrict mixed = s.mixed;
  for (int u = 0; u < side; ++u) {
    h4 left, right;
    std::memcpy(&left, mixed + 4 * low[u], sizeof left);
    std::memcpy(&right, mixed + 4 * high[u], sizeof right);
    const uint32_t fx = share[u], rest = 256u - fx, half = 1u << 15;
    const w4 sum = (__builtin_convertvector(left, w4) * w4{rest, rest, rest, rest} +
                    __builtin_convertvector(right, w4) * w4{fx, fx, fx, fx} + w4{half, half, half, half}) >> 16;
    const auto bytes = __builtin_convertvector(sum, b4);
    uint32_t pixel;
    std::memcpy(&pixel, &bytes, sizeof pixel);
    if (u + 1 < side) {
      std::memcpy(warp + 3 * u, &pixel, 4);  // the fourth byte is written over by the next pixel
    } else {
      std::memcpy(warp + 3 * u, &pixel, 3);
    }
    seen[u] = static_cast<uint8_t>(pixel >> 24);
  }
}

// Labels and positions of a row, as they are.
void nearest(const FaceCropScratch& s, int side, const uint8_t* __restrict labels, const float* __restrict positions,
             uint8_t* __restrict part, float* __restrict out) {
  const int32_t* __restrict at = s.nearest;
  for (int u = 0; u < side; ++u) {
    const float* p = positions + 3L * at[u];
    part[u] = labels[at[u]];
    out[3 * u] = p[0];
    out[3 * u + 1] = p[1];
    out[3 * u + 2] = p[2];
  }
}

void quantise(const float* __restrict position, const float* __restrict factor, const float* __restrict offset,
              const uint8_t* __restrict part, int side, uint8_t* __restrict out) {
  for (int i = 0; i < 3 * side; ++i) {
    const float p = position[i] * factor[i] + offset[i];
    out[i] = static_cast<uint8_t>(static_cast<int>(p > 1.f ? (p < 255.f ? p : 255.f) : 1.f));
  }
  for (int u = 0; u < side; ++u) {
    const uint8_t kept = part[u] ? 255 : 0;
    for (int i = 0; i < 3; ++i) out[3 * u + i] &= kept;
  }
}

void face_crop(const FaceCrop& k, FaceCropScratch& s) {
  const float by = static_cast<float>(k.by);
  for (int u = 0; u < k.wide; ++u) {
    const float x = (static_cast<float>(k.u0 + u) + 0.5f - k.x0) / k.scale;
    const int q = q8((x - static_cast<float>(k.left)) / by);
    s.low[u] = within(q >> 8, k.columns);
    s.high[u] = within((q >> 8) + 1, k.columns);
    s.share[u] = static_cast<uint16_t>(q & 255);
    s.nearest[u] = pixel(x, k.width);
  }
  const int from = s.low[0], to = s.high[k.wide - 1] + 1;  // columns only grow
  int held[2] = {-1, -1};
  for (int v = 0; v < k.tall; ++v) {
    const float y = (static_cast<float>(k.v0 + v) + 0.5f - k.y0) / k.scale;
    const int q = q8((y - static_cast<float>(k.top)) / by);
    const int rows[2] = {within(q >> 8, k.rows), within((q >> 8) + 1, k.rows)};
    for (const int row : rows)
      if (held[row & 1] != row) {
        pack(k, row, from, to, s.packed[row & 1]);
        held[row & 1] = row;
      }
    const long row = static_cast<long>(v) * k.wide, source = static_cast<long>(pixel(y, k.height)) * k.width;
    mix(s.packed[rows[0] & 1] + 4 * from, s.packed[rows[1] & 1] + 4 * from, static_cast<unsigned>(q & 255), 4 * (to - from),
        s.mixed + 4 * from);
    fetch(s, k.wide, k.warp + 3 * row, k.seen + row);
    nearest(s, k.wide, k.labels + source, k.position + 3 * source, k.part + row, s.position);
    quantise(s.position, s.factor, s.offset, k.part + row, k.wide, k.rest + 3 * row);
  }
}

}  // namespace

void fill_features(Kernels& k) {
  k.log_mel = log_mel;
  k.face_crop = face_crop;
}

}  // namespace VV_ISA
}  // namespace visavis
