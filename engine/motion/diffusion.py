"""The motion model as the session sees it: sound in, all motion channels out, a few flow steps a frame.

Three small networks run one after the other, a frame at a time, for a batch of sessions: the speech encoder hears the frame;
the face network gives the mouth; the life network gives everything else. Each keeps its state between frames
(`engine.streaming`); what was shown goes back in as the past. Noise is counter-based: a session's motion is a function of
its seed and of what it heard, not of who else is in the batch. How it was trained: `engine/training/motion*.py` and the card
beside the weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from visavis.engine.audio.mel import MELS_PER_FRAME, N_MELS, LogMel
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.audio.vad import VoiceActivity
from visavis.engine.errors import MotionError
from visavis.engine.motion.articulation import INPUTS, LAGS, Corrects, corrected, inputs_of
from visavis.engine.motion.channels import ARKIT, FACE_SLICE, N_CHANNELS
from visavis.engine.motion.layout import (
    FACE,
    GAZE,
    HEAD,
    LABELS,
    LIFE,
    LIFE_INDEX,
    MOODS,
    PHONES,
    STATES,
    spread_life,
)
from visavis.engine.motion.life import HEAD_LIMIT, Reflex, Reflexes
from visavis.engine.motion.lips import APERTURE, heard_closed, meet
from visavis.engine.motion.speech import FORGET, MAX_LOOKAHEAD
from visavis.engine.motion.speech import spread as spread_face
from visavis.engine.runtime import Network, load
from visavis.engine.streaming import Mask, RingIndex, StreamingNetwork
from visavis.engine.timing import SAMPLES_PER_FRAME
from visavis.kernels import noise

WEIGHTS = Path(__file__).parent.parent / "weights"
CLOSED = len(FACE) + 1
"""Which feature is the probability that a p, b or m is said (`training.voices.CLASSES`)."""
VOICE = len(FACE) + PHONES
"""Which feature is the probability that somebody speaks."""
VOICE_FROM, VOICE_OVER = 0.2, 0.2
"""The gate opens from this probability of a voice on, and fully so much above it."""
FACE_TEMPERATURE = 0.4
"""Lips follow speech closely: little of the noise that the model was trained with."""
LIFE_TEMPERATURE = 0.9
"""What few steps make of it is a little larger than life."""
FACE_SHARE = 0.5
"""How far the mouth goes from the encoder's mean to the flow's sample. The mean knows best how far lips open (it is learned from many
more disguises of the film), the sample how they meet and move (see the card)."""
AMPLITUDE = 1.15
"""Means over what lips might do are smaller than what they do."""
REACH, REACH_START, REACH_PACE = 0.075, 0.055, 0.02
"""How far lips are apart in speech in the mean of a few seconds, in distances between the outer eye corners: what is aimed at (real speakers have 0.09
to 0.10 on film, and avatars open a fifth further than this read-out of the mean face says), what it is taken for at first, and how fast the mean
follows, a frame."""
MOST_GAIN = 1.7
"""How much further than the networks have it a mouth may open to reach that."""
TURN = 15
"""Frames of pause that still belong to a turn of speech, as in training."""
TRANSLATION_LIMIT = 0.006
"""How far the head moves along an axis, in metres."""
GAZE_LIMIT = np.array([0.6, 0.4], np.float32)
"""How far from the viewer a gaze target may be, yaw and pitch in radians."""
MOOD_FACES: dict[str, dict[str, float]] = {
    "neutral": {},
    "warm": {"mouthSmile": 0.18, "cheekSquint": 0.1, "eyeSquint": 0.05},
    "serious": {"browDown": 0.12, "eyeSquint": 0.05},
}
"""The least that a mood shows at once; the network adds its own to it, but takes many seconds."""
LIDS, BREATH = LIFE_INDEX["eyeBlink"], LIFE_INDEX["shouldersUp"]
BROWS = [LIFE_INDEX[name] for name in ("browInnerUp", "browOuterUp", "browDown", "mouthSmile", "cheekSquint")]
RAISED = [LIFE_INDEX[name] for name in ("browInnerUp", "browOuterUp")]
RAISE = 3.0
"""The life network raises brows when the body prior does, but a quarter as far (standard deviation 0.027 against 0.10 while speaking): rare pulses at
stresses it cannot foresee, it shrinks towards their mean."""
COEFFICIENTS = [k for k, name in enumerate(LIFE) if name not in ("gazeYaw", "gazePitch") and "." not in name and
                 not name.startswith(("shoulders", "arms"))]  # fmt: skip


@dataclass
class Controls:
    """What a caller may change while a session runs; takes effect with the next frame."""

    expressiveness: float = 1.0
    """0 to 2: brows, smile and how far the mouth moves."""
    head_motion: float = 1.0
    """0 to 2: how far head and shoulders move."""
    gaze: tuple[float, float] = (0.0, 0.0)
    """What the eyes rest on: (yaw, pitch) in radians from the viewer, to the person's left and upwards."""
    mood: str = "neutral"
    """neutral, warm or serious."""
    listening: bool = False
    """While silent: somebody speaks to this person."""

    def __post_init__(self) -> None:
        for name in ("expressiveness", "head_motion"):
            value = getattr(self, name)
            if not 0 <= value <= 2:
                raise MotionError(f"{name} is {value}, expected 0 to 2")
        if self.mood not in MOODS:
            raise MotionError(f"mood is {self.mood!r}, expected one of {', '.join(MOODS)}")
        if len(self.gaze) != 2 or not np.isfinite(self.gaze).all():
            raise MotionError(f"gaze is {self.gaze}, expected yaw and pitch in radians")


