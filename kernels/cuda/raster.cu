// The rasteriser: a mesh drawn as one group over what is there, batched over session slots (each its own person).
//
// Computes what kernels/src/raster.cpp computes, bit for bit: fixed-point edge functions with the top-left rule,
// perspective-correct texture position and attributes, bicubic or bilinear fetch, boundary ramps, two exact depth layers.
// A pixel's fragments are inserted in the order of the triangles, as there: no atomics, no order of arrival.
//
// Three launches on one stream, of sizes that the host knows beforehand (a graph can hold them):
//   setup  a thread a triangle, blocks of 128, grid (T / 128, slots): planes, edges, box -> one record of 240 B.
//   bin    a block a bin of 128x128 pixels, grid (bins x, bins y, slots): the triangles whose box touches it, in order.
//   draw   a block a tile of 16x16 pixels, a thread a pixel, grid (tiles x, tiles y, slots): the bin's triangles that touch
//          the tile, 32 records at a time in shared memory (8 kB); both layers stay in registers; outputs written once.
// Bytes a slot (T triangles, P pixels): setup about 110 T read (cached) and 248 T written; bin 8 T a bin; draw 240 B a
// triangle and tile, 64 B of texels (cached) and 7 to 20 B a covered pixel. Operations: 150 T, then about 20 a pixel and
// record of its tile, 60 a fragment, 150 a fetch; T = 8000 on 512x512: about 0.2 GOP, 12 MB: bound by latency and issue.
// Opaque triangles are fetched once, for the fragment that stays in front. Slots whose mask byte is 0 are left alone.
// Records come 16 bytes a thread; outputs do not go out so, and why: a pixel is a thread, which stores 8 times (bytes of colour, coverage,
// label; three floats) against some 400 other instructions (a dozen records, two fragments, a fetch), so wider stores would save about 2 % of
// what is issued. They save no traffic: a tile's rows are 48, 16 and 192 bytes that its warps write within microseconds, and L2 makes
// whole sectors of them before they leave. They would cost a trip through shared memory with a barrier that every pixel must reach, the
// early return above uncovered pixels (most of a limb's or an eye's launch) and a second path for widths that are no multiple of 16.
#include "cuda_on_cpu.h"

// One slot's arrays, all on the device; the array of these too. Shapes as in visavis.kernels.Mesh and Target.
struct VvRasterSlot {
  const int32_t* triangles;   // (T, 3)
  const float* uv;            // (V, 2)
  const float* attr;          // (V, 3)
  const uint8_t* part;        // (T,)
  const uint8_t* edges;       // (T,)
  const uint8_t* kind;        // (T,) 0 mixed, 1 only opaque texels, 2 only invisible ones; or null
  const float* rest_depth;    // (V,) or null
  const float* shade;         // (V,) or null
  const uint8_t* texture;     // (Ht + 4, Wt + 4, 4) premultiplied RGBA, two replicated texels around it
  const float* vertices;      // (V, 3)
  const float* brightness;    // (V,) or null
  const uint8_t* plate;       // (H, W, 3) read if the draw begins a frame
  uint8_t *rgb, *coverage, *labels;
  float* position;
  void* scratch;              // vvc_raster_scratch() bytes, 16-byte aligned
  int n_triangles, tex_width, tex_height;
  float uv_margin;
};

