// Streaming state between the calls of a network: what rests is carried over, what is forgotten is cleared.
//
// Engines read a state from one array and write the next one to another; the two change places from tick to tick, so that a
// slot that moved costs nothing here. A state tensor is (outer, slots, row); each slot's action says what happens to its
// rows of `to`: 0 nothing, 1 they become those of `from` (a slot that rested), 2 they are cleared (a slot that forgets).
// Bytes: none for a slot whose action is 0, else every state written once, and read once for action 1; no arithmetic: bound by
// memory. 16-byte accesses where rows allow it, 4-byte else.
// Launch: blocks of 256, a thread 16 bytes (or 4) a turn, grid (pieces of the largest row, slots, tensors). No host
// synchronisation; may be captured in a graph.
#include "cuda_on_cpu.h"

struct VvStateTensor {
  const void* from;
  void* to;
  const uint8_t* action;  // (slots,) on the device
  int outer, row_bytes;   // row_bytes a multiple of 4
};

namespace {

constexpr int kThreads = 256;

template <class Word>
__device__ __forceinline__ void set_rows(const VvStateTensor& t, int slot, int slots, bool clear) {
  const int words = t.row_bytes / static_cast<int>(sizeof(Word));
  for (int o = 0; o < t.outer; ++o) {
    const long row = (static_cast<long>(o) * slots + slot) * words;
    const Word* from = static_cast<const Word*>(t.from) + row;
    Word* to = static_cast<Word*>(t.to) + row;
    for (int i = blockIdx.x * kThreads + threadIdx.x; i < words; i += gridDim.x * kThreads) to[i] = clear ? Word{} : from[i];
  }
}

__global__ void __launch_bounds__(kThreads) states(const VvStateTensor* tensors, int slots) {
  const int slot = blockIdx.y;
  const VvStateTensor t = tensors[blockIdx.z];
  const int action = t.action[slot];
  if (!action) return;
  if (t.row_bytes % 16 == 0)
    set_rows<uint4>(t, slot, slots, action == 2);
  else
    set_rows<unsigned>(t, slot, slots, action == 2);
}

}  // namespace

// tensors (n,) on the device, arrays 16-byte aligned; largest: bytes of the largest row, for the size of the grid. Returns a
// cudaError_t; 1 (invalid value) for sizes that make no sense.
VV_CUDA_API int vvc_states(const VvStateTensor* tensors, int n, int slots, int largest, cudaStream_t stream) {
  if (n < 1 || slots < 1 || largest < 4) return 1;
  const int blocks = (largest / 16 + kThreads - 1) / kThreads;
  const dim3 grid(blocks < 1 ? 1 : blocks > 64 ? 64 : blocks, slots, n);
  VV_LAUNCH(states, grid, dim3(kThreads), stream, tensors, slots);
  return cudaGetLastError();
}
