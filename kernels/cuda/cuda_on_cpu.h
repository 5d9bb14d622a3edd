// Runs CUDA C++ on the CPU, for tests: the .cu files of this folder, unchanged, through `g++ -x c++ -include` of this file.
//
// Every thread of a block is a fiber; blocks run one after the other, the threads of a block in an order that a seed
// shuffles anew for every block and after every barrier, so that a missing barrier shows as a wrong result under some seed.
// A fiber runs until it waits: at __syncthreads() for its block, at a shuffle or __syncwarp() for its warp. A block whose
// threads wait at different barriers, or of which some have returned while others wait, is reported and aborts.
#pragma once
#if !defined(__CUDACC__)

#undef _FORTIFY_SOURCE  // its longjmp refuses to go from stack to stack
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define VV_CUDA_ON_CPU 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // blocks run one at a time

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
using cudaStream_t = void*;
using cudaError_t = int;
inline cudaError_t cudaGetLastError() { return 0; }

namespace cuda_on_cpu {

enum class Wait { kReady, kBlock, kWarp, kDone };

// swapcontext asks the kernel at every switch; the sanitizer wants it so. Else fibers, once started, are switched by jumps.
#if !defined(__SANITIZE_ADDRESS__)
#define VV_JUMPS 1
#endif

struct Fiber {
  ucontext_t context;
#if defined(VV_JUMPS)
  jmp_buf here;
  bool started = false;
#endif
  std::unique_ptr<char[]> stack;
  Wait wait;
  int line;
  uint3 thread;
  void* fake_stack = nullptr;
};

struct State {
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
#if defined(VV_JUMPS)
  jmp_buf here;
#endif
  Fiber* current = nullptr;
  std::function<void()> body;
  std::mt19937 random{0};
  uint64_t exchange[1024];  // what each thread offers to its warp's shuffle
  dim3 block_dim, grid_dim;
  uint3 block;
  void* fake_stack = nullptr;
  const void* stack_bottom = nullptr;
  size_t stack_size = 0;
};
inline State& state() {
  static State s;
  return s;
}
constexpr size_t kStack = 128 * 1024;

inline unsigned linear_id() {
  const State& s = state();
  const uint3 t = s.current->thread;
  return t.x + s.block_dim.x * (t.y + s.block_dim.y * t.z);
}

inline void yield(Wait wait, int line) {
  State& s = state();
  Fiber* f = s.current;
  f->wait = wait;
  f->line = line;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(wait == Wait::kDone ? nullptr : &f->fake_stack, s.stack_bottom, s.stack_size);
#endif
#if defined(VV_JUMPS)
  if (!_setjmp(f->here)) _longjmp(s.here, 1);
#else
  swapcontext(&f->context, &s.scheduler);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(f->fake_stack, nullptr, nullptr);
#endif
}

inline void enter() {
  State& s = state();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &s.stack_bottom, &s.stack_size);
#endif
#if defined(VV_JUMPS)
  for (;;) {  // the same fiber serves one block after the other
    s.body();
    yield(Wait::kDone, 0);
  }
#else
  s.body();
  yield(Wait::kDone, 0);
#endif
}

inline void resume(Fiber& f) {
  State& s = state();
  s.current = &f;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&s.fake_stack, f.stack.get(), kStack);
#endif
#if defined(VV_JUMPS)
  if (!_setjmp(s.here)) {
    if (f.started) _longjmp(f.here, 1);
    f.started = true;
    setcontext(&f.context);
  }
#else
  swapcontext(&s.scheduler, &f.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(s.fake_stack, nullptr, nullptr);
#endif
}

[[noreturn]] inline void fail(const char* what) {
  const State& s = state();
  std::fprintf(stderr, "cuda_on_cpu: %s in block (%u, %u, %u)\n", what, s.block.x, s.block.y, s.block.z);
  std::abort();
}

// Lets go the threads [from, to) if all wait for the same; returns whether it did.
inline bool release(size_t from, size_t to, Wait wait) {
  State& s = state();
  size_t waiting = 0, done = 0;
  int line = 0;
  for (size_t i = from; i < to; ++i) {
    const Fiber& f = s.fibers[i];
    done += f.wait == Wait::kDone;
    if (f.wait != wait) continue;
    if (waiting++ && f.line != line) fail("threads wait at different barriers");
    line = f.line;
  }
  if (!waiting) return false;
  if (waiting + done < to - from) return false;
  if (done) fail("a barrier that some threads never reach");
  for (size_t i = from; i < to; ++i) s.fibers[i].wait = Wait::kReady;
  return true;
}