namespace {

constexpr int kSetupThreads = 128, kThreads = 256, kWarps = kThreads / 32, kTile = 16, kBin = 128, kBatch = 32;
constexpr int kPad = 2, kSubpixel = 256;
constexpr float kGuard = 16384.f, kSameSurface = 5e-4f, kSameRamp = 2e-2f;
constexpr int kPerspective = 1, kBicubicFlag = 2, kCull = 4, kBegin = 8;

// A triangle ready to be drawn. Quantities: u, v, q, 1/z, attr 0..2, brightness.
struct Record {
  long long c[3];                  // edge functions in 1/256 pixel: c + a x + b y, >= 0 inside
  int a[3], b[3];
  float gx[8], gy[8];
  float lo[8], hi[8];              // of u and v with the margin, within the texture
  float origin_u, origin_v, origin_attr[3];
  float base_q, base_depth, base_bright;
  float x0, y0;                    // corner 0
  uint8_t part, edges, solid, flip;
  float unused;
  float fx[2], fy[2];              // corners 1 and 2 in positive order, as they are
};
constexpr int kWords = sizeof(Record) / 16;
static_assert(sizeof(Record) == 240, "records are copied 16 bytes a thread");

struct Box { int16_t x0, y0, x1, y1; };

struct Scratch {
  Record* records;
  Box* boxes;
  int *lists, *counts;
};

__host__ __device__ __forceinline__ int bins_of(int side) { return (side + kBin - 1) / kBin; }

__device__ __forceinline__ Scratch carve(void* p, int capacity, int bins) {
  Scratch s;
  s.records = static_cast<Record*>(p);
  s.boxes = reinterpret_cast<Box*>(s.records + capacity);
  s.lists = reinterpret_cast<int*>(s.boxes + capacity);
  s.counts = s.lists + static_cast<long>(bins) * capacity;
  return s;
}

__device__ __forceinline__ int least(int a, int b) { return a < b ? a : b; }
__device__ __forceinline__ int most(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ float least(float a, float b) { return a < b ? a : b; }
__device__ __forceinline__ float most(float a, float b) { return a > b ? a : b; }
__device__ __forceinline__ float clamp(float x, float lo, float hi) { return least(most(x, lo), hi); }
__device__ __forceinline__ float within(float v, float hi) { return v < 0.f ? 0.f : v > hi ? hi : v; }

// Rounded to the nearest 1/256 pixel, halves up; exact in float32 inside the guard band.
__device__ __forceinline__ int snap(float x) {
  const float v = x * kSubpixel, f = floorf(v);
  return static_cast<int>(f) + (v - f >= 0.5f ? 1 : 0);
}

// False: leave the triangle out.
__device__ bool set_up(const VvRasterSlot& s, int t, int flags, int width, int height, Record& r, Box& box) {
  if (s.kind && s.kind[t] == 2) return false;
  const bool perspective = flags & kPerspective;
  int fixed[3][2];
  float x[3], y[3], value[3][8], weight[3][8];
  for (int k = 0; k < 3; ++k) {
    const long i = s.triangles[3 * t + k];
    const float z = s.vertices[3 * i + 2], inverse = 1.f / z;
    x[k] = s.vertices[3 * i];
    y[k] = s.vertices[3 * i + 1];
    if (!(x[k] > -kGuard && x[k] < kGuard && y[k] > -kGuard && y[k] < kGuard && z > 0.f && inverse > 0.f &&
          inverse < 3e38f))
      return false;
    fixed[k][0] = snap(x[k]);
    fixed[k][1] = snap(y[k]);
    float q = perspective ? inverse : 1.f;
    if (perspective && s.rest_depth) q = s.rest_depth[i] / z;
    float b = s.shade ? s.shade[i] : 1.f;
    if (s.brightness) b *= s.brightness[i];
    b = b >= 0.f ? (b < 16.f ? b : 16.f) : 0.f;
    const float w = perspective ? inverse : 1.f;
    value[k][0] = s.uv[2 * i];
    value[k][1] = s.uv[2 * i + 1];
    value[k][2] = q;
    value[k][3] = inverse;
    for (int c = 0; c < 3; ++c) value[k][4 + c] = s.attr[3 * i + c];
    value[k][7] = b;
    for (int c = 0; c < 8; ++c) weight[k][c] = c < 2 ? q : c >= 4 && c < 7 ? w : 1.f;
  }
  const long long area = static_cast<long long>(fixed[1][0] - fixed[0][0]) * (fixed[2][1] - fixed[0][1]) -
                         static_cast<long long>(fixed[2][0] - fixed[0][0]) * (fixed[1][1] - fixed[0][1]);
  if (area == 0 || ((flags & kCull) && area > 0)) return false;

  r.edges = s.edges[t];
  const int reach = r.edges ? kSubpixel + kSubpixel / 2 : 0;
  const int min_x = least(fixed[0][0], least(fixed[1][0], fixed[2][0])) - reach;
  const int max_x = most(fixed[0][0], most(fixed[1][0], fixed[2][0])) + reach;
  const int min_y = least(fixed[0][1], least(fixed[1][1], fixed[2][1])) - reach;
  const int max_y = most(fixed[0][1], most(fixed[1][1], fixed[2][1])) + reach;
  const int x0 = most((min_x + kSubpixel / 2 - 1) >> 8, 0), x1 = least((max_x + kSubpixel / 2) >> 8, width);
  const int y0 = most((min_y + kSubpixel / 2 - 1) >> 8, 0), y1 = least((max_y + kSubpixel / 2) >> 8, height);
  if (x0 >= x1 || y0 >= y1) return false;
  box.x0 = static_cast<int16_t>(x0);
  box.y0 = static_cast<int16_t>(y0);
  box.x1 = static_cast<int16_t>(x1);
  box.y1 = static_cast<int16_t>(y1);

  const float dx1 = x[1] - x[0], dy1 = y[1] - y[0], dx2 = x[2] - x[0], dy2 = y[2] - y[0];
  const float det = dx1 * dy2 - dx2 * dy1;
  bool finite = true;
  for (int c = 0; c < 8; ++c) {
    const float a = value[0][c], b = value[1][c], d = value[2][c];
    const float d1 = (b - a) * weight[1][c], d2 = (d - a) * weight[2][c];
    r.gx[c] = det == 0.f ? 0.f : (d1 * dy2 - d2 * dy1) / det;
    r.gy[c] = det == 0.f ? 0.f : (dx1 * d2 - dx2 * d1) / det;
    const float sum = r.gx[c] + r.gy[c];
    finite = finite && sum - sum == 0.f;
    r.lo[c] = least(a, least(b, d));
    r.hi[c] = most(a, most(b, d));
  }
  if (!finite) return false;
  for (int c = 0; c < 2; ++c) {
    const float limit = static_cast<float>(c ? s.tex_height : s.tex_width);
    r.lo[c] = within(r.lo[c] - s.uv_margin, limit);
    r.hi[c] = within(r.hi[c] + s.uv_margin, limit);
  }
  r.origin_u = value[0][0];
  r.origin_v = value[0][1];
  for (int c = 0; c < 3; ++c) r.origin_attr[c] = value[0][4 + c];
  r.base_q = value[0][2];
  r.base_depth = value[0][3];
  r.base_bright = value[0][7];
  r.x0 = x[0];
  r.y0 = y[0];
  r.part = s.part[t];
  r.solid = s.kind && s.kind[t] == 1;
  r.flip = area < 0;
  r.unused = 0.f;
  const int order[3] = {0, area > 0 ? 1 : 2, area > 0 ? 2 : 1};
  for (int k = 0; k < 3; ++k) {
    const int* p = fixed[order[k]];
    const int* n = fixed[order[k == 2 ? 0 : k + 1]];
    const int a = p[1] - n[1], b = n[0] - p[0];
    const bool top_left = a > 0 || (a == 0 && b > 0);
    // Both steps are multiples of 256, so that dividing by 256 keeps the sign.
    r.c[k] = (static_cast<long long>(b) * (kSubpixel / 2 - p[1]) + static_cast<long long>(a) * (kSubpixel / 2 - p[0]) -
              (top_left ? 0 : 1)) >> 8;
    r.a[k] = a;
    r.b[k] = b;
    if (k) {
      r.fx[k - 1] = x[order[k]];
      r.fy[k - 1] = y[order[k]];
    }
  }
  return true;
}

__global__ void __launch_bounds__(kSetupThreads) raster_setup(const VvRasterSlot* slots, const uint8_t* mask, int capacity,
                                                              int bins, int flags, int width, int height) {
  if (mask && !mask[blockIdx.y]) return;
  const VvRasterSlot& s = slots[blockIdx.y];
  const int t = blockIdx.x * kSetupThreads + threadIdx.x;
  if (t >= s.n_triangles) return;
  const Scratch scratch = carve(s.scratch, capacity, bins);
  Record r;
  Box box;
  if (set_up(s, t, flags, width, height, r, box))
    scratch.records[t] = r;
  else
    box.x0 = box.y0 = box.x1 = box.y1 = 0;
  scratch.boxes[t] = box;
}

__device__ __forceinline__ bool touches(const Box& b, int x0, int y0, int side) {
  return b.x0 < x0 + side && b.x1 > x0 && b.y0 < y0 + side && b.y1 > y0;
}

// Writes the values of the threads that want it to `list`, in the order of the threads; returns how many.
__device__ __forceinline__ int compact(bool wanted, int value, int* list, int* counts) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const unsigned votes = __ballot_sync(~0u, wanted);
  if (lane == 0) counts[warp] = __popc(votes);
  __syncthreads();
  int before = 0, total = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += counts[w];
    total += counts[w];
  }
  if (wanted) list[before + __popc(votes & ((1u << lane) - 1u))] = value;
  __syncthreads();
  return total;
}

