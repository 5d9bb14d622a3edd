// What stands between the motion networks, batched over session slots: gate, labels and forgetting after the speech network;
// controls, limits and the spread to all channels after the face and life networks.
//
// Computes what engine/motion/diffusion.py computes for a slot, in float32:
//   hear  the gate opens where the network hears a voice and the detector agrees, closes by 0.5 a frame; a mouth at rest for
//         `forget` frames makes the slot forget what was said; state label (speaking, listening, idle) and mood one-hot.
//   show  face = clip(amplitude (mean + share (face - mean))) gate; where film of this person taught an articulation, its aperture and width corrected by a
//         linear function of what was heard and said in the last frames (engine/motion/articulation.py); its lips shut as far as a p, b or m was heard, driven
//         further where lips lately moved less than real ones do; mood, expressiveness, head motion and gaze target applied; eyes turned against the head; life
//         and face spread to channels by two matrices; a person's two sides; neutral face added.
// The host gives a cue a slot and tick, and looks at nothing in between. Ring indices and the noise's frame count move on here.
// Bytes a slot: 48 of cue, about 460 of state, 3.2 kB of networks' outputs, 0.8 kB written (matrices, 24 kB, stay in cache), 6 kB more with an articulation;
// operations 2 x 29 x 182 and 2 x 15 x 52: bound by launch latency. 4-byte accesses, coalesced: rows have no multiple of four.
// Launch: hear, a block of 64 a slot; show, a block of 192 a slot, a thread a channel. No host synchronisation; may be captured.
#include "cuda_on_cpu.h"

// What the host says of a slot for one tick.
struct VvMotionCue {
  int flags;  // of Flag
  int mood;
  float expressiveness, head_motion;
  float gaze[2];   // target, within limits
  float looks[2];  // where the eyes look by themselves
  float lids;
  float nod;     // the head's pitch, in radians
  float breath;  // how far it raises the shoulders, in radians
  float unused;
};

// What a slot remembers.
struct VvMotionState {
  float gate;
  int rest, pause;
  float reach;         // how far the lips were apart in speech lately, above reach_start
  float gaze[4];       // as the eyes follow the target; two of them
  float mood[32];      // the mood's face as it comes and goes
  float released[16];  // what is left of a mouth that was stopped
  float mouth[16];     // as it was last, before controls
};

// Arrays on the device. (slots, n) unless said otherwise.
struct VvMotion {
  const VvMotionCue* cues;
  VvMotionState* states;
  const float *features, *quiet;  // of what is heard, of silence
  float *heard, *labels, *past_face, *past_life;
  const float *face, *life, *arms, *given;  // given: motion from elsewhere, for slots with kGiven
  const float *sides, *neutral;             // (slots, coefficients), (slots, channels)
  float* motion;
  float* gates;          // (slots,) for the host
  const float* const* articulations;  // (slots,) weights (lags, inputs, 2) and offset (2,) of this person's; null as everybody
  const float* aims;     // (slots,) lips' mean distance in speech that is aimed at
  float* past_inputs;    // (slots, lags, inputs) what an articulation reads, a ring by the frame count
  long long* index[2];   // (slots,) rings of the face and of the life network
  long long* filled[2];
  uint32_t* frames;      // (slots,)
  uint8_t* actions[4];   // (slots,) of states.cu: speech, its context, face before it runs, face and life after
  // The same for all slots.
  const float *moods, *life_matrix, *face_matrix;  // (moods, life), (life, channels), (face, coefficients)
  const float* aperture;                           // (face,) by how much each value parts the lips
  const float *width, *parts, *widens;             // (face,) by how much each widens them; what parts and what widens them by 1
  const int* kinds;       // (life,) of Kind
  const int* eye_places;  // (12,) channels: yaw, pitch, yaw, pitch; down left, right; up; out; in
  float head_limit[3], eye_limit[2];
  int window[2];
  int n_features, n_face, n_life, n_labels, n_channels, n_coefficients, voice, closed;
  int turn, forget, head, gaze_place, lids_place, breath_place;
  float share, translation, amplitude, touch;  // touch: the aperture of lips that meet
  float raise;                                 // how much further brows go up than the network has them
  float reach_start, reach_pace;               // lips' mean distance in speech at first, and how fast it is followed
  float most_gain;                             // how much further than the networks have it a mouth may open to reach that
  float voice_from, voice_over;                // the gate: opens from a probability on, fully so much above it
  float closed_from, closed_over;              // lips: the same for the probability of a p, b or m
  int n_lags, n_inputs, pucker;                // of articulations: frames, values a frame (the last two the mouth's own), the value that purses
  float own_scale, most[2];                    // how much the mouth's own count; the largest correction of aperture and width
};