inline void run_block() {
  State& s = state();
  const size_t n = s.fibers.size();
  size_t index = 0;
  for (unsigned z = 0; z < s.block_dim.z; ++z)
    for (unsigned y = 0; y < s.block_dim.y; ++y)
      for (unsigned x = 0; x < s.block_dim.x; ++x) {
        Fiber& f = s.fibers[index++];
        f.thread = {x, y, z};
        f.wait = Wait::kReady;
        if (!f.stack) f.stack.reset(new char[kStack]);
#if defined(VV_JUMPS)
        if (f.started) continue;
#endif
        getcontext(&f.context);
        f.context.uc_stack.ss_sp = f.stack.get();
        f.context.uc_stack.ss_size = kStack;
        f.context.uc_link = nullptr;
        makecontext(&f.context, enter, 0);
      }
  std::vector<size_t> order(n);
  for (size_t i = 0; i < n; ++i) order[i] = i;
  for (;;) {
    for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[s.random() % i]);
    bool ran = false;
    for (const size_t i : order)
      if (s.fibers[i].wait == Wait::kReady) {
        resume(s.fibers[i]);
        ran = true;
      }
    bool released = false;
    for (size_t from = 0; from < n; from += 32) released |= release(from, from + 32 < n ? from + 32 : n, Wait::kWarp);
    released |= release(0, n, Wait::kBlock);
    if (released || ran) continue;
    for (const Fiber& f : s.fibers)
      if (f.wait != Wait::kDone) fail("threads wait for each other at different kinds of barrier");
    return;
  }
}

template <class Body>
void launch(dim3 grid, dim3 block, Body body) {
  State& s = state();
  s.grid_dim = grid;
  s.block_dim = block;
  s.body = body;
  s.fibers.resize(static_cast<size_t>(block.x) * block.y * block.z);
  if (s.fibers.empty() || s.fibers.size() > 1024) fail("a block must have 1 to 1024 threads");
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        s.block = {x, y, z};
        run_block();
      }
}

template <class T>
T shuffle(T value, unsigned source_lane, int line) {
  static_assert(sizeof(T) <= 8, "shuffles move up to eight bytes");
  State& s = state();
  const unsigned id = linear_id();
  std::memcpy(&s.exchange[id], &value, sizeof(T));
  yield(Wait::kWarp, line);
  T result;
  std::memcpy(&result, &s.exchange[(id & ~31u) + (source_lane & 31u)], sizeof(T));
  yield(Wait::kWarp, line);
  return result;
}

// Every thread of the warp takes part.
inline unsigned ballot(bool vote, int line) {
  State& s = state();
  const unsigned id = linear_id(), first = id & ~31u;
  s.exchange[id] = vote;
  yield(Wait::kWarp, line);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32 && first + lane < s.fibers.size(); ++lane)
    votes |= static_cast<unsigned>(s.exchange[first + lane]) << lane;
  yield(Wait::kWarp, line);
  return votes;
}

}  // namespace cuda_on_cpu

#define threadIdx (cuda_on_cpu::state().current->thread)
#define blockIdx (cuda_on_cpu::state().block)
#define blockDim (cuda_on_cpu::state().block_dim)
#define gridDim (cuda_on_cpu::state().grid_dim)
#define __syncthreads() cuda_on_cpu::yield(cuda_on_cpu::Wait::kBlock, __LINE__)
#define __syncwarp(...) cuda_on_cpu::yield(cuda_on_cpu::Wait::kWarp, __LINE__)
#define __shfl_sync(mask, v, lane) cuda_on_cpu::shuffle(v, lane, __LINE__)
#define __shfl_xor_sync(mask, v, bits) cuda_on_cpu::shuffle(v, (cuda_on_cpu::linear_id() & 31u) ^ (bits), __LINE__)
#define __ballot_sync(mask, vote) cuda_on_cpu::ballot(vote, __LINE__)
#define __shfl_down_sync(mask, v, n)                                                                           \
  cuda_on_cpu::shuffle(v,                                                                                      \
                       (cuda_on_cpu::linear_id() & 31u) + (n) < 32 ? (cuda_on_cpu::linear_id() & 31u) + (n)    \
                                                                   : (cuda_on_cpu::linear_id() & 31u),         \
                       __LINE__)
template <class T>
T atomicAdd(T* p, T v) { const T old = *p; *p += v; return old; }
template <class T>
T atomicMax(T* p, T v) { const T old = *p; if (v > old) *p = v; return old; }
template <class T>
T atomicMin(T* p, T v) { const T old = *p; if (v < old) *p = v; return old; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T>
T __ldg(const T* p) { return *p; }

#define VV_LAUNCH(kernel, grid, block, stream, ...) \
  (static_cast<void>(stream), cuda_on_cpu::launch(grid, block, [=] { kernel(__VA_ARGS__); }))

// Chooses the order in which threads run.
extern "C" __attribute__((visibility("default"), weak)) void cuda_on_cpu_seed(unsigned seed) {
  cuda_on_cpu::state().random.seed(seed);
}

#else
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#define VV_LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#endif

#define VV_CUDA_API extern "C" __attribute__((visibility("default")))