@dataclass
class Gate:
    """Keeps the mouth shut when nobody speaks: the voice activity detector is quick but takes noise for speech, the
    network knows better, so both must agree. Opens at once, closes within two frames."""

    lookahead: int
    value: float = 0.0
    """0 = mouth at rest, 1 = as the network says."""
    rest: int = 0
    """Frames since the mouth came to rest."""
    heard: deque[bool] = field(init=False)
    """Voice activity of the frames not yet answered for."""

    def __post_init__(self) -> None:
        self.heard = deque([False] * (self.lookahead + 1), maxlen=self.lookahead + 1)

    def step(self, voice: float, active: bool) -> None:
        self.heard.append(active)
        wanted = min(1.0, max(0.0, (voice - VOICE_FROM) / VOICE_OVER)) if any(self.heard) else 0.0
        step = 0.5 if wanted < self.value else 1.0
        self.value += max(-step, min(step, wanted - self.value))
        self.rest = self.rest + 1 if self.value == 0 else 0


@dataclass
class _Slot:
    """One session's part that is no array."""

    seed: int
    gate: Gate
    mel: LogMel = field(default_factory=LogMel)
    vad: VoiceActivity = field(default_factory=lambda: VoiceActivity(hangover=1))
    controls: Controls = field(default_factory=Controls)
    frame: int = 0
    """Counts the noise; goes round after five years."""
    pause: int = TURN
    gaze: FloatArray = field(default_factory=lambda: np.zeros(2, np.float32))
    """The gaze target as the eyes follow it."""
    reflexes: Reflexes = field(init=False)
    mood: FloatArray = field(default_factory=lambda: np.zeros(len(LIFE), np.float32))
    """The mood's face as it comes and goes."""
    mouth: FloatArray = field(default_factory=lambda: np.zeros(len(FACE), np.float32))
    """As it was last, before controls."""
    released: FloatArray = field(default_factory=lambda: np.zeros(len(FACE), np.float32))
    """What is left of a mouth that was stopped."""
    sides: FloatArray = field(default_factory=lambda: np.ones(len(ARKIT), np.float32))
    reach: float = 0.0
    """How far the lips were apart in speech lately, above REACH_START."""
    articulation: Corrects | None = None
    """Of this person, where film of it taught one."""
    past: FloatArray = field(default_factory=lambda: np.zeros((LAGS, INPUTS), np.float32))
    """What the articulation reads: the last frames, the newest first."""

    def __post_init__(self) -> None:
        self.reflexes = Reflexes(self.seed)

    def articulate(self, heard: FloatArray, face: FloatArray) -> FloatArray:
        """The mouth (len(FACE),) as this person has it."""
        if self.articulation is None:
            return face
        self.past = np.concatenate([inputs_of(heard, face)[None], self.past[:-1]])
        return corrected(face, self.articulation.added(self.past) * np.float32(self.gate.value))

    def reflex(self) -> Reflex:
        """Of the next frame."""
        return self.reflexes.step(self.gate.value > 0, self.controls.listening)


def aimed_reach(articulation: Corrects | None) -> float:
    """How far apart in speech the lips are to be, in the mean: as film told of this person, else as real speakers' are."""
    return REACH if articulation is None or articulation.reach is None else articulation.reach


def starting_reach(articulation: Corrects | None) -> float:
    """How far the lips are taken to have been apart in speech, above REACH_START, before anything was said. What film told is how far this mouth opens: it is
    not driven further until it is seen to open less."""
    return 0.0 if articulation is None or articulation.reach is None else articulation.reach - REACH_START