__global__ void __launch_bounds__(kThreads) raster_bin(const VvRasterSlot* slots, const uint8_t* mask, int capacity) {
  __shared__ int warp_counts[kWarps];
  if (mask && !mask[blockIdx.z]) return;  // the same for the whole block
  const VvRasterSlot& s = slots[blockIdx.z];
  const int bin = blockIdx.y * gridDim.x + blockIdx.x;
  const Scratch scratch = carve(s.scratch, capacity, gridDim.x * gridDim.y);
  int* list = scratch.lists + static_cast<long>(bin) * capacity;
  int n = 0;
  for (int first = 0; first < s.n_triangles; first += kThreads) {
    const int t = first + threadIdx.x;
    const bool wanted = t < s.n_triangles && touches(scratch.boxes[t], blockIdx.x * kBin, blockIdx.y * kBin, kBin);
    n += compact(wanted, t, list + n, warp_counts);
  }
  if (threadIdx.x == 0) scratch.counts[bin] = n;
}

__device__ __forceinline__ unsigned div255(unsigned x) { x += 128; return (x + (x >> 8)) >> 8; }
__device__ __forceinline__ unsigned alpha_of(unsigned c) { return c >> 24; }

__device__ __forceinline__ unsigned scale_color(unsigned c, unsigned r255) {
  unsigned out = 0;
  for (int k = 0; k < 32; k += 8) out |= div255(((c >> k) & 255u) * r255) << k;
  return out;
}

