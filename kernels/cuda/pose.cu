// Blend shapes + linear blend skinning + perspective projection, batched over session slots (each its own person).
//
// Computes what kernels/src/pose.cpp computes, bit for bit (no contraction to fused multiply-add).
// Bytes a slot: 6 V for every shape whose coefficient is not 0 (float16), 12 V rest, 4 V J weights, 12 V out; operations
// 6 V K + 21 V J. V = 8000, K = 60, J = 8: 3.3 MB, 4 MFLOP: bound by memory.
// Launch: a thread takes one vertex; blocks of 128, grid (V / 128, slots); coefficients and joints go through shared memory.
// Planes (x of all vertices, then y, then z) make every load coalesced. No host synchronisation.
#include "cuda_on_cpu.h"

// One slot's arrays, all on the device; the array of these too.
struct VvPoseSlot {
  const float* rest;          // (3, V)
  const uint16_t* basis;      // (K, 3, V) float16
  const float* weights;       // (J, V)
  const float* coefficients;  // (K,)
  const float* joints;        // (J, 3, 4)
  float* screen;              // (V, 3)
  float fx, fy, cx, cy;
};

namespace {

constexpr int kThreads = 128, kMaxShapes = 512, kMaxJoints = 64;

__device__ __forceinline__ float half_to_float(uint16_t h) {
#if defined(VV_CUDA_ON_CPU)
  uint32_t bits = (h & 0x7fffu) << 13;
  float x;
  std::memcpy(&x, &bits, 4);
  x *= 0x1p112f;
  return h & 0x8000u ? -x : x;
#else
  return __half2float(__ushort_as_half(h));
#endif
}

__global__ void __launch_bounds__(kThreads) pose(const VvPoseSlot* slots, const uint8_t* mask, int vertices, int shapes,
                                                 int joints) {
  __shared__ float coefficient[kMaxShapes];
  __shared__ float joint[12 * kMaxJoints];
  if (mask && !mask[blockIdx.y]) return;  // the same for the whole block
  const VvPoseSlot& s = slots[blockIdx.y];
  for (int k = threadIdx.x; k < shapes; k += kThreads) coefficient[k] = s.coefficients[k];
  for (int k = threadIdx.x; k < 12 * joints; k += kThreads) joint[k] = s.joints[k];
  __syncthreads();
  const int i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= vertices) return;
  const long plane = vertices;
  float v[3] = {s.rest[i], s.rest[plane + i], s.rest[2 * plane + i]};
  for (int k = 0; k < shapes; ++k) {
    const float c = coefficient[k];
    if (c == 0.f) continue;
    const uint16_t* d = s.basis + 3 * plane * k + i;
    for (int a = 0; a < 3; ++a) v[a] += c * half_to_float(d[a * plane]);
  }
  float p[3] = {};
  for (int j = 0; j < joints; ++j) {
    const float w = s.weights[j * plane + i];
    const float* m = joint + 12 * j;
    for (int a = 0; a < 3; ++a)
      p[a] += w * (m[4 * a] * v[0] + m[4 * a + 1] * v[1] + m[4 * a + 2] * v[2] + m[4 * a + 3]);
  }
  const float inverse = 1.f / p[2];
  float* o = s.screen + 3L * i;
  o[0] = s.fx * (p[0] * inverse) + s.cx;
  o[1] = s.fy * (p[1] * inverse) + s.cy;
  o[2] = p[2];
}

}  // namespace

// Returns a cudaError_t; cudaErrorInvalidValue (1) where shapes or joints are more than the kernel holds.
VV_CUDA_API int vvc_pose(const VvPoseSlot* slots, const uint8_t* mask, int n_slots, int vertices, int shapes, int joints,
                         cudaStream_t stream) {
  if (shapes > kMaxShapes || joints > kMaxJoints) return 1;
  const dim3 grid((vertices + kThreads - 1) / kThreads, n_slots), block(kThreads);
  VV_LAUNCH(pose, grid, block, stream, slots, mask, vertices, shapes, joints);
  return cudaGetLastError();
}
