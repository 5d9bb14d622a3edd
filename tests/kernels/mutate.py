"""Breaks the CUDA sources in known ways and shows that the tests notice.

    python tests/kernels/mutate.py [--source raster.cu] [--sanitize]

Every mutant is one source with one change, built for the CPU and run through the checks of that source in a process of its
own: a wrong number, a crash, a barrier that diverges or a hang means that it was caught. The sources as they are must pass
first. --sanitize builds all of it with the address and undefined-behaviour sanitizers.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import test_cuda_motion as motion
import test_cuda_on_cpu as others
import test_cuda_raster as raster
import test_cuda_steps as steps
from cuda_build import CUDA, build
from launcher import Launcher

TIMEOUT = 120
"""Seconds after which a mutant counts as hanging."""

Check = Callable[[Launcher], None]


@dataclass(frozen=True)
class Mutation:
    source: str
    name: str
    before: str
    after: str


def check_raster(cuda: Launcher) -> None:
    for seed, kind, count, width, height in (
        (1, "sheet", 2, 33, 20),
        (2, "soup", 2, 35, 17),
        (3, "sheet", 1, 17, 34),
        (4, "sheet", 2, 30, 30),
        (9, "soup", 3, 20, 37),
        (10, "soup", 2, 30, 30),
        (14, "soup", 2, 30, 30),
    ):
        mask = np.arange(count).astype(np.uint8) % 2 if seed != 3 else None
        raster.check(cuda, raster.random_slots(seed, kind, count, width, height), mask)
    raster.test_many_layers(cuda)
    raster.test_a_veil_before_ramps_and_opaque_triangles(cuda)
    raster.test_several_bins_and_batches(cuda)
    raster.test_broken_and_far_vertices(cuda)
    raster.test_sizes_that_cannot_be_drawn_are_refused(cuda)


def check_rgb_to_yuv(cuda: Launcher) -> None:
    for arguments in ((0, 33, 9, 2, True), (1, 3, 20, 3, True), (2, 19, 5, 2, False), (3, 7, 18, 3, False)):
        others.test_rgb_to_yuv.hypothesis.inner_test(cuda, *arguments)  # type: ignore[attr-defined]


def check_pose(cuda: Launcher) -> None:
    for arguments in ((0, 128, 5, 3, 2), (1, 300, 20, 9, 3), (2, 1, 0, 1, 2)):
        others.test_pose.hypothesis.inner_test(cuda, *arguments)  # type: ignore[attr-defined]
    others.test_pose_refuses_what_it_cannot_hold(cuda)


def check_log_mel(cuda: Launcher) -> None:
    others.test_log_mel_is_the_stream_that_the_product_hears(cuda)


def check_kv_ring(cuda: Launcher) -> None:
    steps.check_ring(cuda, 1, 2, 2, 3, 5, 2, 6)
    steps.check_ring(cuda, 2, 1, 3, 0, 4, 3, 6)
    steps.test_a_ring_of_more_rows_than_a_block_has_threads(cuda)
    steps.test_positions_stay_bounded_after_days(cuda)
    steps.test_kv_ring_refuses_what_does_not_fit(cuda)


def check_sampler_step(cuda: Launcher) -> None:
    for seed in range(16):
        steps.check_step(cuda, seed, 2, (520, 7, 600, 513)[seed // 4], seed % 4)
    steps.test_heun_is_exact_to_second_order(cuda)
    steps.test_the_sampler_refuses_steps_without_their_arrays(cuda)


def check_paste_plan(cuda: Launcher) -> None:
    for seed in range(20):
        steps.check_paste_plan(cuda, seed, 2, (1, 7, 16, 23, 38)[seed % 5])
    steps.test_paste_plan_refuses_no_square(cuda)


def check_composite(cuda: Launcher) -> None:
    for seed in range(9):
        steps.check_composite(cuda, seed, 2, (48, 46, 544)[seed % 3], (20, 14)[seed // 5])
    steps.test_composite_refuses_odd_frames(cuda)


def check_face_crop(cuda: Launcher) -> None:
    for seed in range(4):
        steps.check_face_crop(cuda, seed)
    steps.test_face_crop_refuses_other_sides(cuda)


def check_states(cuda: Launcher) -> None:
    for seed in range(3):
        steps.check_states(cuda, seed, 3, [(2, 12), (1, 7), (3, 4)])
    steps.test_states_of_rows_longer_than_a_block(cuda)
    steps.test_states_refuse_nothing_at_all(cuda)


def check_motion(cuda: Launcher) -> None:
    for seed in range(8):
        motion.check_hear(cuda, seed, 4, 8)
    for seed in range(4):
        motion.check_show(cuda, seed, 3, 4)
    motion.test_motion_refuses_what_it_cannot_hold(cuda)


def check_figure(cuda: Launcher) -> None:
    for seed in range(8):
        motion.check_figure(cuda, seed, 3, (1.1, 0.55, 0.3, 0.66)[seed % 4])
    motion.test_figure_refuses_what_it_cannot_hold(cuda)


CHECKS: dict[str, Check] = {
    "raster.cu": check_raster,
    "rgb_to_yuv.cu": check_rgb_to_yuv,
    "pose.cu": check_pose,
    "log_mel.cu": check_log_mel,
    "kv_ring.cu": check_kv_ring,
    "sampler_step.cu": check_sampler_step,
    "paste_plan.cu": check_paste_plan,
    "composite.cu": check_composite,
    "face_crop.cu": check_face_crop,
    "states.cu": check_states,
    "motion.cu": check_motion,
    "figure.cu": check_figure,
}

CHANGES: dict[str, list[tuple[str, str, str]]] = {
    "raster.cu": [
        ("mask upside down in setup", "if (mask && !mask[blockIdx.y])", "if (mask && mask[blockIdx.y])"),
        ("no mask in draw", "  if (mask && !mask[blockIdx.z]) return;  // the same for the whole block\n"
         "  const VvRasterSlot& s = slots[blockIdx.z];\n  const int tid",
         "  const VvRasterSlot& s = slots[blockIdx.z];\n  const int tid"),
        ("one triangle too many", "if (t >= s.n_triangles) return;", "if (t > s.n_triangles) return;"),
        ("last triangle left out of the bins", "const bool wanted = t < s.n_triangles &&",
         "const bool wanted = t < s.n_triangles - 1 &&"),
        ("box ends a pixel early", "least((max_x + kSubpixel / 2) >> 8, width)",
         "least((max_x - kSubpixel / 2) >> 8, width)"),
        ("box begins a pixel late", "most((min_y + kSubpixel / 2 - 1) >> 8, 0)",
         "most((min_y + kSubpixel * 3 / 2) >> 8, 0)"),
        ("ramps do not reach into the next tile", "r.edges ? kSubpixel + kSubpixel / 2 : 0", "0"),
        ("tile a pixel narrow", "b.x0 < x0 + side", "b.x0 < x0 + side - 1"),
        ("tile takes its neighbour's edge only", "b.y1 > y0", "b.y1 > y0 + 1"),
        ("order lost within a warp", "list[before + __popc(votes & ((1u << lane) - 1u))]",
         "list[before + __popc(votes >> lane) - 1]"),
        ("warps before this one miscounted", "if (w < warp) before", "if (w <= warp) before"),
        ("second batch reads the first", "scratch.records + list[begin + i / kWords]",
         "scratch.records + list[i / kWords]"),
        ("last triangle of a batch left out", "for (int j = 0; j < count; ++j)\n          draw",
         "for (int j = 0; j < count - 1; ++j)\n          draw"),
        ("no bounds of the screen", "const bool on_screen = x < width && y < height;",
         "const bool on_screen = x <= width && y < height;"),
        ("the list's bin transposed", "y0 / kBin * bins_x + x0 / kBin", "x0 / kBin * bins_x + y0 / kBin"),
        ("top-left rule upside down", "(top_left ? 0 : 1)", "(top_left ? 1 : 0)"),
        ("edges with too few bits", "(e[0] | e[1] | e[2]) >= 0", "(e[0] | e[1]) >= 0"),
        ("depth the wrong way", "const bool nearer = depth > front.depth;",
         "const bool nearer = depth < front.depth;"),
        ("affine texture", "u = u * inverse;", "u = u * 1.f;"),
        ("attributes of the wrong plane", "r.gx[4 + k] * dx", "r.gx[3 + k] * dx"),
        ("texels shifted", "(u + (kPad - 0.5f))", "(u + (kPad - 1.f))"),
        ("one column of texels twice", "__ldg(p + static_cast<long>(i) * stride + j)",
         "__ldg(p + static_cast<long>(i) * stride + (j & 2))"),
        ("bilinear weights swapped", "l * (256 - fx) + r * fx", "r * (256 - fx) + l * fx"),
        ("colour above alpha", "least(sum[c] >> 20, a)", "least(sum[c] >> 20, 255)"),
        ("ramp without ends", "clamp((from_x * ex + from_y * ey) * scale, 0.f, 1.f)",
         "((from_x * ex + from_y * ey) * scale)"),
        ("flags of turned triangles", "r.flip ? 2 - flag : flag", "flag"),
        ("ramps double each other", "if (with_low == Meet::kDropNew) return;", ""),
        ("back layer forgotten", "back = top_opaque || back.depth == 0.f ? front : merge(front, back);",
         "back = front;"),
        ("stale back layer", "resolve<kBicubic>(s, shaded, front);\n      back",
         "back"),
        ("label of the back layer lost", "if (!labelled && two && alpha_of(back.color) >= 128)",
         "if (!labelled && two && alpha_of(back.color) > 255)"),
        ("brightness not kept to alpha", "out |= (v < a ? v : a) << k;", "out |= (v & 255u) << k;"),
        ("a begun frame keeps its labels", "if (labelled || fresh) {", "if (labelled) {"),
        ("coverage of the last frame", "static_cast<unsigned>(fresh ? 0 : s.coverage[o])",
         "static_cast<unsigned>(s.coverage[o])"),
    ],
    "rgb_to_yuv.cu": [
        ("mask upside down", "!mask[slot]", "mask[slot]"),
        ("a block past the right edge", "if (x >= width ||", "if (x > width ||"),
        ("rows past the end", "|| y >= height) return;", "|| y > height) return;"),
        ("slots overlap", "slot * (area + area / 2)", "slot * area"),
        ("tail two pixels long", "i < n; i += 2", "i < n - 2; i += 2"),
        ("wide path for every width", "width % 16 == 0", "width % 2 == 0"),
    ],
    "yuv.cuh": [
        ("luma of the wrong channel", "const int r0 = byte_of(a, 3 * i)", "const int r0 = byte_of(a, 3 * i + 1)"),
        ("second plane misplaced", "(pu + area / 4) = ", "(pu + area / 2) = "),
        ("U and V swapped", "(cu | cv << 8)", "(cv | cu << 8)"),
        ("no rounding", "(128 << 17) + (1 << 16)", "(128 << 17)"),
    ],
    "pose.cu": [
        ("mask upside down", "!mask[blockIdx.y]", "mask[blockIdx.y]"),
        ("one vertex too many", "if (i >= vertices) return;", "if (i > vertices) return;"),
        ("last shape left out", "k < shapes; ++k", "k < shapes - 1; ++k"),
        ("planes of one shape only", "s.basis + 3 * plane * k", "s.basis + plane * k"),
        ("sign of halves lost", "h & 0x8000u ? -x : x", "x"),
        ("part of the joints", "k < 12 * joints", "k < 11 * joints"),
    ],
    "log_mel.cu": [
        ("mask upside down", "!mask[slot]", "mask[slot]"),
        ("state from the wrong place", "wide[kFrame / 4 + i]", "wide[kTail / 4 + i]"),
        ("last band left out", "if (tid < kBands)", "if (tid < kBands - 1)"),
        ("upper bins left out", "i <= kFft / 2", "i <= kFft / 4"),
        ("butterflies one apart", "b = a + half;", "b = a + half - (half > 1);"),
    ],
    "kv_ring.cu": [
        ("mask upside down", "if (mask && !mask[slot]) return;\n", "if (mask && mask[slot]) return;\n"),
        ("no mask for the counters", "  if (mask && !mask[slot]) return;  // the same for the whole block\n", ""),
        ("one row too few", "if (row < ring.fresh) {", "if (row < ring.fresh - 1) {"),
        ("one row too many", "if (row < ring.fresh) {", "if (row <= ring.fresh) {"),
        ("ring over the sink", "to[static_cast<long>(ring.sink + at) * ring.words] =",
         "to[static_cast<long>(at) * ring.words] ="),
        ("ring one row short", "+ row) % ring.window)", "+ row) % (ring.window > 1 ? ring.window - 1 : 1))"),
        ("reset forgotten", "return reset && reset[slot] ? 0 : written[slot];", "return written[slot];"),
        ("sink at every call", "sink && reset && reset[slot]", "sink && reset"),
        ("plane of another slot", "static_cast<long>(blockIdx.z) * ring.slots + slot",
         "static_cast<long>(blockIdx.z) + slot"),
        ("oldest off by one", "total > ring.window ? total - ring.window : 0",
         "total > ring.window ? total - ring.window + 1 : 0"),
        ("ages without wrapping", "newest_at - at + ring.window;", "newest_at - at;"),
    ],
    "sampler_step.cu": [
        ("mask upside down", "s.mask && !s.mask[slot]", "s.mask && s.mask[slot]"),
        ("one group too many", "if (4 * group >= n) return;", "if (4 * group > n) return;"),
        ("tail overruns", "n - 4 * group < 4 ? n - 4 * group : 4", "4"),
        ("wide where rows are not aligned", "n % 4 == 0", "n % 2 == 0 || n > 512"),
        ("nine rounds", "round < 10", "round < 9"),
        ("noise of slot 0 for all", "s.seeds[slot]", "s.seeds[0]"),
        ("frame forgotten", "s.frames[slot], s.purpose", "0u, s.purpose"),
        ("step and purpose swapped", "s.step, s.frames[slot], s.purpose", "s.purpose, s.frames[slot], s.step"),
        ("guidance the wrong way", "v[k] = u[k] + s.guidance * (v[k] - u[k])",
         "v[k] = u[k] + s.guidance * (u[k] - v[k])"),
        ("whole step kept", "kept[k] = x[k] + half * v[k]", "kept[k] = x[k] + s.dt * v[k]"),
        ("corrector from x", "s.kind == kCorrector ? s.kept : s.x", "s.x"),
        ("noise in the predictor", "s.sigma != 0.f && s.kind != kPredictor", "s.sigma != 0.f"),
        ("pairs share an angle", "const float2 d0 = direction(w.y), d1 = direction(w.w);",
         "const float2 d0 = direction(w.y), d1 = direction(w.y);"),
        ("sine for cosine", "quarter & 1 ? sine : cosine, s", "quarter & 1 ? cosine : sine, s"),
    ],
    "paste_plan.cu": [
        ("tones forgotten", "return s.tones ? s.tones", "return false ? s.tones"),
        ("tones by a brightness cut", "(2 * (colour[0] + colour[1] + colour[2]) + 3) / 6", "(colour[0] + colour[1] + colour[2]) / 3"),
        ("tones in the detail only", "const uint8_t* c = toned(s, s.colour + 3 * at);", "const uint8_t* c = s.colour + 3 * at;"),
        ("mask upside down", "mask && !mask[blockIdx.z]", "mask && mask[blockIdx.z]"),
        ("feather of one side", "window[row] * window[column]", "window[row] * window[row]"),
        ("mask above 1", "(m < 1.f ? m : 1.f)", "m"),
        ("weights cut", "+ 0.5f);", ");"),
        ("change cut", "* 16448 + 32768) >> 16", "* 16448) >> 16"),
        ("no border", "return i < 0 ? 0 : i < n ? i : n - 1;", "return i < 0 ? 0 : i < n ? i : n - 2 + (n < 2);"),
        ("nothing new", "after[i] = before[i] + (sum >> 4);", "after[i] = before[i];"),
        ("first barrier", "after[i] = before[i] + (sum >> 4);\n  }\n  __syncthreads();", "after[i] = before[i] + (sum >> 4);\n  }"),
        ("second barrier", "had[i] = h;\n  }\n  __syncthreads();", "had[i] = h;\n  }"),
        ("third barrier", "had_rows[i] = h;\n  }\n  __syncthreads();", "had_rows[i] = h;\n  }"),
        ("beyond the square counts", "y >= 0 && y < side && x >= 0 && x < side", "y >= 0 && y <= side && x >= 0 && x < side"),
        ("a pixel off", "(row + 1) * kSeen + column + 1", "(row + 1) * kSeen + column"),
        ("what is new by itself", "l = old * (old - fresh);", "l = fresh * (old - fresh);"),
        ("narrower window", "for (int k = 0; k <= 2 * kReach; ++k) {\n      l += lost", "for (int k = 0; k < 2 * kReach; ++k) {\n      l += lost"),
        ("no floor", "l = 0, h = kFloor;", "l = 0, h = 1;"),
        ("share cut", "(l * kOne + h / 2) / h", "(l * kOne) / h"),
        ("share above 1", "share = l < h ?", "share = true ?"),
        ("what is finer stays as what is fine", "share = (share * (2 * kOne - share)) >> 14;", ""),
        ("nothing stays below", "((share * u + 128) >> 8)", "0"),
        ("32 bits", "long long l = 0, h = 0;", "int l = 0, h = 0;"),
        ("any side", "side > 8192 ||", ""),
        ("last tile left out", "(side + kTile - 1) / kTile", "side / kTile + (side < kTile)"),
        ("past the side", "if (x >= side || y >= side) return;", "if (x > side || y > side) return;"),
    ],
    "composite.cu": [
        ("mask upside down", "mask && !mask[blockIdx.z]", "mask && mask[blockIdx.z]"),
        ("square a pixel wide", "u <= static_cast<float>(p.side)", "u <= static_cast<float>(p.side + 1)"),
        ("square begins late", "u >= 0.f &&", "u >= 1.f &&"),
        ("half a pixel off", "u * 256.f - 127.5f", "u * 256.f"),
        ("no rounding of places", "u * 256.f - 127.5f", "u * 256.f - 128.f"),
        ("before the first pixel", "out.low = i < 0 ? 0 : i;", "out.low = i;"),
        ("after the last pixel", "i + 1 < p.side ? i + 1 : p.side - 1", "i + 1"),
        ("shares swapped", "a * (256 - share) + b * share", "b * (256 - share) + a * share"),
        ("no rounding between", "b * share + 128) >> 8", "b * share) >> 8"),
        ("rows swapped", "lerp(t00[c], t10[c], row.share)", "lerp(t10[c], t00[c], row.share)"),
        ("one row twice", "planned(p, row.high, column.high, t11);", "planned(p, row.low, column.high, t11);"),
        ("all of the frame stays", "base * ((1 << 14) - share)", "base * (1 << 14)"),
        ("no rounding", "change * 256 + (1 << 13)) >> 14", "change * 256) >> 14"),
        ("below black", "x < 0 ? 0 : x < 255 ? x : 255", "x < 255 ? x : 255"),
        ("above white", "x < 0 ? 0 : x < 255 ? x : 255", "x < 0 ? 0 : x"),
        ("darkening unsigned", "out[1] = static_cast<int16_t>(w.x >> 16);", "out[1] = static_cast<int>(w.x >> 16);"),
        ("second row not pasted", "      paste16(patch, x, y + 1, b);\n", ""),
        ("a pixel's channels mixed", "plan[c], plan[3]) << shift", "plan[2 - c], plan[3]) << shift"),
        ("neighbour's byte kept", "(old & ~(255u << shift))", "old"),
        ("second row not pasted (scalar)", "      paste1(patch, x + i + k, y + 1, bottom + 3 * k);\n", ""),
        ("pasted without a scale", "patch.scale > 0.f", "patch.scale >= 0.f"),
    ],
    "face_crop.cu": [
        ("mask upside down", "k.mask && !k.mask[slot]", "k.mask && k.mask[slot]"),
        ("rows averaged short", "y < y0 + p.by", "y < y0 + (p.by + 1) / 2"),
        ("average cut", "(sum[c] + n / 2) / n", "sum[c] / n"),
        ("corner forgotten", "x - static_cast<float>(p.left)", "x"),
        ("half a pixel off", "* 256.f - 127.5f", "* 256.f"),
        ("past the last column", "within((qx >> 8) + 1, p.columns)", "((qx >> 8) + 1)"),
        ("shares swapped", "l * (256u - fx) + r * fx", "r * (256u - fx) + l * fx"),
        ("label of the pixel after", "floorf(t < -1.f ? -1.f : t < 16384.f ? t : 16384.f))", "floorf(t < -1.f ? -1.f : t < 16384.f ? t : 16384.f) + 1.f)"),
        ("background has a position", "label ? quantised", "true ? quantised"),
        ("one channel's factor", "k.factor[c], k.offset[c]", "k.factor[c], k.offset[c] + c"),
        ("position wraps", "(q < 255.f ? q : 255.f)", "(q < 256.f ? q : 512.f - q)"),
        ("history at every frame", "if (k.fresh[slot])", "if (true)"),
        ("history of slot 0", "(3 * slot + c) * square", "c * square"),
        ("pieces one apart", "rest_row[tid - kWide]", "rest_row[tid - kWide + (tid > kWide)]"),
        ("slots overlap", "const long first = slot * square", "const long first = slot"),
        ("any side", "k.side % kThreads ||", ""),
    ],
    "states.cu": [
        ("carried when it should be left", "if (!action) return;", ""),
        ("cleared and carried swapped", "action == 2);\n  else", "action == 1);\n  else"),
        ("never cleared in narrow rows", "slots, action == 2);\n}", "slots, false);\n}"),
        ("last word left out", "i < words;", "i < words - 1;"),
        ("one word too many", "i < words;", "i <= words;"),
        ("outer axis once", "o < t.outer", "o < 1"),
        ("slots and outer swapped", "static_cast<long>(o) * slots + slot", "static_cast<long>(slot) * t.outer + o"),
        ("wide where rows are not", "t.row_bytes % 16 == 0", "t.row_bytes % 4 == 0"),
        ("first tensor for all", "tensors[blockIdx.z]", "tensors[0]"),
        ("every thread the same words", "i = blockIdx.x * kThreads + threadIdx.x;", "i = threadIdx.x & 31;"),
        ("action of slot 0", "t.action[slot]", "t.action[0]"),
    ],
    "motion.cu": [
        ("articulation of another slot", "const float* articulation = m.articulations[slot];", "const float* articulation = m.articulations[0];"),
        ("the ring the wrong way", "row = now >= lag ? now - lag : now - lag + m.n_lags", "row = (now + lag) % m.n_lags"),
        ("width for aperture", "own_value ? m.width : m.aperture", "own_value ? m.aperture : m.width"),
        ("a correction too large", "within(sum, -m.most[tid], m.most[tid])", "within(sum, -1.f, 1.f)"),
        ("corrected with a shut gate", "m.most[tid]) * own.gate;", "m.most[tid]);"),
        ("offset forgotten", "float sum = articulation[2 * count + tid];", "float sum = 0.f;"),
        ("corrected mouth as the network's past", "own.mouth[tid] = mouth[tid] = shown;",
         "m.past_face[slot * m.n_face + tid] = own.mouth[tid] = mouth[tid] = shown;"),
        ("lips not shut after it", "shown = met(m, mouth, tid, closed);\n  }\n", "shown = mouth[tid];\n  }\n"),
        ("a pursed mouth widened", "less = had < wider ? had : wider", "less = 0.f"),
        ("a spread one pursed", "taken = spread < -wider ? spread : -wider", "taken = 0.f"),
        ("jaw left out", "rest > 0.f ? rest * m.parts[i] : 0.f", "0.f"),
        ("everybody's aim", "driven(m, own, mouth, m.aims[slot])", "driven(m, own, mouth, m.aims[0])"),
        ("inputs kept at a hush", "if (hush && m.articulations[slot])", "if (false)"),
        ("mouth kept at a hush", "own.mouth[tid] = m.past_face[slot * m.n_face + tid] = 0.f;", "m.past_face[slot * m.n_face + tid] = 0.f;"),
        ("gate closes at once", "gate - wanted > 0.5f ? gate - 0.5f : wanted", "wanted"),
        ("detector not asked", "voiced ? within(", "true ? within("),
        ("rest counted while speaking", "gate == 0.f ? rest + 1 : 0", "rest + 1"),
        ("forgets one late", "rest == m.forget", "rest == m.forget + 1"),
        ("forgets for ever", "rest == m.forget", "rest >= m.forget"),
        ("starved gate stays", "gate = gate > 0.5f ? gate - 0.5f : 0.f;", ""),
        ("heard of slot 0", "heard = m.features[slot * m.n_features + i]", "heard = m.features[i]"),
        ("heard is never quiet", "else if (moves || hush) heard = m.quiet[slot * m.n_features + i];", ""),
        ("hush keeps the mouth", "own.mouth[tid] = m.past_face[slot * m.n_face + tid] = 0.f;", "own.mouth[tid] = 0.f;"),
        ("hush drops what was shown", "before.released[tid] + before.mouth[tid]", "before.released[tid]"),
        ("hush keeps the gate", "hush ? 0.f : before.gate", "before.gate"),
        ("turn without end", "pause + 1 < m.turn ? pause + 1 : m.turn", "pause + 1"),
        ("listening and idle swapped", "flags & kListening ? 1 : 2", "flags & kListening ? 2 : 1"),
        ("mood among the states", "tid == kStates + cue.mood", "tid == cue.mood"),
        ("ring kept at hush", "if (forgets || hush) m.index", "if (forgets) m.index"),
        ("context forgotten", "m.actions[1][slot] = static_cast<uint8_t>(carry)", "m.actions[1][slot] = static_cast<uint8_t>(forgets ? 2 : carry)"),
        ("the resting not carried", "taken && !hears ? kCarry", "taken && hears ? kCarry"),
        ("empty slots carried", "(taken && !moves ? kCarry", "(!moves ? kCarry"),
        ("state left where it was written", "more ? (hears ? kCarry : kLeave)", "more ? kLeave"),
        ("face not cleared", "forgets || hush ? kClear : kLeave", "forgets ? kClear : kLeave"),
        ("mask upside down", "if (!(cue.flags & kMoves)) return;", "if (cue.flags & kMoves) return;"),
        ("gaze at once", "own.gaze[tid] + 0.5f * (cue.gaze[tid] - own.gaze[tid])", "cue.gaze[tid]"),
        ("mood at once", "own.mood[tid] + 0.08f *", "own.mood[tid] + 1.f *"),
        ("mood of another", "m.moods[cue.mood * m.n_life + tid]", "m.moods[tid]"),
        ("brows raised no further", "if (kind & kRaised) x *= m.raise;", ""),
        ("everything raised", "if (kind & kRaised) x", "x"),
        ("mood where it is less", "if (kind & kCoefficient && mood > x) x = mood;", "if (kind & kCoefficient) x = mood;"),
        ("brows without expressiveness", "if (kind & kBrow) x *= cue.expressiveness;", ""),
        ("head without its factor", "      x *= cue.head_motion;\n", ""),
        ("head does not follow", "if (axis == 1) x += 0.3f * gaze[0];", ""),
        ("head pitches the wrong way", "x -= 0.25f * gaze[1]", "x += 0.25f * gaze[1]"),
        ("one limit for all axes", "m.head_limit[axis] * tanhf", "m.head_limit[0] * tanhf"),
        ("translation unlimited", "m.translation * tanhf(x * cue.head_motion / m.translation)", "x * cue.head_motion"),
        ("gaze without the target", "cue.looks[tid - m.gaze_place] + gaze[tid - m.gaze_place]", "cue.looks[tid - m.gaze_place]"),
        ("lids of the network", "if (lids) x = cue.lids;", ""),
        ("breath of the network", "if (breath) x = cue.breath;", ""),
        ("no nods", "if (axis == 0) x += cue.nod;", ""),
        ("nods in all axes", "if (axis == 0) x += cue.nod;", "x += cue.nod;"),
        ("coefficients above 1", "x = within(x, 0.f, 1.f);\n    life", "x = x;\n    life"),
        ("past of the network's eyes", "looks ? cue.looks[tid - m.gaze_place] : lids", "lids"),
        ("past of what is shown", "breath ? cue.breath : x;", "breath ? cue.breath : 0.f;"),
        ("past of the network's lids", "lids ? cue.lids : breath", "breath"),
        ("past of the network's breath", "breath ? cue.breath : x;", "x;"),
        ("lips never shut", "1.f - strength *", "1.f - 0.f *"),
        ("lips pulled past each other", "within((touch - pulls) /", "within((0.f - pulls) /"),
        ("lips opened", "0.f, 1.f));\n}", "0.f, 9.f));\n}"),
        ("all values scaled", "m.aperture[i] > 0.f ? factor : 1.f", "factor"),
        ("mouth as small as its mean", "m.amplitude * (mean", "1.f * (mean"),
        ("shut by another's sound", "m.heard[slot * m.n_features + m.closed]", "m.heard[m.closed]"),
        ("face without the mean", "mean + m.share *", "m.share *"),
        ("mouth open in silence", "0.f, 1.f) * own.gate;", "0.f, 1.f);"),
        ("released stays", "0.2f * own.released[tid]", "own.released[tid]"),
        ("mouth at full range", "(0.7f + 0.3f * cue.expressiveness)", "1.f"),
        ("reach followed through a half open gate", "own.gate == 1.f", "own.gate > 0.f"),
        ("reach at once", "own.reach += m.reach_pace *", "own.reach += 1.f *"),
        ("reach of lips passed through each other", "(apart > 0.f ? apart : 0.f)", "apart"),
        ("a mouth held back", "1.f, m.most_gain)", "0.f, m.most_gain)"),
        ("any gain", "1.f, m.most_gain)", "1.f, 99.f)"),
        ("driven behind a half open gate", "m.most_gain) - 1.f) * own.gate", "m.most_gain) - 1.f)"),
        ("driven by nothing", "(gain * (0.7f", "(1.f * (0.7f"),
        ("shoulders left out", "i < m.n_life; ++i", "i < m.n_life - 9; ++i"),
        ("eyes turn with the head", "life[m.gaze_place] - life[m.head + 1]", "life[m.gaze_place]"),
        ("eyes cross", "0, 1, 0, 1, 2, 2, 3, 3, 4, 5, 5, 4", "0, 1, 0, 1, 2, 2, 3, 3, 4, 5, 4, 5"),
        ("arms without expressiveness", "+ c] * cue.expressiveness;", "+ c];"),
        ("one side for all", "m.sides[slot * m.n_coefficients + c]", "m.sides[c]"),
        ("nothing given", "if (cue.flags & kGiven)", "if (false)"),
        ("neutral of slot 0", "m.neutral[slot * m.n_channels + c]", "m.neutral[c]"),
        ("ring overruns", "at == m.window[tid] ? 0 : at", "at"),
        ("ring fuller than its window", "held < m.window[tid] ? held : m.window[tid] - 1", "held"),
        ("noise stands still", "m.frames[slot] += 1;", "m.frames[slot] += 0;"),
        ("any size of life", "m.n_life <= kMostLife &&", ""),
    ],
    "figure.cu": [
        ("mask upside down", "mask && !mask[slot]", "mask && mask[slot]"),
        ("not a number", "x != x ? 0.f :", "x != x ? x :"),
        ("no lowest", "between(moved[tid], s.lowest[tid], s.highest[tid])", "between(moved[tid], -9.f, s.highest[tid])"),
        ("rest gap forgotten", "float sum = s.gap[g];", "float sum = 0.f;"),
        ("last unit left out", "k < units; ++k) sum", "k < units - 1; ++k) sum"),
        ("gaps pull together", "sum > 1e-5f ? sum : 0.f", "sum"),
        ("turns without limit", "if (angle > bone.limit)", "if (angle > 9.f)"),
        ("eyes pitch the wrong way", "v[0] = -between", "v[0] = between"),
        ("yaw and pitch swapped", "v[1] = between(motion[bone.channel]", "v[1] = between(motion[bone.channel + 1]"),
        ("rotation turned round", "r[1] = c * x * y - s * z;", "r[1] = c * x * y + s * z;"),
        ("sine of fewer terms", "- 1.f / 6.f) * q", "- 1.f / 5.f) * q"),
        ("cosine of fewer terms", "- 1.f / 24.f) * q", "- 1.f / 20.f) * q"),
        ("axes the other way", "bone.axes[3 * i + k] * t[3 * k + l]", "bone.axes[3 * k + i] * t[3 * k + l]"),
        ("no pivot", "out[4 * i + 3] = bone.pivot[i] -", "out[4 * i + 3] = -"),
        ("translation unlimited", "between(motion[translation + i], -0.08f, 0.08f)", "motion[translation + i]"),
        ("translation of all bones", "bone.shift * between", "0.5f * between"),
        ("parent's move forgotten", "(j == 3 ? a[4 * i + 3] : 0.f)", "0.f"),
        ("parents only", "p >= 0; p = s.bones[p].parent", "p >= 0; p = -1"),
        ("last bone left out", "b < s.n_bones; b += kThreads) {", "b < s.n_bones - 1; b += kThreads) {"),
        ("shapes in order", "unit[part.shapes[k]]", "unit[k]"),
        ("bones in order", "world[12 * part.bones[k / 12] + k % 12]", "world[k]"),
        ("one word too many", "k < 12 * part.n_bones", "k <= 12 * part.n_bones"),
        ("one coefficient too many", "k < part.n_shapes", "k <= part.n_shapes"),
        ("world axes", "k % 12 < 4 ? value : -value", "value"),
        ("square follows another bone", "world + 12 * s.head", "world"),
        ("square behind the viewer", "-p[2] > 0.05 ? -p[2] : 0.05", "p[2]"),
        ("square upside down", "s.cy - s.focal", "s.cy + s.focal"),
        ("no border", "low - s.by > 0 ? low - s.by : 0", "low - 3 * s.by > 0 ? low - 3 * s.by : 0"),
        ("average of whole pixels", "out.by = s.by;", "out.by = 1;"),
        ("rows and columns swapped", "out.columns = count[0];", "out.columns = count[1];"),
        ("placement of slot 0", "placement[3 * slot + 1]", "placement[1]"),
        ("any number of bones", "max_bones > kMostBones ||", ""),
    ],
}  # fmt: skip
"""Source -> (what is wrong, text, text instead). Headers are checked through the sources that include them."""


def barriers(source: str) -> list[Mutation]:
    """Each barrier of a source deleted."""
    lines = (CUDA / source).read_text().split("\n")
    out = []
    for i, line in enumerate(lines):
        if line.strip().startswith("__syncthreads();"):
            start = i
            while "\n".join(lines).count("\n".join(lines[start : i + 1])) > 1:
                start -= 1
            before = "\n".join(lines[start : i + 1])
            rest = line.replace("__syncthreads();", "", 1)
            out.append(
                Mutation(source, f"no barrier in line {i + 1}", before, "\n".join([*lines[start:i], rest]))
            )
    return out


def mutations() -> list[Mutation]:
    listed = [Mutation(source, *change) for source, changes in CHANGES.items() for change in changes]
    return listed + [m for source in CHECKS for m in barriers(source)]


def passes(library: Path, check: Check) -> bool:
    """Whether the check ends well in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(TIMEOUT)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            check(Launcher.on_cpu(library))
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def survives(mutation: Mutation | None, source: str, folder: Path, sanitize: bool | None = None) -> bool:
    """Builds a mutant (or, without a mutation, the source as it is) and says whether its checks pass."""
    change = None if mutation is None else (mutation.before, mutation.after)
    if mutation is not None and mutation.source.endswith(".cuh"):
        # The mutant of a header lies beside a copy of the source, where the compiler looks first.
        text = (CUDA / mutation.source).read_text()
        assert mutation.before in text, f"{mutation.source} no longer holds {mutation.before!r}"
        (folder / mutation.source).write_text(text.replace(mutation.before, mutation.after, 1))
        change = ("#include", "#include")
    return passes(build(folder, source, change, sanitize), CHECKS[source])