__device__ __forceinline__ unsigned shade_color(unsigned c, unsigned b256) {
  const unsigned a = alpha_of(c);
  unsigned out = a << 24;
  for (int k = 0; k < 24; k += 8) {
    const unsigned v = (((c >> k) & 255u) * b256 + 128u) >> 8;
    out |= (v < a ? v : a) << k;
  }
  return out;
}

__device__ __forceinline__ unsigned over(unsigned top, unsigned bottom) {
  const unsigned rest = 255u - alpha_of(top);
  unsigned out = 0;
  for (int k = 0; k < 32; k += 8) {
    const unsigned v = ((top >> k) & 255u) + div255(((bottom >> k) & 255u) * rest);
    out |= (v < 255u ? v : 255u) << k;
  }
  return out;
}

// n / 2048, rounded to the nearest, halves away from 0.
__device__ __forceinline__ int rounded(int n) { return n < 0 ? -((1024 - n) >> 11) : (n + 1024) >> 11; }

// Catmull-Rom weights at i / 256 in 1/16384; what rounding leaves goes to the texel nearest by.
__device__ __forceinline__ void catmull_rom(int i, int (&w)[4]) {
  const int i2 = i * i, i3 = i2 * i;
  w[0] = rounded(-65536 * i + 512 * i2 - i3);
  w[1] = rounded((16384 << 11) - 1280 * i2 + 3 * i3);
  w[2] = rounded(65536 * i + 1024 * i2 - 3 * i3);
  w[3] = rounded(i3 - 256 * i2);
  const int rest = 16384 - (w[0] + w[1] + w[2] + w[3]);
  w[1] += i < 128 ? rest : 0;
  w[2] += i < 128 ? 0 : rest;
}