def sides_of(seed: int) -> FloatArray:
    """Nobody is the same on both sides: factors of ARKit coefficients (52,), fixed for a person."""
    rng = np.random.default_rng([seed % 2**32, 1])
    mouth, brow = rng.uniform(-0.06, 0.06), rng.uniform(-0.15, 0.15)
    sides = np.ones(len(ARKIT), np.float32)
    for k, name in enumerate(ARKIT):
        if name.endswith(("Left", "Right")) and name not in ("mouthLeft", "mouthRight"):
            share = mouth if name.startswith("mouth") else brow if name.startswith("brow") else 0.0
            sides[k] += share if name.endswith("Left") else -share
    return sides


class MotionModel:
    """A batch of sessions ("slots") that advance together; state of constant size."""

    def __init__(
        self, seeds: Sequence[int], lookahead: int = MAX_LOOKAHEAD, weights: Path = WEIGHTS, threads: int = 1
    ) -> None:
        """One slot a seed. `lookahead` is 0 to 2 frames; `weights` a folder with motion_*.onnx."""
        if not 0 <= lookahead <= MAX_LOOKAHEAD:
            raise ValueError(f"lookahead is {lookahead} frames, expected 0 to {MAX_LOOKAHEAD}")
        self.lookahead, self.slots = lookahead, len(seeds)

        def network(name: str) -> Network:
            return load(weights / f"motion_{name}.onnx", threads, batch=self.slots)

        self._speech = StreamingNetwork(network("speech"), self.slots)
        self._nets = {
            "face": StreamingNetwork(network("face"), self.slots),
            "life": StreamingNetwork(network("life"), self.slots),
        }
        self._rings = {
            part: RingIndex(net.state.initial["keys"].shape[2], self.slots)
            for part, net in self._nets.items()
        }
        self._past = {
            "face": np.zeros((self.slots, len(FACE)), np.float32),
            "life": np.zeros((self.slots, len(LIFE)), np.float32),
        }
        self._delay = np.tile(np.eye(MAX_LOOKAHEAD + 1, dtype=np.float32)[lookahead], (self.slots, 1))
        self._quiet = self._hear_silence()
        self._heard = self._quiet.copy()
        self._slots = [self._new_slot(seed) for seed in seeds]

    def _new_slot(self, seed: int) -> _Slot:
        return _Slot(seed % 2**63, Gate(self.lookahead), sides=sides_of(seed))

    def _hear_silence(self) -> FloatArray:
        """What the encoder says of silence, (slots, FEATURES); its state is as new afterwards."""
        silence = np.zeros((self.slots, MELS_PER_FRAME, N_MELS), np.float32)
        for _ in range(FORGET):
            out = self._speech.step({"mel": silence, "delay": self._delay})
        self._speech.reset()
        return out["features"]

    def controls(self, slot: int = 0) -> Controls:
        """What the slot is set to."""
        return self._slots[slot].controls

    def set_controls(self, controls: Controls, slot: int = 0) -> None:
        """Takes effect with the slot's next frame."""
        self._slots[slot].controls = controls

    def set_articulation(self, articulation: Corrects | None, slot: int = 0) -> None:
        """How this slot's person articulates, until the slot's `reset`; None as the networks say."""
        own = self._slots[slot]
        own.articulation, own.reach = articulation, starting_reach(articulation)

    def gate(self, slot: int = 0) -> float:
        """How far the slot's mouth is let go with what is heard, 0 to 1."""
        return self._slots[slot].gate.value

    def reset(self, slot: int, seed: int | None = None) -> None:
        """A new session in this slot; the others do not notice."""
        self._slots[slot] = self._new_slot(self._slots[slot].seed if seed is None else seed)
        self._speech.reset(slot)
        for part, net in self._nets.items():
            net.reset(slot)
            self._rings[part].reset(slot)
            self._past[part][slot] = 0
        self._heard[slot] = self._quiet[slot]

    def hush(self, slot: int) -> None:
        """Barge-in: forget what was heard; the mouth is at rest from the next frame on, or nearly so."""
        own = self._slots[slot]
        own.released, own.mouth = own.released + own.mouth, np.zeros_like(own.mouth)
        self._speech.reset(slot)
        self._forget(slot)
        own.gate = Gate(self.lookahead)
        own.mel.reset()
        own.vad.reset()
        own.past[:] = 0
        self._past["face"][slot] = 0
        self._heard[slot] = self._quiet[slot]

    def _forget(self, slot: int) -> None:
        """What was said; not the sound itself, lest what goes on humming seem to begin."""
        arrays = self._speech.state.arrays
        for name in arrays.keys() - {"context"}:
            arrays[name][slot] = 0
        self._nets["face"].reset(slot)
        self._rings["face"].reset(slot)

    def step(self, heard: Sequence[FloatArray | None]) -> FloatArray:
        """Advance all slots whose entry is not None: each hears frames (n, 640) of mono 16 kHz sound, n >= 0, and
        gives the motion of the frame `lookahead` frames before the last. Returns (slots, N_CHANNELS), zeros for slots
        that do not move."""
        if len(heard) != self.slots:
            raise ValueError(f"sound for {len(heard)} slots, but there are {self.slots}")
        mask = np.array([blocks is not None for blocks in heard])
        if not mask.any():
            return np.zeros((self.slots, N_CHANNELS), np.float32)
        # Reflexes know of the frame before whether somebody speaks: so they can be moved ahead of a device's tick.
        reflexes = {k: self._slots[k].reflex() for k in np.flatnonzero(mask)}
        self._listen(heard)
        labels = np.stack([self._labels(slot) for slot in self._slots])
        face = self._generate("face", labels, mask, FACE_TEMPERATURE)["motion"]
        gates = np.array([slot.gate.value for slot in self._slots], np.float32)[:, None]
        mean = self._heard[:, : len(FACE)]
        face = np.clip(np.float32(AMPLITUDE) * (mean + FACE_SHARE * (face - mean)), 0, 1) * gates
        shut = heard_closed(self._heard[:, CLOSED])
        # The network's past is its own mouth: it would answer to a correction, which then corrected its answer.
        past = meet(face, shut)
        for k in reflexes:
            face[k] = self._slots[k].articulate(self._heard[k], face[k])
        face = meet(face, shut)
        lives = self._generate("life", labels, mask, LIFE_TEMPERATURE)
        life = lives["motion"].copy()
        for k, reflex in reflexes.items():
            # Saccades and blinks are single frames in a hundred, and a breath's phase is anybody's guess: a network that predicts what is likely
            # all but leaves them out (see the card), so processes of their own move eyes and shoulders, and the network reads where they went.
            life[k, GAZE], life[k, LIDS], life[k, BREATH] = reflex.looks, reflex.lids, reflex.breath
        self._past["face"][mask], self._past["life"][mask] = past[mask], life[mask]
        motion = np.zeros((self.slots, N_CHANNELS), np.float32)
        for k in np.flatnonzero(mask):
            motion[k] = self._compose(self._slots[k], face[k], life[k], lives["arms"][k], reflexes[k])
        return motion

    def _listen(self, heard: Sequence[FloatArray | None]) -> None:
        """The speech encoder and the gate, a frame of sound at a time."""
        counts = [0 if blocks is None else len(blocks) for blocks in heard]
        for turn in range(max(counts)):
            mel = np.zeros((self.slots, MELS_PER_FRAME, N_MELS), np.float32)
            mask: Mask = np.array([turn < n for n in counts])
            active = [False] * self.slots
            for k, blocks in enumerate(heard):
                if blocks is None or turn >= len(blocks):
                    continue
                block = blocks[turn]
                if len(block) != SAMPLES_PER_FRAME:
                    raise ValueError(f"a frame of sound has {SAMPLES_PER_FRAME} samples, not {len(block)}")
                mel[k] = self._slots[k].mel.push(block).reshape(MELS_PER_FRAME, N_MELS)
                active[k] = self._slots[k].vad.push(block)
            features = self._speech.step({"mel": mel, "delay": self._delay}, mask)["features"]
            self._heard[mask] = features[mask]
            for k, moves in enumerate(mask):
                gate = self._slots[k].gate
                if moves:
                    gate.step(float(features[k, VOICE]), active[k])
                if moves and gate.rest == FORGET:
                    # What was said before a pause must not linger for minutes.
                    self._forget(k)
        for k, blocks in enumerate(heard):
            if blocks is None:
                continue
            own = self._slots[k]
            if not len(blocks):
                own.gate.value = max(0.0, own.gate.value - 0.5)
                self._heard[k] = self._quiet[k]
            own.pause = 0 if own.gate.value > 0 else min(own.pause + 1, TURN)

    def _labels(self, slot: _Slot) -> FloatArray:
        state = "speaking" if slot.pause < TURN else "listening" if slot.controls.listening else "idle"
        labels = np.zeros(LABELS, np.float32)
        labels[STATES.index(state)] = 1
        labels[len(STATES) + MOODS.index(slot.controls.mood)] = 1
        return labels

    def _generate(
        self, part: str, labels: FloatArray, mask: Mask, temperature: float
    ) -> dict[str, FloatArray]:
        net, ring, past = self._nets[part], self._rings[part], self._past[part]
        purpose = 1 if part == "face" else 2
        start = np.stack(
            [noise(past.shape[1], slot.seed, slot.frame % 2**32, purpose=purpose) for slot in self._slots]
        )
        inputs: dict[str, npt.NDArray[np.generic]] = {
            "heard": self._heard,
            "labels": labels,
            "noise": start * np.float32(temperature),
            "index": ring.index,
            "filled": ring.filled,
            "past": past,
        }
        out = net.step(inputs, mask)
        ring.advance(mask)
        if part == "life":
            for k in np.flatnonzero(mask):
                self._slots[k].frame += 1
        return out

    @staticmethod
    def _gain(slot: _Slot, face: FloatArray) -> float:
        """How much further the mouth moves than the networks have it: of a voice less sure than those on film they give the mean, and that
        mumbles. Lips that are shut stay so, and a mouth that a half open gate holds back is not driven."""
        if slot.gate.value == 1:
            apart = max(0.0, float(face @ APERTURE))
            slot.reach += REACH_PACE * (apart - REACH_START - slot.reach)
        aim = aimed_reach(slot.articulation)
        wanted = min(MOST_GAIN, max(1.0, aim / max(REACH_START + slot.reach, 1e-4)))
        return 1 + (wanted - 1) * slot.gate.value

    def _compose(
        self,
        slot: _Slot,
        face: FloatArray,
        life: FloatArray,
        arms: FloatArray,
        reflex: Reflex,
    ) -> FloatArray:
        """What is shown: controls applied, limits kept, two sides."""
        controls, life = slot.controls, life.copy()
        life[RAISED] *= np.float32(RAISE)
        wanted = np.zeros(len(LIFE), np.float32)
        for name, value in MOOD_FACES[controls.mood].items():
            wanted[LIFE_INDEX[name]] = value
        slot.mood += np.float32(0.08) * (wanted - slot.mood)
        life[COEFFICIENTS] = np.maximum(life, slot.mood)[COEFFICIENTS]
        life[BROWS] *= controls.expressiveness
        target = np.clip(np.asarray(controls.gaze, np.float32), -GAZE_LIMIT, GAZE_LIMIT)
        slot.gaze += 0.5 * (target - slot.gaze)
        life[HEAD.start] += reflex.nod
        life[HEAD] *= controls.head_motion
        # Eyes that look aside take the head along.
        life[HEAD.start + 1] += 0.3 * slot.gaze[0]
        life[HEAD.start] -= 0.25 * slot.gaze[1]
        life[HEAD] = HEAD_LIMIT * np.tanh(life[HEAD] / HEAD_LIMIT)
        life[HEAD.stop : HEAD.stop + 3] = TRANSLATION_LIMIT * np.tanh(
            life[HEAD.stop : HEAD.stop + 3] * controls.head_motion / TRANSLATION_LIMIT
        )
        life[GAZE] = reflex.looks + slot.gaze
        life[LIDS], life[BREATH] = reflex.lids, reflex.breath
        life[COEFFICIENTS] = np.clip(life[COEFFICIENTS], 0, 1)
        motion = spread_life(life) + arms * np.float32(controls.expressiveness)
        slot.released *= np.float32(0.2)
        slot.mouth = face
        mouth = (face + slot.released) * np.float32(
            self._gain(slot, face) * (0.7 + 0.3 * controls.expressiveness)
        )
        motion[FACE_SLICE] += spread_face(mouth)
        motion[FACE_SLICE] = np.clip(motion[FACE_SLICE] * slot.sides, -0.1, 1.0)
        return motion


class DiffusionMotion:
    """The motion model for one session: a `MotionSource`."""

    def __init__(
        self,
        seed: int = 0,
        lookahead: int = MAX_LOOKAHEAD,
        weights: Path = WEIGHTS,
        articulation: Corrects | None = None,
    ) -> None:
        self.lookahead = lookahead
        self.model = MotionModel([seed], lookahead, weights)
        self.model.set_articulation(articulation)

    @property
    def controls(self) -> Controls:
        """Expressiveness, head motion, gaze target, mood, listening; assign a new one to change them."""
        return self.model.controls()

    @controls.setter
    def controls(self, controls: Controls) -> None:
        self.model.set_controls(controls)

    def step(self, heard: FloatArray) -> FloatArray:
        """See MotionSource."""
        return self.model.step([heard])[0]

    def hush(self) -> None:
        """See MotionSource."""
        self.model.hush(0)
