// Streaming log-mel, batched over session slots: one video frame of sound (640 samples) in, four feature vectors out.
//
// Window 400 (table), hop 160, 512-point FFT, power, 80 bands, ln((power + floor) / floor). A slot's state is the last 240
// samples. Bytes a slot: 2.6 kB sound, 1.9 kB state, 1.3 kB out (tables stay in cache); operations about 4 x 25 k: bound by
// launch latency, so one block does a slot's whole frame. 16-byte accesses to sound and state.
// Launch: blocks of 256 threads, grid (slots): a thread does one butterfly a stage, then one bin, then one band.
// Slots whose mask byte is 0 keep their state and their output. No host synchronisation.
#include "cuda_on_cpu.h"

// Tables on the device: window (400,), cosine and sine of -2 pi k / 512 (256,), filters of bands as ranges of bins.
struct VvMelTables {
  const float *window, *cosine, *sine;
  const int* first;      // (81,) where each band's weights begin
  const int* bin;        // (80,) its first bin
  const float* weights;
  float scale, floor;
};

namespace {

constexpr int kThreads = 256, kFft = 512, kLog2 = 9, kWindow = 400, kHop = 160, kFrame = 640, kTail = kWindow - kHop, kBands = 80;

__device__ __forceinline__ int reversed(int i) {
  int r = 0;
  for (int b = 0; b < kLog2; ++b) r |= (i >> b & 1) << (kLog2 - 1 - b);
  return r;
}

__global__ void __launch_bounds__(kThreads) log_mel(VvMelTables t, const float* sound, float* state, float* out,
                                                    const uint8_t* mask) {
  __shared__ float4 wide[(kTail + kFrame) / 4];
  __shared__ float re[kFft], im[kFft];
  __shared__ float power[kFft / 2 + 1];
  const int slot = blockIdx.x, tid = threadIdx.x;
  if (mask && !mask[slot]) return;  // the same for the whole block
  float4* held = reinterpret_cast<float4*>(state + slot * kTail);
  const float4* fresh = reinterpret_cast<const float4*>(sound + slot * kFrame);
  for (int i = tid; i < (kTail + kFrame) / 4; i += kThreads) wide[i] = i < kTail / 4 ? held[i] : fresh[i - kTail / 4];
  __syncthreads();
  const float* samples = reinterpret_cast<const float*>(wide);
  for (int i = tid; i < kTail / 4; i += kThreads) held[i] = wide[kFrame / 4 + i];
  for (int window = 0; window < kFrame / kHop; ++window) {
    for (int i = tid; i < kFft; i += kThreads) {
      const int from = reversed(i);
      re[i] = from < kWindow ? samples[window * kHop + from] * t.window[from] : 0.f;
      im[i] = 0.f;
    }
    __syncthreads();
    for (int half = 1; half < kFft; half *= 2) {
      const int k = tid & (half - 1), a = 2 * (tid - k) + k, b = a + half;
      const float c = t.cosine[k * (kFft / 2 / half)], s = t.sine[k * (kFft / 2 / half)];
      const float xr = re[b] * c - im[b] * s, xi = re[b] * s + im[b] * c;
      const float ar = re[a], ai = im[a];
      re[a] = ar + xr;
      im[a] = ai + xi;
      re[b] = ar - xr;
      im[b] = ai - xi;
      __syncthreads();
    }
    for (int i = tid; i <= kFft / 2; i += kThreads) power[i] = (re[i] * re[i] + im[i] * im[i]) * t.scale;
    __syncthreads();
    if (tid < kBands) {
      float sum = 0.f;
      for (int i = t.first[tid]; i < t.first[tid + 1]; ++i) sum += t.weights[i] * power[t.bin[tid] + i - t.first[tid]];
      out[(slot * (kFrame / kHop) + window) * kBands + tid] = logf((sum + t.floor) / t.floor);
    }
    // The next window writes re and im, which nobody reads after the barrier above; power waits for the next ones.
  }
}

}  // namespace

// sound (slots, 640), state (slots, 240), out (slots, 4, 80), mask (slots,) or null; arrays 16-byte aligned. Returns a
// cudaError_t.
VV_CUDA_API int vvc_log_mel(const VvMelTables* tables, const float* sound, float* state, float* out, const uint8_t* mask,
                            int slots, cudaStream_t stream) {
  const VvMelTables t = *tables;
  VV_LAUNCH(log_mel, dim3(slots), dim3(kThreads), stream, t, sound, state, out, mask);
  return cudaGetLastError();
}