// U and V in 1/256 texels of the padded texture. See kernels/src/raster.cpp for the number formats.
template <bool kBicubic>
__device__ unsigned fetch(const VvRasterSlot& s, int U, int V) {
  const unsigned* texels = reinterpret_cast<const unsigned*>(s.texture);
  const int stride = s.tex_width + 2 * kPad;
  if (kBicubic) {
    const unsigned* p = texels + static_cast<long>((V >> 8) - 1) * stride + (U >> 8) - 1;
    int wx[4], wy[4];
    catmull_rom(U & 255, wx);
    catmull_rom(V & 255, wy);
    int sum[4] = {1 << 19, 1 << 19, 1 << 19, 1 << 19};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      unsigned column[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) column[i] = __ldg(p + static_cast<long>(i) * stride + j);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        int t = 128;
#pragma unroll
        for (int i = 0; i < 4; ++i) t += wy[i] * static_cast<int>((column[i] >> (8 * c)) & 255u);
        sum[c] += wx[j] * (t >> 8);
      }
    }
    const int a = most(0, least(sum[3] >> 20, 255));
    unsigned out = static_cast<unsigned>(a) << 24;
#pragma unroll
    for (int c = 0; c < 3; ++c) out |= static_cast<unsigned>(most(0, least(sum[c] >> 20, a))) << (8 * c);
    return out;
  }
  const unsigned* p = texels + static_cast<long>(V >> 8) * stride + (U >> 8);
  const unsigned t00 = __ldg(p), t01 = __ldg(p + 1), t10 = __ldg(p + stride), t11 = __ldg(p + stride + 1);
  const unsigned fy = V & 255, fx = U & 255;
  unsigned out = 0;
#pragma unroll
  for (int k = 0; k < 32; k += 8) {
    const unsigned l = ((t00 >> k) & 255u) * (256 - fy) + ((t10 >> k) & 255u) * fy;
    const unsigned r = ((t01 >> k) & 255u) * (256 - fy) + ((t11 >> k) & 255u) * fy;
    out |= ((l * (256 - fx) + r * fx + (1u << 15)) >> 16) << k;
  }
  return out;
}

// What is in a pixel's layer. depth is 1/z; 0 = nothing. V >= 0: opaque, the colour is still to be fetched at (U, V).
struct Fragment {
  float depth;
  unsigned color;  // premultiplied RGBA, R in the lowest byte
  uint8_t part;
  bool ramp;       // comes from outside a boundary edge and is not opaque
  float attr[3];
  int U, V;
  unsigned light;
};

template <bool kBicubic>
__device__ __forceinline__ void resolve(const VvRasterSlot& s, bool shaded, Fragment& f) {
  if (f.V < 0) return;
  f.color = fetch<kBicubic>(s, f.U, f.V);
  if (shaded) f.color = shade_color(f.color, f.light);
  f.V = -1;
}

__device__ __forceinline__ bool near_depth(float a, float b, float tolerance) {
  const float d = a > b ? a - b : b - a;
  return d <= tolerance * (a > b ? a : b);
}

// Two fragments become one at the nearer depth; label and attributes of whichever carries the pixel.
__device__ __forceinline__ Fragment merge(const Fragment& top, const Fragment& bottom) {
  Fragment f = alpha_of(top.color) >= 128 || alpha_of(bottom.color) < 128 ? top : bottom;
  f.depth = top.depth;
  f.color = over(top.color, bottom.color);
  f.ramp = false;
  return f;
}

enum class Meet { kDropNew, kReplaceOld, kBoth };