namespace {

enum Flag { kMoves = 1, kHears = 2, kVoiced = 4, kHush = 8, kListening = 16, kGiven = 32, kTaken = 64 };
enum Kind { kCoefficient = 1, kBrow = 2, kHead = 4, kTranslation = 8, kRaised = 16 };
enum Action { kLeave, kCarry, kClear };
constexpr int kHearThreads = 64, kShowThreads = 192, kStates = 3, kMostLife = 32, kMostFace = 16;

__device__ __forceinline__ float within(float x, float low, float high) { return x < low ? low : x > high ? high : x; }

// The gate's next value for what was heard.
__device__ __forceinline__ float moved_gate(const VvMotion& m, float gate, float voice, bool voiced) {
  const float wanted = voiced ? within((voice - m.voice_from) / m.voice_over, 0.f, 1.f) : 0.f;
  return wanted < gate ? (gate - wanted > 0.5f ? gate - 0.5f : wanted) : wanted;
}

// By what the values that open a mouth (n,) are scaled so that its lips meet as far as `strength` says (engine/motion/lips.py).
__device__ float shut(const float* mouth, const float* aperture, int n, float touch, float strength) {
  float opens = 0.f, pulls = 0.f;
  for (int i = 0; i < n; ++i) (aperture[i] > 0.f ? opens : pulls) += mouth[i] * aperture[i];
  return 1.f - strength * (1.f - within((touch - pulls) / (opens > 1e-4f ? opens : 1e-4f), 0.f, 1.f));
}

// A mouth's value i with its lips shut as far as `closed` says.
__device__ __forceinline__ float met(const VvMotion& m, const float* mouth, int i, float closed) {
  const float factor = shut(mouth, m.aperture, m.n_face, m.touch, closed);
  return mouth[i] * (m.aperture[i] > 0.f ? factor : 1.f);
}

// A mouth (n_face,) with its aperture and width changed, within what a mouth can do. What parts the lips is scaled, so that they keep their shape; beyond half
// as much again the jaw opens. A pursed mouth stops to be one before it is widened, a spread one to be spread before it is pursed.
__device__ void correct(const VvMotion& m, float* mouth, float more, float wider) {
  const int n = m.n_face;
  float opens = 0.f;
  for (int i = 0; i < n; ++i) opens += m.aperture[i] > 0.f ? mouth[i] * m.aperture[i] : 0.f;
  const float factor = opens > 0.01f ? 1.f + within(more / opens, -1.f, 0.5f) : 1.f;
  const float rest = more - (factor - 1.f) * opens;
  for (int i = 0; i < n; ++i) mouth[i] = mouth[i] * (m.aperture[i] > 0.f ? factor : 1.f) + (rest > 0.f ? rest * m.parts[i] : 0.f);
  float& pursed = mouth[m.pucker];
  const float by = m.width[m.pucker];
  if (wider > 0.f) {
    const float had = -pursed * by, less = had < wider ? had : wider;
    pursed += less / by;
    for (int i = 0; i < n; ++i) mouth[i] += m.widens[i] * (wider - less);
  } else {
    float spread = 0.f;
    for (int i = 0; i < n; ++i) spread += m.widens[i] > 0.f ? mouth[i] * m.width[i] : 0.f;
    const float taken = spread < -wider ? spread : -wider;
    for (int i = 0; i < n; ++i) mouth[i] *= m.widens[i] > 0.f ? 1.f - taken / (spread > 1e-4f ? spread : 1e-4f) : 1.f;
    pursed += (wider + taken) / by;
  }
  for (int i = 0; i < n; ++i) mouth[i] = within(mouth[i], 0.f, 1.f);
}

// How much further the mouth (n_face,) moves than the networks have it, to reach `aim`; follows its reach where a voice is sure.
__device__ float driven(const VvMotion& m, VvMotionState& own, const float* mouth, float aim) {
  if (own.gate == 1.f) {
    float apart = 0.f;
    for (int i = 0; i < m.n_face; ++i) apart += mouth[i] * m.aperture[i];
    own.reach += m.reach_pace * ((apart > 0.f ? apart : 0.f) - m.reach_start - own.reach);
  }
  const float reached = m.reach_start + own.reach;
  return 1.f + (within(aim / (reached > 1e-4f ? reached : 1e-4f), 1.f, m.most_gain) - 1.f) * own.gate;
}

// more: frames of sound are still to come in this tick, so that states are kept where they were.
__global__ void __launch_bounds__(kHearThreads) motion_hear(VvMotion m, int more) {
  __shared__ VvMotionState before;
  const int slot = blockIdx.x, tid = threadIdx.x;
  const VvMotionCue& cue = m.cues[slot];
  const int flags = cue.flags;
  const bool moves = flags & kMoves, hears = flags & kHears;
  VvMotionState& own = m.states[slot];
  if (tid == 0) before = own;
  __syncthreads();
  const bool hush = flags & kHush;
  float gate = hush ? 0.f : before.gate;
  int rest = hush ? 0 : before.rest;
  bool forgets = false;
  if (hears) {
    gate = moved_gate(m, gate, m.features[slot * m.n_features + m.voice], flags & kVoiced);
    rest = gate == 0.f ? rest + 1 : 0;
    forgets = rest == m.forget;
  } else if (moves) {
    gate = gate > 0.5f ? gate - 0.5f : 0.f;
  }
  for (int i = tid; i < m.n_features; i += kHearThreads) {
    float& heard = m.heard[slot * m.n_features + i];
    if (hears) heard = m.features[slot * m.n_features + i];
    else if (moves || hush) heard = m.quiet[slot * m.n_features + i];
  }
  if (hush && tid < m.n_face) {
    own.released[tid] = before.released[tid] + before.mouth[tid];
    own.mouth[tid] = m.past_face[slot * m.n_face + tid] = 0.f;
  }
  if (hush && m.articulations[slot])
    for (int i = tid; i < m.n_lags * m.n_inputs; i += kHearThreads) m.past_inputs[static_cast<long>(slot) * m.n_lags * m.n_inputs + i] = 0.f;
  int pause = before.pause;
  if (moves) {
    pause = gate > 0.f ? 0 : pause + 1 < m.turn ? pause + 1 : m.turn;
    const int state = pause < m.turn ? 0 : flags & kListening ? 1 : 2;
    if (tid < m.n_labels) m.labels[slot * m.n_labels + tid] = tid == state || tid == kStates + cue.mood ? 1.f : 0.f;
  }
  if (tid) return;
  own.gate = gate;
  own.rest = rest;
  own.pause = pause;
  m.gates[slot] = gate;
  if (forgets || hush) m.index[0][slot] = m.filled[0][slot] = 0;
  const bool taken = flags & kTaken;
  // While more is to come the state that was written goes back to where it is read, else that of the resting is carried along.
  const int carry = more ? (hears ? kCarry : kLeave) : (taken && !hears ? kCarry : kLeave);
  m.actions[0][slot] = static_cast<uint8_t>(forgets ? static_cast<int>(kClear) : carry);
  m.actions[1][slot] = static_cast<uint8_t>(carry);
  m.actions[2][slot] = static_cast<uint8_t>(forgets || hush ? kClear : kLeave);
  m.actions[3][slot] = static_cast<uint8_t>(taken && !moves ? kCarry : kLeave);
}

__global__ void __launch_bounds__(kShowThreads) motion_show(VvMotion m) {
  __shared__ float life[kMostLife], mouth[kMostFace], gaze[2], added[2], gain, told[2][kShowThreads];
  const int slot = blockIdx.x, tid = threadIdx.x;
  const VvMotionCue& cue = m.cues[slot];
  if (!(cue.flags & kMoves)) return;  // the same for the whole block
  VvMotionState& own = m.states[slot];
  if (tid < 2) own.gaze[tid] = gaze[tid] = own.gaze[tid] + 0.5f * (cue.gaze[tid] - own.gaze[tid]);
  __syncthreads();
  if (tid < m.n_life) {
    const int kind = m.kinds[tid];
    float x = m.life[slot * m.n_life + tid];
    // The network reads where eyes and shoulders went, which move by themselves.
    const bool looks = tid == m.gaze_place || tid == m.gaze_place + 1, lids = tid == m.lids_place, breath = tid == m.breath_place;
    m.past_life[slot * m.n_life + tid] = looks ? cue.looks[tid - m.gaze_place] : lids ? cue.lids : breath ? cue.breath : x;
    const float mood = own.mood[tid] + 0.08f * (m.moods[cue.mood * m.n_life + tid] - own.mood[tid]);
    own.mood[tid] = mood;
    if (kind & kRaised) x *= m.raise;
    if (kind & kCoefficient && mood > x) x = mood;
    if (kind & kBrow) x *= cue.expressiveness;
    if (kind & kHead) {
      const int axis = tid - m.head;
      if (axis == 0) x += cue.nod;
      x *= cue.head_motion;
      // Eyes that look aside take the head along.
      if (axis == 1) x += 0.3f * gaze[0];
      if (axis == 0) x -= 0.25f * gaze[1];
      x = m.head_limit[axis] * tanhf(x / m.head_limit[axis]);
    }
    if (kind & kTranslation) x = m.translation * tanhf(x * cue.head_motion / m.translation);
    if (looks) x = cue.looks[tid - m.gaze_place] + gaze[tid - m.gaze_place];
    if (lids) x = cue.lids;
    if (breath) x = cue.breath;
    if (kind & kCoefficient) x = within(x, 0.f, 1.f);
    life[tid] = x;
  } else if (tid >= kMostLife && tid < kMostLife + m.n_face) {
    const int i = tid - kMostLife;
    const float mean = m.heard[slot * m.n_features + i];
    mouth[i] = within(m.amplitude * (mean + m.share * (m.face[slot * m.n_face + i] - mean)), 0.f, 1.f) * own.gate;
  }
  __syncthreads();
  const float closed = within((m.heard[slot * m.n_features + m.closed] - m.closed_from) / m.closed_over, 0.f, 1.f);
  float shown = 0.f;
  if (tid < m.n_face) shown = met(m, mouth, tid, closed);
  // The network's past is its own mouth: it would answer to a correction, which then corrected its answer.
  if (tid < m.n_face) m.past_face[slot * m.n_face + tid] = shown;
  const float* articulation = m.articulations[slot];
  if (articulation) {  // the same for the whole block
    const int count = m.n_lags * m.n_inputs, now = static_cast<int>(m.frames[slot] % static_cast<uint32_t>(m.n_lags));
    float* past = m.past_inputs + static_cast<long>(slot) * count;
    for (int i = tid; i < m.n_inputs; i += kShowThreads) {
      const int own_value = i - (m.n_inputs - 2);
      float x = 0.f;
      if (own_value < 0) x = m.heard[slot * m.n_features + i];
      else
        for (int k = 0; k < m.n_face; ++k) x += m.own_scale * mouth[k] * (own_value ? m.width : m.aperture)[k];
      past[now * m.n_inputs + i] = x;
    }
    float sums[2] = {0.f, 0.f};  // a thread reads of this frame what it wrote itself
    for (int i = tid; i < count; i += kShowThreads) {
      const int lag = i / m.n_inputs, row = now >= lag ? now - lag : now - lag + m.n_lags;
      const float x = past[row * m.n_inputs + i % m.n_inputs];
      sums[0] += x * articulation[2 * i];
      sums[1] += x * articulation[2 * i + 1];
    }
    told[0][tid] = sums[0];
    told[1][tid] = sums[1];
    __syncthreads();
    if (tid < 2) {
      float sum = articulation[2 * count + tid];
      for (int k = 0; k < kShowThreads; ++k) sum += told[tid][k];
      added[tid] = within(sum, -m.most[tid], m.most[tid]) * own.gate;
    }
    __syncthreads();
    if (tid == 0) correct(m, mouth, added[0], added[1]);
    __syncthreads();
    if (tid < m.n_face) shown = met(m, mouth, tid, closed);
  }
  __syncthreads();  // all have read the mouth as it was
  if (tid < m.n_face) own.mouth[tid] = mouth[tid] = shown;
  __syncthreads();
  if (tid == 0) gain = driven(m, own, mouth, m.aims[slot]);
  __syncthreads();
  if (tid < m.n_face) {
    const float released = 0.2f * own.released[tid];
    own.released[tid] = released;
    mouth[tid] = (shown + released) * (gain * (0.7f + 0.3f * cue.expressiveness));
  }
  __syncthreads();
  const int c = tid;
  if (c < m.n_channels) {
    float x = 0.f;
    for (int i = 0; i < m.n_life; ++i) x += life[i] * m.life_matrix[i * m.n_channels + c];
    const float yaw = within(life[m.gaze_place] - life[m.head + 1], -m.eye_limit[0], m.eye_limit[0]);
    const float pitch = within(life[m.gaze_place + 1] + life[m.head], -m.eye_limit[1], m.eye_limit[1]);
    constexpr float kDegree = 3.14159265358979f / 180.f;
    const float values[6] = {yaw, pitch, (pitch < 0.f ? -pitch : 0.f) / (30.f * kDegree), (pitch > 0.f ? pitch : 0.f) / (25.f * kDegree),
                             (yaw > 0.f ? yaw : 0.f) / (35.f * kDegree), (yaw < 0.f ? -yaw : 0.f) / (35.f * kDegree)};
    // Which value each of eye_places takes: the left eye turns outwards where the right one turns inwards.
    constexpr int kTakes[12] = {0, 1, 0, 1, 2, 2, 3, 3, 4, 5, 5, 4};
#pragma unroll
    for (int k = 0; k < 12; ++k)
      if (c == m.eye_places[k]) x = values[kTakes[k]];
    x += m.arms[slot * m.n_channels + c] * cue.expressiveness;
    if (c < m.n_coefficients) {
      float added = 0.f;
      for (int i = 0; i < m.n_face; ++i) added += mouth[i] * m.face_matrix[i * m.n_coefficients + c];
      x = within((x + added) * m.sides[slot * m.n_coefficients + c], -0.1f, 1.f);
    }
    if (cue.flags & kGiven) x = m.given[slot * m.n_channels + c];
    m.motion[slot * m.n_channels + c] = x + m.neutral[slot * m.n_channels + c];
  }
  if (tid < 2) {
    const long long at = m.index[tid][slot] + 1, held = m.filled[tid][slot] + 1;
    m.index[tid][slot] = at == m.window[tid] ? 0 : at;
    m.filled[tid][slot] = held < m.window[tid] ? held : m.window[tid] - 1;
  }
  if (tid == 0) m.frames[slot] += 1;
}

bool fits(const VvMotion& m, int slots) {
  return slots >= 1 && m.n_life <= kMostLife && m.n_face <= kMostFace && m.n_face <= kShowThreads - kMostLife &&
         m.n_channels <= kShowThreads && m.n_lags >= 1 && m.n_inputs >= 2 && m.n_inputs - 2 <= m.n_features && m.n_coefficients <= m.n_channels && m.n_labels <= kHearThreads;
}

}  // namespace

// After the speech network. `motion` is on the host. Returns a cudaError_t; 1 (invalid value) for sizes that it cannot hold.
VV_CUDA_API int vvc_motion_hear(const VvMotion* motion, int slots, int more, cudaStream_t stream) {
  if (!fits(*motion, slots)) return 1;
  const VvMotion m = *motion;
  VV_LAUNCH(motion_hear, dim3(slots), dim3(kHearThreads), stream, m, more);
  return cudaGetLastError();
}

// After the face and life networks.
VV_CUDA_API int vvc_motion_show(const VvMotion* motion, int slots, cudaStream_t stream) {
  if (!fits(*motion, slots)) return 1;
  const VvMotion m = *motion;
  VV_LAUNCH(motion_show, dim3(slots), dim3(kShowThreads), stream, m);
  return cudaGetLastError();
}
