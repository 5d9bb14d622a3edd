// From motion to what is posed, batched over session slots: coefficients and bones of every part of a person, and where the face is.
//
// Computes what engine/video/figure.py computes: face coefficients within the person's limits; how far the margins of lips and
// lids must give way (an affine function of the face, cut off at nothing); each bone's turn about its pivot, limited in angle,
// after its parent's; both handed out to the parts' own arrays, bones in camera axes; the square around the face from the
// head's bone (engine/video/crop.py).
// Bytes a slot: units x gaps (52 x 100: 21 kB, from cache), 80 a bone, 48 a bone and 4 a unit and part written; operations 2 x 52 a
// gap, about 300 a bone: bound by launch latency. 4-byte accesses, coalesced over gaps.
// Launch: a block of 128 a slot: a thread a gap, then a bone (which walks up to its root), then a word of a part. Slots whose
// mask byte is 0 are left alone. No host synchronisation; may be captured in a graph.
#include "cuda_on_cpu.h"

struct VvBone {
  int parent;        // before this one; -1: the world
  int channel;       // first of its rotation vector, or of yaw and pitch
  int eye;           // 1: channel is yaw, pitch, limited one by one
  float limit;       // largest angle in radians, below 1
  float shift;       // share of the head's translation
  float pivot[3];
  float axes[9];     // axes that the rotation vector is in
  float unused[3];
};

// Of one part: where its coefficients and bones go, and which ones they are.
struct VvFigurePart {
  float *coefficients, *joints;  // (shapes,), (bones, 3, 4)
  const int *shapes, *bones;
  int n_shapes, n_bones;
};

// One slot's person, arrays on the device; the array of these too.
struct VvFigureSlot {
  const VvBone* bones;
  const VvFigurePart* parts;
  const float *lowest, *highest;  // (units,)
  const float *gap, *gap_units;   // (gaps,), (units, gaps)
  int n_bones, n_parts, n_gaps, head;
  float point[3];                 // what the square follows, moved by the head's bone
  float focal, cx, cy, scale;     // scale: of the square
  int by;                         // pixels that are averaged; 1: none
};

// As in face_crop.cu.
struct VvCropPlace {
  float scale, x0, y0;
  int by, left, top, columns, rows;
};

namespace {

constexpr int kThreads = 128, kMostUnits = 64, kMostGaps = 384, kMostBones = 64, kMostChannels = 256;

__device__ __forceinline__ float sane(float x) {
  return x != x ? 0.f : x < -3.402823466e38f ? -3.402823466e38f : x > 3.402823466e38f ? 3.402823466e38f : x;
}

__device__ __forceinline__ float between(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// Rows of a rotation matrix (Rodrigues). Angles are limited to less than a radian: series are exact enough, and need no slow path.
__device__ __forceinline__ void rotation(const float (&v)[3], float (&r)[9]) {
  const float angle = sqrtf(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]), least = angle > 1e-12f ? angle : 1e-12f;
  const float x = v[0] / least, y = v[1] / least, z = v[2] / least, q = angle * angle;
  const float s = ((((q * (1.f / 362880.f) - 1.f / 5040.f) * q + 1.f / 120.f) * q - 1.f / 6.f) * q + 1.f) * angle;
  const float c = ((((q * (1.f / 3628800.f) - 1.f / 40320.f) * q + 1.f / 720.f) * q - 1.f / 24.f) * q + 0.5f) * q;
  r[0] = 1.f - c * (y * y + z * z);
  r[1] = c * x * y - s * z;
  r[2] = c * x * z + s * y;
  r[3] = c * x * y + s * z;
  r[4] = 1.f - c * (x * x + z * z);
  r[5] = c * y * z - s * x;
  r[6] = c * x * z - s * y;
  r[7] = c * y * z + s * x;
  r[8] = 1.f - c * (x * x + y * y);
}

// a after b, both (3, 4): the transform that first does b.
__device__ __forceinline__ void after(const float* a, const float (&b)[12], float (&out)[12]) {
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 4; ++j)
      out[4 * i + j] = a[4 * i] * b[j] + a[4 * i + 1] * b[4 + j] + a[4 * i + 2] * b[8 + j] + (j == 3 ? a[4 * i + 3] : 0.f);
}

// A bone's own transform (3, 4): its turn about its pivot, and its share of the translation.
__device__ __forceinline__ void turned(const VvBone& bone, const float* motion, int translation, float* out) {
  float v[3], t[9], r[9];
  if (bone.eye) {
    v[0] = -between(motion[bone.channel + 1], -bone.limit, bone.limit);
    v[1] = between(motion[bone.channel], -bone.limit, bone.limit);
    v[2] = 0.f;
  } else {
    for (int k = 0; k < 3; ++k) v[k] = motion[bone.channel + k];
    const float angle = sqrtf(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
    if (angle > bone.limit)
      for (int k = 0; k < 3; ++k) v[k] *= bone.limit / angle;
  }
  rotation(v, t);
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 3; ++j) {
      float sum = 0.f;
      for (int k = 0; k < 3; ++k)
        for (int l = 0; l < 3; ++l) sum += bone.axes[3 * i + k] * t[3 * k + l] * bone.axes[3 * j + l];
      r[3 * i + j] = sum;
    }
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) out[4 * i + j] = r[3 * i + j];
    const float moved = bone.shift * between(motion[translation + i], -0.08f, 0.08f);
    out[4 * i + 3] = bone.pivot[i] - (r[3 * i] * bone.pivot[0] + r[3 * i + 1] * bone.pivot[1] + r[3 * i + 2] * bone.pivot[2]) + moved;
  }
}

