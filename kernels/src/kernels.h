// What the library keeps between calls, and the table of functions that each instruction set fills.
#pragma once
#include <cstdint>
#include <vector>

namespace visavis {

constexpr int kPad = 2;          // replicated texels around a texture: a 4x4 fetch never leaves it
constexpr int kRowPad = 16;      // spare pixels at the end of a row of the group buffers: 8-pixel spans may overrun
constexpr int kSubpixel = 256;   // fixed-point steps a pixel
constexpr float kGuard = 16384;  // vertices further off (pixels) are not drawn

// By the texels that a triangle can fetch: all opaque (fetched when composited), all invisible (not drawn), or neither.
enum TriangleKind : uint8_t { kMixed, kSolid, kClear };

struct Mesh {
  int n_triangles, n_vertices, tex_width, tex_height, tex_stride;  // stride in bytes, of the padded texture
  float uv_margin;
  bool any_edge_flag, has_rest_depth;
  std::vector<int32_t> triangles;     // (T, 3)
  std::vector<uint8_t> part, edges;   // (T,)
  std::vector<uint8_t> kind;          // (T,) TriangleKind
  std::vector<float> uv, attr;        // (V, 2), (V, 3)
  std::vector<float> rest_depth;      // (V,) or empty
  std::vector<float> shade;           // (V,) or empty
  std::vector<uint8_t> texture;       // premultiplied RGBA, (Ht + 2 kPad, Wt + 2 kPad, 4)
};

// One depth layer of the group that is being drawn, a plane a quantity. depth is 1/z; 0 = nothing here.
struct Layer {
  float* depth;
  uint32_t* color;  // premultiplied RGBA, R in the lowest byte
  uint8_t* part;
  uint8_t* ramp;    // 1: colour comes from outside a boundary edge (only read where alpha < 255)
  float* attr[3];
};

// A vertex as the set-up of a triangle wants it: eight quantities to interpolate and the weight of each.
struct alignas(32) VertexRecord {
  float value[8];   // u, v, q, 1/z, attr 0..2, brightness; q is the denominator of u and v
  float weight[8];  // q, q, 1, 1, 1/z (perspective) or 1 (not) three times, 1
};

struct Job {
  const Mesh* mesh;
  const float* vertices;  // (V, 3) x, y in pixels, depth
  const int32_t* fixed;   // (V, 2) x, y in 1/256 pixel; x = INT32_MIN marks a vertex that cannot be drawn
  const VertexRecord* records;
  bool perspective, bicubic, cull, shaded;
  int width, height, stride;  // stride of the layers in pixels
  Layer front, back;
  int32_t* texel_v;    // front only. >= 0: color is 0xff000000 | U, a texture position in padded 1/256 texels, and this is V
  int32_t* light;      // brightness in 1/256 of such a pixel, if shaded
  int16_t* dirty;      // (H, 2) first and one past the last column that this group touched in a row
  uint8_t* rgb;        // (H, W, 3)
  uint8_t* coverage;   // (H, W)
  uint8_t* part;       // (H, W)
  float* position;     // (H, W, 3)
  int position_x0, position_x1, position_y0, position_y1;  // where positions are wanted: half of the memory that a pixel costs
};

struct PoseRig {
  int n_vertices, n_shapes, n_joints, n_blocks;  // blocks of 16 vertices, planes x, y, z inside a block
  bool half;                                     // shape deltas stored as float16
  std::vector<float> rest;                       // (blocks, 3, 16)
  std::vector<float> weights;                    // (blocks, joints, 16)
  std::vector<uint64_t> joint_mask;              // (blocks,) bit j: some vertex of the block follows joint j (j < 64)
  std::vector<int32_t> first;                    // (blocks + 1,) into entries
  std::vector<int32_t> shape;                    // (entries,) which blend shape
  std::vector<float> delta32;                    // (entries, 3, 16)
  std::vector<uint16_t> delta16;                 // (entries, 3, 16)
};

// Memory for pasting, all of it made by the caller: code of one instruction set must not share containers with another's.
struct PasteAxis {
  int from, to;            // pixels of the frame that lie inside the square
  int32_t* low;            // (pixels,) the square's pixel before
  uint16_t *share, *step;  // (pixels,) share of the next in 1/256; 1 where there is a next, 0 at the border
};
struct PasteScratch {
  PasteAxis across, down;
  uint8_t *wanted, *pair;  // (side,) whether anything of a row is wanted, (2, width, 3)
  int16_t* row;            // (side, 4)
};
struct PastePlanScratch {
  uint8_t* weight;          // (side, side)
  int32_t *before, *after;  // (side + 2, side + 2)
  int32_t *lost, *had;      // (side, side)
  int64_t* sums;            // (2, side)
};

// One step of the sampler: arrays (slots, n), seeds, frames and mask (slots,); see cuda/sampler_step.cu, which has the same.
struct SamplerStep {
  float *x, *kept;
  const float *velocity, *free;
  const uint64_t* seeds;
  const uint32_t* frames;
  const uint8_t* mask;
  float dt, sigma, guidance;
  int kind;
  uint32_t step, purpose;
};

// Sizes of a key/value ring; see cuda/kv_ring.cu.
struct KvRing {
  int planes, slots, fresh, sink, window, row_bytes;
};

// Tables of log-mel; see cuda/log_mel.cu, which has the same.
struct MelTables {
  const float *window, *cosine, *sine;
  const int32_t *first, *bin;
  const float* weights;
  float scale, floor;
};

// The square around the face of one frame, or of it `wide` x `tall` pixels from (u0, v0) on; see cuda/face_crop.cu.
struct FaceCrop {
  const uint8_t *rgb, *coverage, *labels;
  const float* position;
  uint8_t *warp, *seen, *part, *rest;
  float factor[3], offset[3];
  float scale, x0, y0;
  int by, left, top, columns, rows;
  int width, height;
  int u0, v0, wide, tall;
};

// Memory for it, made by the caller.
struct FaceCropScratch {
  int32_t *low, *high, *nearest;      // (wide,)
  uint16_t *share, *mixed;            // (wide,), (columns, 4)
  uint8_t* packed[2];                 // (columns, 4)
  float *position, *factor, *offset;  // (wide, 3)
};

struct Kernels {
  const char* name;
  void (*prepare)(const Mesh&, const float* vertices, const float* brightness, bool perspective, int32_t* fixed,
                  VertexRecord* records);
  void (*draw_rows)(const Job&, int y0, int y1);       // rasterises into the layers
  void (*composite_rows)(const Job&, int y0, int y1);  // layers over the outputs; leaves the layers empty
  void (*rgb_to_i420)(const uint8_t* rgb, int width, int height, uint8_t* out);
  void (*blend)(uint8_t* base, long base_stride, const uint8_t* patch, const uint8_t* mask, int width, int height);
  void (*paste_plan)(const uint8_t* colour, const uint8_t* under, const float* mask, const float* window, int side, int16_t* plan,
                     PastePlanScratch&);
  void (*composite)(uint8_t* rgb, int width, int height, const int16_t* plan, int side, float scale, float x0, float y0,
                    uint8_t* out, PasteScratch&);
  void (*pose)(const PoseRig&, const float* coefficients, const float* joints, const float* camera, float* out,
               float* camera_space);
  void (*sampler_step)(const SamplerStep&, int slots, long n);
  void (*kv_ring)(const uint8_t* fresh, const uint8_t* sink, uint8_t* cache, int32_t* positions, int64_t* written,
                  const uint8_t* mask, const uint8_t* reset, const KvRing&);
  void (*log_mel)(const MelTables&, const float* sound, int windows, float* out);
  void (*face_crop)(const FaceCrop&, FaceCropScratch&);
};

namespace base { void fill_raster(Kernels&); void fill_color(Kernels&); void fill_paste_plan(Kernels&); void fill_pose(Kernels&); void fill_steps(Kernels&); void fill_features(Kernels&); }
namespace avx2 { void fill_raster(Kernels&); void fill_color(Kernels&); void fill_paste_plan(Kernels&); void fill_pose(Kernels&); void fill_steps(Kernels&); void fill_features(Kernels&); }
namespace avx512 { void fill_raster(Kernels&); void fill_color(Kernels&); void fill_paste_plan(Kernels&); void fill_pose(Kernels&); void fill_steps(Kernels&); void fill_features(Kernels&); }

// Filled when the library loads (api.cpp).
alignas(32) extern int16_t bicubic_weights[256][4];  // Catmull-Rom at 1/256 texel, sum 16384
extern uint64_t byte_masks[256];                     // bit k -> byte k is 255
alignas(32) extern int32_t bicubic_columns[256][8];  // the same as pairs: (w0, w1) four times, (w2, w3) four times

}  // namespace visavis