__device__ __forceinline__ Meet meet(const Fragment& f, const Fragment& old) {
  if (f.ramp && old.ramp) {
    if (!near_depth(f.depth, old.depth, kSameRamp)) return Meet::kBoth;
    return alpha_of(f.color) > alpha_of(old.color) ? Meet::kReplaceOld : Meet::kDropNew;
  }
  if (f.ramp != old.ramp && near_depth(f.depth, old.depth, kSameSurface))
    return f.ramp ? Meet::kDropNew : Meet::kReplaceOld;
  return Meet::kBoth;
}

// Exact for two partly transparent fragments in any order; further ones are merged.
template <bool kBicubic>
__device__ void insert(const VvRasterSlot& s, bool shaded, Fragment& front, Fragment& back, Fragment f) {
  if (alpha_of(f.color) < 2) return;
  const bool opaque = alpha_of(f.color) == 255;
  if (opaque) f.ramp = false;
  if (front.depth == 0.f) {
    front = f;
    back.depth = 0.f;
    return;
  }
  const bool top_opaque = alpha_of(front.color) == 255;
  const Meet with_top = meet(f, front);
  if (with_top == Meet::kDropNew) return;
  if (with_top == Meet::kReplaceOld) {
    front = f;
    return;
  }
  if (f.depth > front.depth) {
    if (!opaque) {
      resolve<kBicubic>(s, shaded, front);
      back = top_opaque || back.depth == 0.f ? front : merge(front, back);
    }
    front = f;
    return;
  }
  if (top_opaque) return;
  if (back.depth == 0.f) {
    back = f;
    return;
  }
  const Meet with_low = meet(f, back);
  if (with_low == Meet::kDropNew) return;
  if (with_low == Meet::kReplaceOld) {
    back = f;
  } else if (f.depth > back.depth) {
    back = opaque ? f : merge(f, back);
  } else if (alpha_of(back.color) != 255) {
    back = merge(back, f);
  }
}

// The fragment of a triangle at a pixel centre, colour left out (U, V and light say it).
__device__ __forceinline__ Fragment interpolate(const Record& r, bool perspective, bool shaded, float dx, float dy,
                                                float depth) {
  Fragment f;
  f.depth = depth;
  f.part = r.part;
  float u = r.gx[0] * dx + r.gy[0] * dy, v = r.gx[1] * dx + r.gy[1] * dy;
  if (perspective) {
    const float q = clamp(r.base_q + (r.gx[2] * dx + r.gy[2] * dy), r.lo[2], r.hi[2]);
    const float inverse = 1.f / q;
    u = u * inverse;
    v = v * inverse;
  }
  u = clamp(r.origin_u + u, r.lo[0], r.hi[0]);
  v = clamp(r.origin_v + v, r.lo[1], r.hi[1]);
  // Texel centres lie at .5, the padding shifts by kPad; the sum is positive, so truncation is floor.
  f.U = static_cast<int>((u + (kPad - 0.5f)) * 256.f + 0.5f);
  f.V = static_cast<int>((v + (kPad - 0.5f)) * 256.f + 0.5f);
  const float z = perspective ? 1.f / depth : 1.f;
  for (int k = 0; k < 3; ++k)
    f.attr[k] = clamp(r.origin_attr[k] + (r.gx[4 + k] * dx + r.gy[4 + k] * dy) * z, r.lo[4 + k], r.hi[4 + k]);
  f.light = 256;
  if (shaded)
    f.light = static_cast<unsigned>(clamp(r.base_bright + (r.gx[7] * dx + r.gy[7] * dy), r.lo[7], r.hi[7]) * 256.f + 0.5f);
  return f;
}