// The square of `side` pixels whose middle follows the point, and what is averaged of the frame: as engine/video/crop.py has it.
__device__ VvCropPlace place_of(const VvFigureSlot& s, const float* head, int side, int width, int height) {
  double p[3];
  for (int i = 0; i < 3; ++i)
    p[i] = static_cast<double>(head[4 * i]) * s.point[0] + static_cast<double>(head[4 * i + 1]) * s.point[1] +
           static_cast<double>(head[4 * i + 2]) * s.point[2] + head[4 * i + 3];
  const double depth = -p[2] > 0.05 ? -p[2] : 0.05, scale = s.scale;
  const double x0 = 0.5 * side - scale * (s.cx + s.focal * p[0] / depth), y0 = 0.5 * side - scale * (s.cy - s.focal * p[1] / depth);
  VvCropPlace out = {s.scale, static_cast<float>(x0), static_cast<float>(y0), 1, 0, 0, width, height};
  if (s.by == 1) return out;
  const int sides[2] = {width, height};
  const double origins[2] = {x0, y0};
  int from[2], count[2];
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    // The frame's pixels whose centres lie in the square, and a border.
    const int first = static_cast<int>(ceil(-origins[k] / scale - 0.5)), end = static_cast<int>(floor((side - origins[k]) / scale - 0.5)) + 1;
    const int low = first < 0 ? 0 : first < sides[k] ? first : sides[k], high = end < 0 ? 0 : end < sides[k] ? end : sides[k];
    from[k] = low - s.by > 0 ? low - s.by : 0;
    count[k] = ((high + 2 * s.by < sides[k] ? high + 2 * s.by : sides[k]) - from[k]) / s.by;
    if (high <= low || count[k] < 1) return out;
  }
  out.by = s.by;
  out.left = from[0];
  out.top = from[1];
  out.columns = count[0];
  out.rows = count[1];
  return out;
}

__global__ void __launch_bounds__(kThreads) figure(const VvFigureSlot* slots, const float* motion, const uint8_t* mask,
                                                   VvCropPlace* places, float* placement, int channels, int units,
                                                   int translation, int side, int width, int height) {
  __shared__ float moved[kMostChannels], unit[kMostUnits + kMostGaps], own[12 * kMostBones], world[12 * kMostBones];
  const int slot = blockIdx.x, tid = threadIdx.x;
  if (mask && !mask[slot]) return;  // the same for the whole block
  const VvFigureSlot& s = slots[slot];
  for (int c = tid; c < channels; c += kThreads) moved[c] = sane(motion[slot * channels + c]);
  __syncthreads();
  if (tid < units) unit[tid] = between(moved[tid], s.lowest[tid], s.highest[tid]);
  for (int b = tid; b < s.n_bones; b += kThreads) turned(s.bones[b], moved, translation, own + 12 * b);
  __syncthreads();
  for (int g = tid; g < s.n_gaps; g += kThreads) {
    float sum = s.gap[g];
    for (int k = 0; k < units; ++k) sum += unit[k] * s.gap_units[k * s.n_gaps + g];
    unit[units + g] = sum > 1e-5f ? sum : 0.f;
  }
  for (int b = tid; b < s.n_bones; b += kThreads) {
    float at[12], next[12];
    for (int k = 0; k < 12; ++k) at[k] = own[12 * b + k];
    for (int p = s.bones[b].parent; p >= 0; p = s.bones[p].parent) {
      after(own + 12 * p, at, next);
      for (int k = 0; k < 12; ++k) at[k] = next[k];
    }
    for (int k = 0; k < 12; ++k) world[12 * b + k] = at[k];
  }
  __syncthreads();
  for (int i = 0; i < s.n_parts; ++i) {
    const VvFigurePart part = s.parts[i];
    for (int k = tid; k < part.n_shapes; k += kThreads) part.coefficients[k] = unit[part.shapes[k]];
    for (int k = tid; k < 12 * part.n_bones; k += kThreads) {
      const float value = world[12 * part.bones[k / 12] + k % 12];
      part.joints[k] = k % 12 < 4 ? value : -value;  // camera: x right, y down, z forward
    }
  }
  if (tid == 0 && places) {
    places[slot] = place_of(s, world + 12 * s.head, side, width, height);
    placement[3 * slot] = places[slot].scale;
    placement[3 * slot + 1] = places[slot].x0;
    placement[3 * slot + 2] = places[slot].y0;
  }
}

}  // namespace

// slots (n,), motion (n, channels), mask (n,) or null, places (n,) and placement (n, 3) or null; the first `units` channels are face
// coefficients, `translation` the first of the head's translation. Frames of width x height, squares of side x side. No slot has
// more than max_bones and max_gaps. Returns a cudaError_t; 1 (invalid value) for more than the kernel holds.
VV_CUDA_API int vvc_figure(const VvFigureSlot* slots, const float* motion, const uint8_t* mask, VvCropPlace* places,
                           float* placement, int n, int channels, int units, int translation, int max_bones, int max_gaps,
                           int side, int width, int height, cudaStream_t stream) {
  if (n < 1 || channels > kMostChannels || units > kMostUnits || units > channels || translation + 3 > channels ||
      max_bones > kMostBones || max_gaps > kMostGaps)
    return 1;
  VV_LAUNCH(figure, dim3(n), dim3(kThreads), stream, slots, motion, mask, places, placement, channels, units, translation, side,
            width, height);
  return cudaGetLastError();
}
