// The C ABI: handles, plain pointers, integers. Everything is checked on the Python side; here only what would crash.
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <unistd.h>

#include "kernels.h"

#define VV_API extern "C" __attribute__((visibility("default")))

namespace visavis {

alignas(32) int16_t bicubic_weights[256][4];
alignas(32) int32_t bicubic_columns[256][8];
uint64_t byte_masks[256];

namespace {

bool fill_tables() {
  for (int i = 0; i < 256; ++i) {
    for (int k = 0; k < 8; ++k) byte_masks[i] |= (i >> k & 1) ? uint64_t{255} << (8 * k) : 0;
    const double f = i / 256.0;
    const double w[4] = {-0.5 * f + f * f - 0.5 * f * f * f, 1 - 2.5 * f * f + 1.5 * f * f * f,
                         0.5 * f + 2 * f * f - 1.5 * f * f * f, -0.5 * f * f + 0.5 * f * f * f};
    int sum = 0;
    for (int k = 0; k < 4; ++k) sum += bicubic_weights[i][k] = static_cast<int16_t>(std::lround(w[k] * 16384));
    bicubic_weights[i][f < 0.5 ? 1 : 2] += static_cast<int16_t>(16384 - sum);
    int32_t pair[2];
    std::memcpy(pair, bicubic_weights[i], sizeof pair);
    for (int k = 0; k < 8; ++k) bicubic_columns[i][k] = pair[k / 4];
  }
  return true;
}
const bool tables_filled = fill_tables();

// The rasteriser was a tenth faster with AVX2 than with AVX-512 wherever it was measured: it has no code of its own for that.
#define VV_TABLE(isa, raster)    \
  Kernels table_##isa() {        \
    Kernels k{};                 \
    k.name = #isa;               \
    raster::fill_raster(k);      \
    isa::fill_color(k);          \
    isa::fill_paste_plan(k);     \
    isa::fill_pose(k);           \
    isa::fill_steps(k);          \
    isa::fill_features(k);       \
    return k;                    \
  }
VV_TABLE(base, base)
#if defined(VV_HAS_avx2)
VV_TABLE(avx2, avx2)
#endif
#if defined(VV_HAS_avx512)
VV_TABLE(avx512, avx2)
#endif

// The best table that the processor can run; `name` asks for one. nullptr if the processor or the build lacks it.
const Kernels* find(const char* name) {
#if defined(VV_HAS_avx2) || defined(VV_HAS_avx512)
  __builtin_cpu_init();
#endif
  const bool any = name == nullptr || *name == '\0';
#if defined(VV_HAS_avx512)
  if ((any || !std::strcmp(name, "avx512")) && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("bmi2")) {
    static const Kernels k = table_avx512();
    return &k;
  }
#endif
#if defined(VV_HAS_avx2)
  if ((any || !std::strcmp(name, "avx2")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") &&
      __builtin_cpu_supports("bmi2")) {
    static const Kernels k = table_avx2();
    return &k;
  }
#endif
  if (any || !std::strcmp(name, "base")) {
    static const Kernels k = table_base();
    return &k;
  }
  return nullptr;
}

std::atomic<const Kernels*> active{find(nullptr)};

// Worker threads of one target. Made on first use; a process that was forked makes its own.
class Pool {
 public:
  ~Pool() { stop(); }

  // Calls work(0 .. n-1), spread over `threads` threads, the caller being one of them.
  void run(int threads, int n, const std::function<void(int)>& work) {
    if (threads <= 1 || n <= 1) {
      for (int i = 0; i < n; ++i) work(i);
      return;
    }
    if (owner_ != getpid()) forget();
    while (static_cast<int>(workers_.size()) < threads - 1) {
      const int id = static_cast<int>(workers_.size());
      workers_.emplace_back([this, id] { serve(id); });
    }
    {
      std::lock_guard<std::mutex> lock(*mutex_);
      work_ = &work;
      count_ = n;
      next_ = 0;
      helpers_ = threads - 1;
      running_ = threads - 1;
      ++generation_;
    }
    wake_->notify_all();
    take(work, n);
    std::unique_lock<std::mutex> lock(*mutex_);
    done_->wait(lock, [&] { return running_ == 0; });
  }

 private:
  void take(const std::function<void(int)>& work, int n) {
    for (int i; (i = next_.fetch_add(1)) < n;) work(i);
  }

  void serve(int id) {
    long seen = 0;
    for (;;) {
      const std::function<void(int)>* work;
      int n;
      {
        std::unique_lock<std::mutex> lock(*mutex_);
        wake_->wait(lock, [&] { return quit_ || generation_ != seen; });
        if (quit_) return;
        seen = generation_;
        if (id >= helpers_) continue;
        work = work_;
        n = count_;
      }
      take(*work, n);
      std::lock_guard<std::mutex> lock(*mutex_);
      if (--running_ == 0) done_->notify_one();
    }
  }

  void stop() {
    if (workers_.empty()) return;
    if (owner_ != getpid()) {
      forget();
      return;
    }
    {
      std::lock_guard<std::mutex> lock(*mutex_);
      quit_ = true;
    }
    wake_->notify_all();
    for (auto& w : workers_) w.join();
    workers_.clear();
  }

  // After a fork the threads are not there: their objects and locks are left behind, not destroyed.
  void forget() {
    if (!workers_.empty()) {
      new std::vector<std::thread>(std::move(workers_));
      workers_.clear();
      (void)mutex_.release();
      (void)wake_.release();
      (void)done_.release();
      mutex_ = std::make_unique<std::mutex>();
      wake_ = std::make_unique<std::condition_variable>();
      done_ = std::make_unique<std::condition_variable>();
      generation_ = 0;
    }
    owner_ = getpid();
  }

  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
  std::unique_ptr<std::condition_variable> wake_ = std::make_unique<std::condition_variable>(),
                                           done_ = std::make_unique<std::condition_variable>();
  std::vector<std::thread> workers_;
  const std::function<void(int)>* work_ = nullptr;
  std::atomic<int> next_{0};
  int count_ = 0, helpers_ = 0, running_ = 0;
  long generation_ = 0;
  bool quit_ = false;
  pid_t owner_ = getpid();
};

// What each triangle can fetch: opaque texels only, invisible ones only, or both; from summed-area tables over the texels
// that are not opaque and over those that can be seen.
void classify(Mesh& m) {
  const int w = m.tex_width, h = m.tex_height;
  const size_t s = static_cast<size_t>(w) + 1;
  std::vector<int32_t> not_opaque(s * (h + 1), 0), seen(s * (h + 1), 0);
  for (int y = 0; y < h; ++y)
    for (int x = 0; x < w; ++x) {
      const uint8_t alpha = m.texture[static_cast<size_t>(y + kPad) * m.tex_stride + 4 * (x + kPad) + 3];
      const size_t i = static_cast<size_t>(y) * s + x;
      not_opaque[i + s + 1] = (alpha != 255) + not_opaque[i + s] + not_opaque[i + 1] - not_opaque[i];
      // Texels of alpha 1 sum to less than 1.5 under any weights: what is fetched from them is discarded.
      seen[i + s + 1] = (alpha > 1) + seen[i + s] + seen[i + 1] - seen[i];
    }
  // Texels from one before to two past the position, where the position may be rounded up by 1/512.
  const auto first = [](float lo, float margin, int n) {
    const double x = std::floor(static_cast<double>(lo) - margin - 0.51) - 1;
    return static_cast<size_t>(x < 0 ? 0 : x > n - 1 ? n - 1 : x);
  };
  const auto end = [](float hi, float margin, int n) {
    const double x = std::floor(static_cast<double>(hi) + margin - 0.49) + 3;
    return static_cast<size_t>(x > n ? n : x < 1 ? 1 : x);
  };
  m.kind.resize(m.n_triangles);
  for (int t = 0; t < m.n_triangles; ++t) {
    const float *a = &m.uv[2 * m.triangles[3 * t]], *b = &m.uv[2 * m.triangles[3 * t + 1]],
                *c = &m.uv[2 * m.triangles[3 * t + 2]];
    const size_t x0 = first(std::fmin(a[0], std::fmin(b[0], c[0])), m.uv_margin, w);
    const size_t x1 = end(std::fmax(a[0], std::fmax(b[0], c[0])), m.uv_margin, w);
    const size_t y0 = first(std::fmin(a[1], std::fmin(b[1], c[1])), m.uv_margin, h);
    const size_t y1 = end(std::fmax(a[1], std::fmax(b[1], c[1])), m.uv_margin, h);
    const auto none = [&](const std::vector<int32_t>& sum) {
      return sum[y1 * s + x1] - sum[y0 * s + x1] - sum[y1 * s + x0] + sum[y0 * s + x0] == 0;
    };
    m.kind[t] = none(not_opaque) ? kSolid : none(seen) ? kClear : kMixed;
  }
}

struct Target {
  int width, height, stride;
  std::vector<float> planes;  // depth and attr of both layers
  std::vector<uint32_t> colors;
  std::vector<uint8_t> bytes;
  std::vector<int16_t> dirty;
  std::vector<int32_t> fixed, texels;  // texels: texture rows and light of the front layer
  std::vector<VertexRecord> records;
  Layer layers[2];
  Pool pool;
};

}  // namespace
}  // namespace visavis

