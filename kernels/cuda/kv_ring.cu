// Key/value ring update, batched over session slots: new rows in, the oldest out, the sink kept, positions rolling.
//
// A slot's cache holds `sink` rows that stay (the photo's tokens) and a ring of `window` rows. Token t of the stream goes to
// row sink + t % window. Rows are stored without positional rotation; `positions` says where each row stands for the
// attention that follows: 0 .. sink-1 the sink, then the ring's tokens in order of age with the oldest at `sink`, so that
// positions never grow with the length of the call; -1 a row that holds nothing yet.
// A row is all heads of one token of one layer, keys or values: "planes" are layers x 2. All planes go in one launch.
// Bytes a slot: planes x fresh x row read and written (no row is moved), 4 (sink + window) of positions; no arithmetic:
// bound by memory. 16-byte accesses.
// Launches: write, blocks of 256, a thread 16 bytes, grid (rows x row / 16 / 256, slots, planes); then advance, a block a
// slot, which alone changes the counters that write reads. No host synchronisation; may be captured in a graph.
// Slots whose mask byte is 0 keep everything.
#include "cuda_on_cpu.h"

namespace {

constexpr int kThreads = 256;

struct Ring {
  int slots, fresh, sink, window, words;  // words of 16 bytes a row
};

__device__ __forceinline__ long long written_before(const long long* written, const uint8_t* reset, int slot) {
  return reset && reset[slot] ? 0 : written[slot];
}

__global__ void __launch_bounds__(kThreads) kv_ring_write(const uint4* fresh, const uint4* sink, uint4* cache,
                                                          const long long* written, const uint8_t* mask,
                                                          const uint8_t* reset, Ring ring) {
  const int slot = blockIdx.y;
  if (mask && !mask[slot]) return;
  const int i = blockIdx.x * kThreads + threadIdx.x, row = i / ring.words, word = i - row * ring.words;
  const long plane = static_cast<long>(blockIdx.z) * ring.slots + slot;
  uint4* to = cache + plane * (ring.sink + ring.window) * ring.words + word;
  if (row < ring.fresh) {
    const int at = static_cast<int>((written_before(written, reset, slot) + row) % ring.window);
    to[static_cast<long>(ring.sink + at) * ring.words] = fresh[(plane * ring.fresh + row) * ring.words + word];
  } else if (row < ring.fresh + ring.sink && sink && reset && reset[slot]) {
    const int at = row - ring.fresh;
    to[static_cast<long>(at) * ring.words] = sink[(plane * ring.sink + at) * ring.words + word];
  }
}

__global__ void __launch_bounds__(kThreads) kv_ring_advance(int* positions, long long* written, const uint8_t* mask,
                                                            const uint8_t* reset, Ring ring) {
  const int slot = blockIdx.x;
  if (mask && !mask[slot]) return;  // the same for the whole block
  const long long total = written_before(written, reset, slot) + ring.fresh;
  __syncthreads();  // all have read the counter
  if (threadIdx.x == 0) written[slot] = total;
  const long long oldest = total > ring.window ? total - ring.window : 0;
  const int newest_at = static_cast<int>((total + ring.window - 1) % ring.window);
  for (int i = threadIdx.x; i < ring.sink + ring.window; i += kThreads) {
    int position = i;
    if (i >= ring.sink) {
      const int at = i - ring.sink, age = newest_at >= at ? newest_at - at : newest_at - at + ring.window;
      const long long token = total - 1 - age;
      position = token >= oldest ? ring.sink + static_cast<int>(token - oldest) : -1;
    }
    positions[static_cast<long>(slot) * (ring.sink + ring.window) + i] = position;
  }
}

}  // namespace

// fresh (planes, slots, fresh_rows, row_bytes); sink (planes, slots, sink_rows, row_bytes) copied into slots that are reset,
// or null: the sink stays; cache (planes, slots, sink_rows + window, row_bytes); positions int32 (slots, sink_rows + window);
// written int64 (slots,) tokens so far; mask, reset (slots,) or null. All on the device, rows 16-byte aligned.
// Returns a cudaError_t; 1 (invalid value) if the fresh rows do not fit in the ring or rows are no multiple of 16 bytes.
VV_CUDA_API int vvc_kv_ring(const void* fresh, const void* sink, void* cache, int* positions, long long* written,
                            const uint8_t* mask, const uint8_t* reset, int planes, int slots, int fresh_rows, int sink_rows,
                            int window, int row_bytes, cudaStream_t stream) {
  if (fresh_rows < 1 || window < fresh_rows || sink_rows < 0 || row_bytes < 16 || row_bytes % 16) return 1;
  const Ring ring = {slots, fresh_rows, sink_rows, window, row_bytes / 16};
  const int rows = fresh_rows + (sink && reset ? sink_rows : 0);
  const dim3 grid((rows * ring.words + kThreads - 1) / kThreads, slots, planes);
  VV_LAUNCH(kv_ring_write, grid, dim3(kThreads), stream, static_cast<const uint4*>(fresh), static_cast<const uint4*>(sink),
            static_cast<uint4*>(cache), written, mask, reset, ring);
  VV_LAUNCH(kv_ring_advance, dim3(slots), dim3(kThreads), stream, positions, written, mask, reset, ring);
  return cudaGetLastError();
}