def sources_of(mutation: Mutation) -> list[str]:
    if not mutation.source.endswith(".cuh"):
        return [mutation.source]
    return [s for s in CHECKS if f'"{mutation.source}"' in (CUDA / s).read_text()]


def under_sanitizers() -> None:
    """Starts this program again with the sanitizers' libraries loaded first."""
    names = ("asan", "ubsan", "stdc++")
    files = [
        subprocess.run(["g++", f"-print-file-name=lib{n}.so"], capture_output=True, text=True, check=True)
        for n in names
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(f.stdout.strip() for f in files),
        "ASAN_OPTIONS": "detect_leaks=0",
        "OPENBLAS_NUM_THREADS": "1",
    }
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def main() -> int:
    parser = argparse.ArgumentParser(description="Break the CUDA sources and see that the tests notice.")
    parser.add_argument("--source", choices=[*CHECKS, "yuv.cuh"], help="only this file")
    parser.add_argument("--sanitize", action="store_true", help="with the address and UB sanitizers")
    options = parser.parse_args()
    if options.sanitize and "asan" not in os.environ.get("LD_PRELOAD", ""):
        under_sanitizers()
    chosen = [m for m in mutations() if options.source in (None, m.source)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in sorted({s for m in chosen for s in sources_of(m)}):
            if not survives(None, source, folder, options.sanitize):
                print(f"{source}: fails as it is")
                return 1
        missed = []
        for number, m in enumerate(chosen):
            for source in sources_of(m):
                place = folder / f"{number}-{source}"
                place.mkdir()
                caught = not survives(m, source, place, options.sanitize)
                print(f"{'caught' if caught else 'MISSED':7}{m.source:17}{m.name}", flush=True)
                if not caught:
                    missed.append(m)
    print(f"{len(chosen)} mutations, {len(missed)} missed")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