// A triangle at one pixel.
template <bool kBicubic>
__device__ __forceinline__ void draw_triangle(const VvRasterSlot& s, const Record& r, bool perspective, bool shaded, int x,
                                              int y, Fragment& front, Fragment& back) {
  long long e[3];
#pragma unroll
  for (int k = 0; k < 3; ++k)
    e[k] = r.c[k] + static_cast<long long>(r.a[k]) * x + static_cast<long long>(r.b[k]) * y;
  const bool inside = (e[0] | e[1] | e[2]) >= 0;
  if (!inside && !r.edges) return;
  const float cx = static_cast<float>(x) + 0.5f, cy = static_cast<float>(y) + 0.5f;
  const float dx = cx - r.x0, dy = cy - r.y0;
  const float depth = clamp(r.base_depth + r.gx[3] * dx + r.gy[3] * dy, r.lo[3], r.hi[3]);
  if (inside) {
    const bool nearer = depth > front.depth;
    if (!nearer && alpha_of(front.color) == 255) return;
    Fragment f = interpolate(r, perspective, shaded, dx, dy, depth);
    f.ramp = false;
    f.color = 0xff000000u;
    if (!r.solid || !nearer) resolve<kBicubic>(s, shaded, f);
    insert<kBicubic>(s, shaded, front, back, f);
    return;
  }
  // Outside boundary edges: alpha 1 - distance to the edge, with round ends.
  for (int flag = 0; flag < 3; ++flag) {
    if (!(r.edges >> flag & 1)) continue;
    const int k = r.flip ? 2 - flag : flag;
    if ((k == 0 ? e[0] : k == 1 ? e[1] : e[2]) >= 0) continue;
    const float ax = k == 0 ? r.x0 : r.fx[k - 1], ay = k == 0 ? r.y0 : r.fy[k - 1];
    const float ex = (k == 2 ? r.x0 : r.fx[k]) - ax, ey = (k == 2 ? r.y0 : r.fy[k]) - ay;
    const float length2 = ex * ex + ey * ey;
    const float scale = length2 > 0.f ? 1.f / length2 : 0.f;
    const float from_x = cx - ax, from_y = cy - ay;
    const float along = clamp((from_x * ex + from_y * ey) * scale, 0.f, 1.f);
    const float gap_x = from_x - along * ex, gap_y = from_y - along * ey;
    const float cover = 1.f - sqrtf(gap_x * gap_x + gap_y * gap_y);
    if (!(cover > 0.f)) continue;
    Fragment f = interpolate(r, perspective, shaded, dx, dy, depth);
    f.color = 0xff000000u;
    resolve<kBicubic>(s, shaded, f);
    f.color = scale_color(f.color, static_cast<unsigned>(cover * 255.f + 0.5f));
    f.ramp = true;
    insert<kBicubic>(s, shaded, front, back, f);
  }
}