using namespace visavis;

VV_API int vv_abi_version() { return 1; }

VV_API const char* vv_isa() { return active.load()->name; }

// Chooses the instruction set ("" = best). 0, or -1 if it cannot be had.
VV_API int vv_use_isa(const char* name) {
  const Kernels* k = find(name);
  if (!k) return -1;
  active = k;
  return 0;
}

VV_API Mesh* vv_mesh_create(int n_triangles, int n_vertices, const int32_t* triangles, const float* uv,
                            const uint8_t* part, const float* attr, const uint8_t* edges, const float* rest_depth,
                            const float* shade, const uint8_t* texture, int tex_width, int tex_height, float uv_margin) {
  try {
    auto m = std::make_unique<Mesh>();
    m->n_triangles = n_triangles;
    m->n_vertices = n_vertices;
    m->triangles.assign(triangles, triangles + 3L * n_triangles);
    m->part.assign(part, part + n_triangles);
    m->edges.assign(edges, edges + n_triangles);
    m->uv.assign(uv, uv + 2L * n_vertices);
    m->attr.assign(attr, attr + 3L * n_vertices);
    m->has_rest_depth = rest_depth != nullptr;
    if (rest_depth) m->rest_depth.assign(rest_depth, rest_depth + n_vertices);
    if (shade) m->shade.assign(shade, shade + n_vertices);
    m->any_edge_flag = false;
    for (const uint8_t e : m->edges) m->any_edge_flag |= e != 0;
    m->uv_margin = uv_margin;
    m->tex_width = tex_width;
    m->tex_height = tex_height;
    m->tex_stride = 4 * (tex_width + 2 * kPad);
    m->texture.resize(static_cast<size_t>(m->tex_stride) * (tex_height + 2 * kPad));
    for (int y = 0; y < tex_height + 2 * kPad; ++y)
      for (int x = 0; x < tex_width + 2 * kPad; ++x) {
        const int sy = y < kPad ? 0 : y - kPad < tex_height ? y - kPad : tex_height - 1;
        const int sx = x < kPad ? 0 : x - kPad < tex_width ? x - kPad : tex_width - 1;
        const uint8_t* s = texture + 4 * (static_cast<size_t>(sy) * tex_width + sx);
        uint8_t* d = m->texture.data() + static_cast<size_t>(y) * m->tex_stride + 4 * x;
        for (int c = 0; c < 3; ++c) d[c] = static_cast<uint8_t>((s[c] * s[3] * 2 + 255) / 510);
        d[3] = s[3];
      }
    classify(*m);
    return m.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

VV_API void vv_mesh_destroy(Mesh* m) { delete m; }

VV_API Target* vv_target_create(int width, int height) {
  try {
    auto t = std::make_unique<Target>();
    t->width = width;
    t->height = height;
    t->stride = (width + kRowPad + 7) / 8 * 8;
    const size_t n = static_cast<size_t>(t->stride) * height;
    t->planes.assign(8 * n, 0.f);
    t->colors.assign(2 * n, 0);
    t->bytes.assign(4 * n, 0);
    t->texels.assign(2 * n, -1);
    t->dirty.resize(2 * static_cast<size_t>(height));
    for (int y = 0; y < height; ++y) t->dirty[2 * y] = INT16_MAX, t->dirty[2 * y + 1] = 0;
    for (int l = 0; l < 2; ++l) {
      float* p = t->planes.data() + 4 * n * l;
      t->layers[l] = {p, t->colors.data() + n * l, t->bytes.data() + 2 * n * l, t->bytes.data() + 2 * n * l + n,
                      {p + n, p + 2 * n, p + 3 * n}};
    }
    return t.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

VV_API void vv_target_destroy(Target* t) { delete t; }

// flags: 1 perspective, 2 bicubic, 4 cull. wanted: x0, y0, x1, y1 of the pixels whose positions are told. 0, or -1 when memory is out.
VV_API int vv_draw(Target* t, const Mesh* mesh, const float* vertices, const float* brightness, int flags, int threads,
                   uint8_t* rgb, uint8_t* coverage, uint8_t* part, float* position, const int32_t* wanted) {
  try {
    const Kernels& k = *active.load();
    if (t->records.size() < static_cast<size_t>(mesh->n_vertices)) {
      t->records.resize(mesh->n_vertices);
      t->fixed.resize(2 * static_cast<size_t>(mesh->n_vertices));
    }
    Job job{};
    job.mesh = mesh;
    job.vertices = vertices;
    job.fixed = t->fixed.data();
    job.records = t->records.data();
    job.perspective = flags & 1;
    job.bicubic = flags & 2;
    job.cull = flags & 4;
    job.shaded = brightness != nullptr || !mesh->shade.empty();
    job.width = t->width;
    job.height = t->height;
    job.stride = t->stride;
    job.front = t->layers[0];
    job.back = t->layers[1];
    job.texel_v = t->texels.data();
    job.light = t->texels.data() + t->texels.size() / 2;
    job.dirty = t->dirty.data();
    job.rgb = rgb;
    job.coverage = coverage;
    job.part = part;
    job.position = position;
    job.position_x0 = wanted[0];
    job.position_y0 = wanted[1];
    job.position_x1 = wanted[2];
    job.position_y1 = wanted[3];
    k.prepare(*mesh, vertices, brightness, job.perspective, t->fixed.data(), t->records.data());
    // Small groups (eyes, mouth) are not worth waking anyone for.
    const int bands = threads > 1 && mesh->n_triangles >= 1000 ? 4 * threads : 1;
    const int rows = (t->height + bands - 1) / bands;
    t->pool.run(bands == 1 ? 1 : threads, bands, [&](int band) {
      const int y0 = band * rows, y1 = y0 + rows < t->height ? y0 + rows : t->height;
      if (y0 >= y1) return;
      k.draw_rows(job, y0, y1);
      k.composite_rows(job, y0, y1);
    });
    return 0;
  } catch (const std::exception&) {
    return -1;
  }
}

VV_API void vv_rgb_to_i420(const uint8_t* rgb, int width, int height, uint8_t* out) {
  active.load()->rgb_to_i420(rgb, width, height, out);
}

VV_API void vv_blend(uint8_t* base, long base_stride, const uint8_t* patch, const uint8_t* mask, int width, int height) {
  active.load()->blend(base, base_stride, patch, mask, width, height);
}

// What a painted square changes, (side, side, 4). 0, or -1 when memory is out.
VV_API int vv_paste_plan(const uint8_t* colour, const uint8_t* under, const float* mask, const float* window, int side, int16_t* plan) {
  try {
    const size_t n = side, area = n * n, padded = (n + 2) * (n + 2);
    std::vector<uint8_t> weight(area);
    std::vector<int32_t> pictures(2 * padded + 2 * area);
    std::vector<int64_t> sums(2 * n);
    int32_t* at = pictures.data();
    PastePlanScratch scratch{weight.data(), at, at + padded, at + 2 * padded, at + 2 * padded + area, sums.data()};
    active.load()->paste_plan(colour, under, mask, window, side, plan, scratch);
    return 0;
  } catch (const std::bad_alloc&) {
    return -1;
  }
}

// Pastes a square by its plan into the frame (out null), or gives the result as I420 and leaves the frame. 0, or -1 when memory is out.
VV_API int vv_composite(uint8_t* rgb, int width, int height, const int16_t* plan, int side, float scale, float x0, float y0,
                        uint8_t* out) {
  try {
    const size_t pixels = static_cast<size_t>(width) + height, n = side;
    std::vector<int32_t> low(pixels);
    std::vector<uint16_t> shares(2 * pixels);
    std::vector<int16_t> row(4 * n);
    std::vector<uint8_t> bytes(n + 6 * static_cast<size_t>(width));
    PasteScratch scratch{{0, 0, low.data(), shares.data(), shares.data() + pixels},
                         {0, 0, low.data() + width, shares.data() + width, shares.data() + pixels + width},
                         bytes.data(), bytes.data() + n, row.data()};
    active.load()->composite(rgb, width, height, plan, side, scale, x0, y0, out, scratch);
    return 0;
  } catch (const std::bad_alloc&) {
    return -1;
  }
}

// `windows` windows of 400 samples, 160 apart -> (windows, 80).
VV_API void vv_log_mel(const MelTables* tables, const float* sound, int windows, float* out) {
  active.load()->log_mel(*tables, sound, windows, out);
}

// 0, or -1 when memory ran out.
VV_API int vv_face_crop(const FaceCrop* crop) {
  try {
    const size_t wide = crop->wide, columns = crop->columns;
    std::vector<int32_t> places(3 * wide);
    std::vector<uint16_t> shares(wide + 4 * columns);
    std::vector<uint8_t> rows(8 * columns);
    std::vector<float> values(9 * wide);
    FaceCropScratch scratch{places.data(), places.data() + wide, places.data() + 2 * wide,
                            shares.data(), shares.data() + wide, {rows.data(), rows.data() + 4 * columns},
                            values.data(), values.data() + 3 * wide, values.data() + 6 * wide};
    for (size_t i = 0; i < 3 * wide; ++i) {
      scratch.factor[i] = crop->factor[i % 3];
      scratch.offset[i] = crop->offset[i % 3];
    }
    active.load()->face_crop(*crop, scratch);
    return 0;
  } catch (const std::bad_alloc&) {
    return -1;
  }
}

// 0, or 1 for a kind that is not there or arrays that it needs and were not given: as vvc_sampler_step.
VV_API int vv_sampler_step(const SamplerStep* s, int slots, long n) {
  if (n < 1 || s->kind < 0 || s->kind > 3 || !s->x || (s->kind && !s->velocity) || (s->kind >= 2 && !s->kept) ||
      (s->sigma != 0.f && (!s->seeds || !s->frames)))
    return 1;
  active.load()->sampler_step(*s, slots, n);
  return 0;
}

// 0, or 1 if the fresh rows do not fit in the ring: as vvc_kv_ring.
VV_API int vv_kv_ring(const uint8_t* fresh, const uint8_t* sink, uint8_t* cache, int32_t* positions, int64_t* written,
                      const uint8_t* mask, const uint8_t* reset, int planes, int slots, int fresh_rows, int sink_rows,
                      int window, int row_bytes) {
  if (fresh_rows < 1 || window < fresh_rows || sink_rows < 0 || row_bytes < 1) return 1;
  active.load()->kv_ring(fresh, sink, cache, positions, written, mask, reset,
                         {planes, slots, fresh_rows, sink_rows, window, row_bytes});
  return 0;
}

VV_API PoseRig* vv_pose_create(int n_vertices, int n_shapes, int n_joints, const float* rest, const float* weights,
                               const float* basis, int half) {
  try {
    auto r = std::make_unique<PoseRig>();
    constexpr int kBlock = 16;
    const int blocks = (n_vertices + kBlock - 1) / kBlock;
    r->n_vertices = n_vertices;
    r->n_shapes = n_shapes;
    r->n_joints = n_joints;
    r->n_blocks = blocks;
    r->half = half != 0;
    r->rest.assign(3L * kBlock * blocks, 0.f);
    r->weights.assign(static_cast<size_t>(n_joints) * kBlock * blocks, 0.f);
    r->joint_mask.assign(blocks, 0);
    for (int v = 0; v < n_vertices; ++v) {
      const long b = v / kBlock, i = v % kBlock;
      for (int c = 0; c < 3; ++c) r->rest[(b * 3 + c) * kBlock + i] = rest[3L * v + c];
      for (int j = 0; j < n_joints; ++j) {
        const float w = weights[static_cast<long>(v) * n_joints + j];
        r->weights[(b * n_joints + j) * kBlock + i] = w;
        if (w != 0.f) r->joint_mask[b] |= uint64_t{1} << (j < 63 ? j : 63);
      }
    }
    r->first.push_back(0);
    for (int b = 0; b < blocks; ++b) {
      for (int k = 0; k < n_shapes; ++k) {
        float block[3][kBlock] = {};
        bool moves = false;
        for (int i = 0; i < kBlock && b * kBlock + i < n_vertices; ++i)
          for (int c = 0; c < 3; ++c) {
            block[c][i] = basis[(static_cast<long>(k) * n_vertices + b * kBlock + i) * 3 + c];
            moves |= block[c][i] != 0.f;
          }
        if (!moves) continue;
        r->shape.push_back(k);
        for (int c = 0; c < 3; ++c)
          for (int i = 0; i < kBlock; ++i) {
            if (!half) {
              r->delta32.push_back(block[c][i]);
              continue;
            }
            // The values came from float16, so the narrowing is exact: undo the product of load_half().
            float x = std::fabs(block[c][i]) * 0x1p-112f;
            uint32_t bits;
            std::memcpy(&bits, &x, 4);
            r->delta16.push_back(static_cast<uint16_t>((bits >> 13 & 0x7fffu) | (std::signbit(block[c][i]) ? 0x8000u : 0u)));
          }
      }
      r->first.push_back(static_cast<int32_t>(r->shape.size()));
    }
    return r.release();
  } catch (const std::exception&) {
    return nullptr;
  }
}

VV_API void vv_pose_destroy(PoseRig* r) { delete r; }

// Bytes that one pose reads when every coefficient moves.
VV_API long vv_pose_bytes(const PoseRig* r) {
  return static_cast<long>(r->shape.size()) * 48 * (r->half ? 2 : 4) + 4L * static_cast<long>(r->rest.size() + r->weights.size());
}

VV_API void vv_pose(const PoseRig* r, const float* coefficients, const float* joints, const float* camera, float* out,
                    float* camera_space) {
  active.load()->pose(*r, coefficients, joints, camera, out, camera_space);
}
