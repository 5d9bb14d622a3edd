// Streaming state after a network's call: what it gave becomes what it is given next, for the slots that moved.
//
// A state tensor is (outer, slots, row): `after` is copied over `before` where the mask says so; the other slots keep theirs.
// Engines write their outputs where they read no inputs, so this copy is what makes a state live in one place.
// Bytes a slot: every state read and written once; no arithmetic: bound by memory. 16-byte accesses where rows allow it,
// 4-byte else.
// Launch: blocks of 256, a thread 16 bytes (or 4) a turn, grid (pieces of the largest row, slots, tensors). No host
// synchronisation; may be captured in a graph.
#include "cuda_on_cpu.h"

struct VvStateTensor {
  const void* after;
  void* before;
  int outer, row_bytes;  // row_bytes a multiple of 4
};

namespace {

constexpr int kThreads = 256;

template <class Word>
__device__ __forceinline__ void copy_rows(const VvStateTensor& t, int slot, int slots) {
  const int words = t.row_bytes / static_cast<int>(sizeof(Word));
  for (int o = 0; o < t.outer; ++o) {
    const long row = (static_cast<long>(o) * slots + slot) * words;
    const Word* from = static_cast<const Word*>(t.after) + row;
    Word* to = static_cast<Word*>(t.before) + row;
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < words; i += gridDim.x * kThreads) to[i] = from[i];
  }
}

__global__ void __launch_bounds__(kThreads) commit(const VvStateTensor* tensors, const uint8_t* mask, int slots) {
  const int slot = blockIdx.y;
  if (mask && !mask[slot]) return;
  const VvStateTensor t = tensors[blockIdx.z];
  if (t.row_bytes % 16 == 0)
    copy_rows<uint4>(t, slot, slots);
  else
    copy_rows<unsigned>(t, slot, slots);
}

}  // namespace

// tensors (n,) on the device, arrays 16-byte aligned; mask (slots,) or null; largest: bytes of the largest row, for the size of
// the grid. Returns a cudaError_t; 1 (invalid value) for sizes that make no sense.
VV_CUDA_API int vvc_commit(const VvStateTensor* tensors, int n, const uint8_t* mask, int slots, int largest,
                           cudaStream_t stream) {
  if (n < 1 || slots < 1 || largest < 4) return 1;
  const int blocks = (largest / 16 + kThreads - 1) / kThreads;
  const dim3 grid(blocks < 1 ? 1 : blocks > 64 ? 64 : blocks, slots, n);
  VV_LAUNCH(commit, grid, dim3(kThreads), stream, tensors, mask, slots);
  return cudaGetLastError();
}