template <bool kBicubic>
__global__ void __launch_bounds__(kThreads) raster_draw(const VvRasterSlot* slots, const uint8_t* mask, int capacity,
                                                        int flags, int width, int height) {
  __shared__ int warp_counts[kWarps];
  __shared__ int list[kThreads];
  __shared__ uint4 staged[kBatch * kWords];
  if (mask && !mask[blockIdx.z]) return;  // the same for the whole block
  const VvRasterSlot& s = slots[blockIdx.z];
  const int tid = threadIdx.x, x0 = blockIdx.x * kTile, y0 = blockIdx.y * kTile;
  // A warp takes 8x4 pixels: its lanes mostly agree on what covers them.
  const int x = x0 + (tid >> 5 & 1) * 8 + (tid & 7), y = y0 + (tid >> 6) * 4 + (tid >> 3 & 3);
  const bool on_screen = x < width && y < height;
  const int bins_x = bins_of(width), bins = bins_x * bins_of(height);
  const int bin = y0 / kBin * bins_x + x0 / kBin;
  const Scratch scratch = carve(s.scratch, capacity, bins);
  const int* candidates = scratch.lists + static_cast<long>(bin) * capacity;
  const int n = scratch.counts[bin];
  const bool perspective = flags & kPerspective, shaded = s.brightness || s.shade;

  Fragment front = {}, back = {};
  front.V = back.V = -1;
  for (int first = 0; first < n; first += kThreads) {
    const int t = first + tid < n ? candidates[first + tid] : -1;
    const int total = compact(t >= 0 && touches(scratch.boxes[t < 0 ? 0 : t], x0, y0, kTile), t, list, warp_counts);
    for (int begin = 0; begin < total; begin += kBatch) {
      const int count = least(kBatch, total - begin);
      for (int i = tid; i < kWords * count; i += kThreads)
        staged[i] = reinterpret_cast<const uint4*>(scratch.records + list[begin + i / kWords])[i % kWords];
      __syncthreads();
      if (on_screen)
        for (int j = 0; j < count; ++j)
          draw_triangle<kBicubic>(s, *reinterpret_cast<const Record*>(staged + kWords * j), perspective, shaded, x, y, front,
                                  back);
      __syncthreads();
    }
  }
  if (!on_screen) return;

  const long o = static_cast<long>(y) * width + x;
  const bool fresh = flags & kBegin;
  if (front.depth == 0.f && !fresh) return;
  const uint8_t* under = fresh ? s.plate + 3 * o : s.rgb + 3 * o;
  unsigned c = under[0] | under[1] << 8 | under[2] << 16 | static_cast<unsigned>(fresh ? 0 : s.coverage[o]) << 24;
  bool labelled = false;
  if (front.depth != 0.f) {
    resolve<kBicubic>(s, shaded, front);
    const bool two = alpha_of(front.color) < 255 && back.depth != 0.f;
    c = over(two ? over(front.color, back.color) : front.color, c);
    // The label is that of the front-most fragment that covers at least half by itself.
    labelled = alpha_of(front.color) >= 128;
    if (!labelled && two && alpha_of(back.color) >= 128) {
      labelled = true;
      front = back;
    }
  }
  for (int k = 0; k < 3; ++k) s.rgb[3 * o + k] = static_cast<uint8_t>(c >> (8 * k));
  s.coverage[o] = static_cast<uint8_t>(c >> 24);
  if (labelled || fresh) {
    s.labels[o] = labelled ? front.part : 0;
    for (int k = 0; k < 3; ++k) s.position[3 * o + k] = labelled ? front.attr[k] : 0.f;
  }
}

int capacity_of(int max_triangles) { return (max_triangles + 3) & ~3; }

}  // namespace

// Bytes of scratch that one slot needs.
VV_CUDA_API long vvc_raster_scratch(int max_triangles, int width, int height) {
  const long capacity = capacity_of(max_triangles), bins = static_cast<long>(bins_of(width)) * bins_of(height);
  return capacity * static_cast<long>(sizeof(Record) + sizeof(Box) + bins * sizeof(int)) + (bins * sizeof(int) + 15) / 16 * 16;
}

// flags: 1 perspective, 2 bicubic, 4 cull, 8 begin: the plate instead of what is there, and the other outputs from 0.
// No slot may have more than max_triangles. Returns a cudaError_t; 1 (invalid value) for sizes that cannot be drawn.
VV_CUDA_API int vvc_raster(const VvRasterSlot* slots, const uint8_t* mask, int n_slots, int max_triangles, int width,
                           int height, int flags, cudaStream_t stream) {
  if (width < 1 || height < 1 || width > 8192 || height > 8192 || max_triangles < 0) return 1;
  const int capacity = capacity_of(max_triangles), bins = bins_of(width) * bins_of(height);
  if (max_triangles)
    VV_LAUNCH(raster_setup, dim3((max_triangles + kSetupThreads - 1) / kSetupThreads, n_slots), dim3(kSetupThreads), stream,
              slots, mask, capacity, bins, flags, width, height);
  VV_LAUNCH(raster_bin, dim3(bins_of(width), bins_of(height), n_slots), dim3(kThreads), stream, slots, mask, capacity);
  const dim3 tiles((width + kTile - 1) / kTile, (height + kTile - 1) / kTile, n_slots);
  if (flags & kBicubicFlag)
    VV_LAUNCH(raster_draw<true>, tiles, dim3(kThreads), stream, slots, mask, capacity, flags, width, height);
  else
    VV_LAUNCH(raster_draw<false>, tiles, dim3(kThreads), stream, slots, mask, capacity, flags, width, height);
  return cudaGetLastError();
}
