"""What a person does besides speaking: blinks, gaze, breathing, the sway of the head. A seeded stochastic
process, one frame at a time.

Every part is a bounded random process around rest, so nothing drifts however long a call lasts. Sources of
the figures: blinks 10 to 25 a minute in conversation, more at pauses and with gaze shifts, closing in about
80 ms and opening in 150 ms (Bentivoglio et al. 1997; Evinger et al. 1991); saccade duration 21 ms + 2.2 ms
a degree (Carpenter 1988); fixations at the listener's eyes with glances away of about a second, more of
them while thinking of words (Argyle & Cook 1976; Lee, Badler & Badler, "Eyes Alive", 2002); breathing 12 to
18 a minute, in speech breathed out slowly and taken quickly in its pauses (Winkworth et al. 1995); nods and brows on stressed syllables
(Graf et al. 2002; Munhall et al. 2004); listeners nod in short decaying trains of one to three cycles (Hadar, Steiner & Clifford Rose 1985;
McClave 2000).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.channels import (
    CLAVICLE_LEFT_SLICE,
    CLAVICLE_RIGHT_SLICE,
    GAZE_SLICE,
    HEAD_SLICE,
    INDEX,
    NECK_SLICE,
    SPINE_SLICE,
    TRANSLATION_SLICE,
    zero_motion,
)
from visavis.engine.timing import FPS

_DT = 1.0 / FPS
_DEGREE = float(np.pi / 180)
NECK_SHARE = 0.4
"""How much of the head's rotation the neck takes."""
HEAD_LIMIT = np.array([7.0, 8.0, 5.0]) * _DEGREE
"""Pitch, yaw and roll never go beyond this."""


@dataclass(frozen=True)
class SpeechCue:
    """What life follows of the speech: level in dB of full scale, and whether somebody speaks, in the frame
    shown."""

    level: float = -100.0
    speaking: bool = False


@dataclass
class _Spring:
    """A critically damped spring: follows its target smoothly, with no overshoot. Exact for a target held
    during the frame."""

    rate: float
    value: FloatArray
    velocity: FloatArray

    def step(self, target: FloatArray) -> FloatArray:
        decay = float(np.exp(-self.rate * _DT))
        offset = self.value - target
        push = self.velocity + self.rate * offset
        self.value = (target + (offset + push * _DT) * decay).astype(np.float32)
        self.velocity = ((self.velocity - self.rate * push * _DT) * decay).astype(np.float32)
        return self.value


def _spring(rate: float, n: int) -> _Spring:
    return _Spring(rate, np.zeros(n, np.float32), np.zeros(n, np.float32))


@dataclass
class _Blinks:
    wait: float
    """Seconds to the next one."""
    since: float = 10.0
    """Seconds since the last one began."""
    depth: float = 1.0
    pace: float = 1.0


@dataclass
class _Gaze:
    target: FloatArray = field(default_factory=lambda: np.zeros(2, np.float32))
    """(yaw, pitch) in radians towards which both eyes look, 0 = the viewer."""
    start: FloatArray = field(default_factory=lambda: np.zeros(2, np.float32))
    at: FloatArray = field(default_factory=lambda: np.zeros(2, np.float32))
    progress: float = 1.0
    duration: float = 0.04
    fixation: float = 1.0
    """Seconds that this fixation still lasts."""
    away: bool = False


@dataclass
class _Stress:
    mean: float = -30.0
    spread: float = 6.0
    before: float = -100.0
    rising: bool = False
    since: float = 10.0


@dataclass
class LifeState:
    """Everything that the process remembers; of constant size."""

    rng: np.random.Generator
    blinks: _Blinks
    gaze: _Gaze = field(default_factory=_Gaze)
    wander: FloatArray = field(default_factory=lambda: np.zeros(6, np.float32))
    """Ornstein-Uhlenbeck targets of unit variance: head pitch, yaw, roll, translation x, y, z."""
    sway: _Spring = field(default_factory=lambda: _spring(3.5, 6))
    nod: _Spring = field(default_factory=lambda: _spring(11.0, 1))
    brow: _Spring = field(default_factory=lambda: _spring(14.0, 1))
    nod_target: float = 0.0
    brow_target: float = 0.0
    energy: float = 0.0
    """0 = at rest, 1 = speaking: how lively the head is; follows slowly."""
    breath: float = 0.0
    """Phase in cycles."""
    breath_rate: float = 0.25
    stress: _Stress = field(default_factory=_Stress)
    was_speaking: bool = False
    pause: float = 0.0
    """Seconds since the last speech."""


def blink_curve(seconds: float, pace: float = 1.0) -> float:
    """How far the lids are closed (0..1) so long after a blink began: 80 ms down, 30 ms shut, 150 ms up,
    times `pace`."""
    t = seconds / pace
    if t < 0.08:
        return 0.5 - 0.5 * float(np.cos(np.pi * t / 0.08))
    if t < 0.11:
        return 1.0
    return 0.5 + 0.5 * float(np.cos(np.pi * (t - 0.11) / 0.15)) if t < 0.26 else 0.0


@dataclass(frozen=True)
class Reflex:
    """What moves by itself in a frame: gaze (yaw, pitch) in the room, 0 = the viewer; how far the lids are closed, 0 to 1; a nod, radians of
    the head's pitch; how far breath raises the shoulders, radians."""

    looks: FloatArray = field(default_factory=lambda: np.zeros(2, np.float32))
    lids: float = 0.0
    nod: float = 0.0
    breath: float = 0.0


class Reflexes:
    """Eyes, a listener's nods and breath: what a network that predicts what is likely leaves out, because it is rare or because its phase cannot
    be known. Seeded; of constant size."""

    def __init__(self, seed: int = 0) -> None:
        self._eyes, self._nods, self._breath = Eyes(seed), _Nods.of(seed), _Breath.of(seed)
        self._spoke = False

    def step(self, speaking: bool, listening: bool) -> Reflex:
        """The next frame; `listening` counts while not `speaking`."""
        looks, lids = self._eyes.step(speaking)
        pause_begins, self._spoke = self._spoke and not speaking, speaking
        nod = self._nods.step(listening and not speaking)
        return Reflex(looks, lids, nod, self._breath.step(speaking, pause_begins))


@dataclass
class _Nods:
    """Trains of nods of somebody who listens."""

    rng: np.random.Generator
    wait: float
    """Seconds of listening until the next train."""
    rate: float = 2.0
    """Nods a second in this train."""
    cycles: int = 0
    size: float = 0.0
    phase: float = 0.0
    """Nods of this train that are done."""

    @classmethod
    def of(cls, seed: int) -> _Nods:
        rng = np.random.default_rng([seed % 2**32, 4])
        return cls(rng, float(rng.uniform(0.8, 3.0)))

    def step(self, listening: bool) -> float:
        """Radians of pitch in the next frame. A train that has begun is finished."""
        if self.phase < self.cycles:
            self.phase = min(self.phase + self.rate * _DT, self.cycles)
        elif not listening:
            self.wait = max(self.wait, 0.6)  # not at the very moment that somebody begins
        else:
            self.wait -= _DT
            if self.wait <= 0:
                rng = self.rng
                self.rate, self.cycles, self.phase = (
                    float(rng.uniform(1.5, 2.3)),
                    int(rng.integers(1, 4)),
                    0.0,
                )
                self.size = float(np.clip(rng.lognormal(np.log(2.6), 0.4), 1, 5)) * _DEGREE
                self.wait = 1.6 + float(rng.exponential(4.5))
        swing = 0.5 - 0.5 * float(np.cos(2 * np.pi * self.phase))
        return self.size * swing * float(np.exp(-0.45 * self.phase))


BREATH_LIFT = 1.6 * _DEGREE
"""By how much full lungs raise the shoulders: some four millimetres; a breath at rest fills them to two thirds."""


@dataclass
class _Breath:
    """How full the lungs are: by a clock at rest, by the phrases in speech."""

    rng: np.random.Generator
    rate: float
    """Breaths a second at rest."""
    depth: float = 0.7
    fill: float = 0.0
    inhaling: bool = True
    quick: bool = False
    """This breath is one between two phrases."""
    lift: _Spring = field(default_factory=lambda: _spring(9.0, 1))

    @classmethod
    def of(cls, seed: int) -> _Breath:
        rng = np.random.default_rng([seed % 2**32, 5])
        return cls(rng, float(rng.uniform(0.2, 0.29)))

    def step(self, speaking: bool, pause_begins: bool) -> float:
        """Radians by which the shoulders are up in the next frame."""
        if speaking:
            self.inhaling = self.quick = False
            self.fill -= 0.16 * _DT * (0.6 + self.fill)
        elif self.inhaling:
            self.fill += (1.9 if self.quick else self.rate / 0.4 * self.depth) * _DT
            self.inhaling = self.fill < (1.0 if self.quick else self.depth)
        else:
            self.fill -= self.rate / 0.6 * self.depth * _DT
            if pause_begins or self.fill <= 0:
                self.inhaling, self.quick = True, pause_begins
                self.depth = float(self.rng.uniform(0.6, 0.85))
                self.rate = float(np.clip(self.rate + self.rng.normal(0, 0.012), 0.19, 0.3))
        self.fill = min(max(self.fill, 0.0), 1.1)
        return BREATH_LIFT * float(self.lift.step(np.array([self.fill], np.float32))[0])


class Eyes:
    """Gaze and lids alone: fixations and saccades, and blinks, more of them where speech pauses and where the gaze shifts.
    Seeded; of constant size."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng([seed % 2**32, 3])
        self._mean = float(self._rng.uniform(3.4, 4.6))
        self._blinks = _Blinks(wait=float(self._rng.uniform(0.8, 3.0)))
        self._gaze = _Gaze()
        self._spoke = False

    def step(self, speaking: bool) -> tuple[FloatArray, float]:
        """The next frame: gaze (yaw, pitch) in the room, 0 = the viewer, and how far the lids are closed, 0 to 1."""
        pause_begins, self._spoke = self._spoke and not speaking, speaking
        shifted = _fixate(self._gaze, self._rng, speaking, pause_begins)
        return self._gaze.at, _blink(self._blinks, self._rng, self._mean, pause_begins, shifted)


def _blink(
    blinks: _Blinks, rng: np.random.Generator, mean: float, pause_begins: bool, shifted: bool
) -> float:
    """Moves the process by a frame; how far the lids are closed."""
    blinks.since += _DT
    blinks.wait -= _DT
    if (pause_begins and rng.random() < 0.35) or (shifted and rng.random() < 0.3):
        blinks.wait = min(blinks.wait, 0.04)
    if blinks.wait <= 0 and blinks.since > 0.9:
        blinks.since = float(rng.uniform(0, _DT))
        blinks.depth, blinks.pace = float(rng.uniform(0.9, 1.0)), float(rng.uniform(0.75, 1.1))
        blinks.wait = 0.9 + float(rng.gamma(2.0, (mean - 0.9) / 2.0))
        if rng.random() < 0.06:
            blinks.wait = 0.9  # one blink after the other
    return blinks.depth * blink_curve(max(0.0, blinks.since), blinks.pace)


def _fixate(gaze: _Gaze, rng: np.random.Generator, speaking: bool, pause_begins: bool) -> bool:
    """Moves the gaze by a frame; True when a saccade of more than 6 degrees starts."""
    gaze.fixation -= _DT
    shifted = False
    glance_back = pause_begins and gaze.away  # the speaker hands over the turn
    if gaze.fixation <= 0 or glance_back:
        leave = 0.28 if speaking else 0.2
        gaze.away = not gaze.away and not glance_back and bool(rng.random() < leave)
        if gaze.away:
            side = rng.choice([-1.0, 1.0])
            target = np.array([side * rng.uniform(4, 13), rng.normal(-1.5, 4.5)]) * _DEGREE
            gaze.fixation = float(np.clip(rng.lognormal(np.log(0.8), 0.4), 0.3, 2.0))
        else:  # between the viewer's eyes and mouth
            target = np.clip(rng.normal(0, [0.9, 0.7]), -2, 2) * _DEGREE
            gaze.fixation = float(np.clip(rng.lognormal(np.log(1.3), 0.6), 0.35, 5.0))
        shifted = _look(gaze, target)
    elif rng.random() < 1.2 * _DT:  # micro-saccade
        _look(gaze, gaze.target + rng.normal(0, 0.25, 2) * _DEGREE)
    gaze.progress = min(1.0, gaze.progress + _DT / gaze.duration)
    eased = np.float32(gaze.progress * gaze.progress * (3 - 2 * gaze.progress))
    gaze.at = gaze.start + (gaze.target - gaze.start) * eased
    return shifted


def _look(gaze: _Gaze, target: npt.NDArray[np.floating[Any]]) -> bool:
    limit = np.array([15, 9]) * _DEGREE
    gaze.start, gaze.target = gaze.at, np.clip(target, -limit, limit).astype(np.float32)
    degrees = float(np.linalg.norm(gaze.target - gaze.start)) / _DEGREE
    gaze.progress, gaze.duration = 0.0, 0.021 + 0.0022 * degrees
    return degrees > 6


class Life:
    """Motion of an idle or speaking person, all channels but the mouth's. The same seed gives the same
    life."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.state = LifeState(rng=rng, blinks=_Blinks(wait=float(rng.uniform(0.8, 3.0))))
        self._blink_mean = float(rng.uniform(3.4, 4.6))
        # Nobody is the same on both sides: (right, left) shares of brows and lids, fixed for a person.
        self._brow_sides = (1 + rng.uniform(-0.2, 0.2, 2)).astype(np.float32)
        self._lid_delay = float(rng.uniform(-0.0015, 0.0015))

    def step(self, cue: SpeechCue = SpeechCue()) -> FloatArray:
        """The next frame's motion (N_CHANNELS,)."""
        state = self.state
        pause_begins = state.was_speaking and not cue.speaking
        state.pause = 0.0 if cue.speaking else state.pause + _DT
        state.energy += ((1.0 if state.pause < 0.4 else 0.0) - state.energy) * _DT / 0.8
        stressed = self._stressed(cue)
        motion = zero_motion()
        rotation = self._head(motion, stressed)
        shifted = self._gaze(motion, rotation, cue, pause_begins)
        self._brows(motion, stressed)
        self._blink(motion, pause_begins, shifted)
        self._breathe(motion)
        state.was_speaking = cue.speaking
        return motion

    def _stressed(self, cue: SpeechCue) -> bool:
        """Is the syllable that ends here louder than most: a peak of the level, at most two a second?"""
        stress = self.state.stress
        stress.since += _DT
        peak = False
        if cue.speaking and cue.level > -60:
            share = _DT / 3.0
            difference = cue.level - stress.mean
            stress.mean += difference * share
            stress.spread += (abs(difference) - stress.spread) * share
            falls = cue.level < stress.before
            high = stress.before > stress.mean + 0.7 * stress.spread
            peak = falls and stress.rising and high and stress.since > 0.45
            stress.rising = not falls
        stress.before = cue.level
        if peak:
            stress.since = 0.0
        return peak

    def _head(self, motion: FloatArray, stressed: bool) -> FloatArray:
        state = self.state
        kick = state.rng.standard_normal(6).astype(np.float32)
        slow = np.float32(_DT / 1.6)
        state.wander += -slow * state.wander + np.sqrt(2 * slow) * kick
        speaking, energy = np.float32(state.energy), 0.3 + 0.7 * state.energy
        scale = np.array([2.2, 3.7, 2.0], np.float32) * np.float32(_DEGREE * energy)
        targets = np.concatenate([state.wander[:3] * scale, state.wander[3:] * np.float32(0.0022 * energy)])
        # Eyes that look aside take the head along a little.
        targets[1] += 0.25 * state.gaze.target[0]
        targets[0] -= 0.2 * state.gaze.target[1]
        sway = state.sway.step(targets.astype(np.float32))
        if stressed and state.rng.random() < 0.65:
            state.nod_target = float(state.rng.uniform(1.2, 3.4)) * _DEGREE * float(speaking)
        nod = state.nod.step(np.array([state.nod_target], np.float32))
        state.nod_target *= 0.75
        rotation = sway[:3].copy()
        rotation[0] += nod[0]
        rotation = (HEAD_LIMIT * np.tanh(rotation / HEAD_LIMIT)).astype(np.float32)
        motion[HEAD_SLICE] = rotation * (1 - NECK_SHARE)
        motion[NECK_SLICE] = rotation * NECK_SHARE
        motion[TRANSLATION_SLICE] = 0.006 * np.tanh(sway[3:] / 0.006)
        return rotation

    def _gaze(self, motion: FloatArray, rotation: FloatArray, cue: SpeechCue, pause_begins: bool) -> bool:
        """Moves the eyes; True when a saccade of more than 6 degrees starts."""
        gaze = self.state.gaze
        shifted = _fixate(gaze, self.state.rng, cue.speaking, pause_begins)
        # Eyes hold their target while the head moves (vestibulo-ocular reflex).
        yaw = float(np.clip(gaze.at[0] - rotation[1], -0.35, 0.35))
        pitch = float(np.clip(gaze.at[1] + rotation[0], -0.3, 0.25))
        motion[GAZE_SLICE] = (yaw, pitch, yaw, pitch)
        down, up = max(0.0, -pitch) / (30 * _DEGREE), max(0.0, pitch) / (25 * _DEGREE)
        left, right = max(0.0, yaw) / (35 * _DEGREE), max(0.0, -yaw) / (35 * _DEGREE)
        for side, outward, inward in (("Left", left, right), ("Right", right, left)):
            motion[INDEX[f"eyeLookDown{side}"]] = down
            motion[INDEX[f"eyeLookUp{side}"]] = up
            motion[INDEX[f"eyeLookOut{side}"]] = outward
            motion[INDEX[f"eyeLookIn{side}"]] = inward
        return shifted

    def _brows(self, motion: FloatArray, stressed: bool) -> None:
        state = self.state
        if stressed and state.rng.random() < 0.5:
            state.brow_target = float(state.rng.uniform(0.15, 0.45))
        brow = float(state.brow.step(np.array([state.brow_target], np.float32))[0])
        state.brow_target *= 0.82
        raised = max(0.0, brow)
        motion[INDEX["browInnerUp"]] = raised
        motion[INDEX["browOuterUpRight"]] = 0.7 * raised * self._brow_sides[0]
        motion[INDEX["browOuterUpLeft"]] = 0.7 * raised * self._brow_sides[1]

    def _blink(self, motion: FloatArray, pause_begins: bool, shifted: bool) -> None:
        blinks = self.state.blinks
        _blink(blinks, self.state.rng, self._blink_mean, pause_begins, shifted)
        for side, delay in (("Right", -self._lid_delay), ("Left", self._lid_delay)):
            lids = blinks.depth * blink_curve(max(0.0, blinks.since - delay), blinks.pace)
            motion[INDEX[f"eyeBlink{side}"]] = lids

    def _breathe(self, motion: FloatArray) -> None:
        state = self.state
        state.breath_rate += (0.25 - state.breath_rate) * _DT / 8 + 0.012 * float(np.sqrt(_DT)) * float(
            state.rng.standard_normal()
        )
        state.breath_rate = float(np.clip(state.breath_rate, 0.2, 0.3))
        state.breath = (state.breath + state.breath_rate * _DT) % 1.0
        # In over two fifths of the cycle, out over three.
        warped = state.breath / 0.4 * 0.5 if state.breath < 0.4 else 0.5 + (state.breath - 0.4) / 0.6 * 0.5
        filled = 0.5 - 0.5 * float(np.cos(2 * np.pi * warped))
        lift = filled * (1.0 + 0.2 * state.energy)
        # Shoulders rise (about z, opposite on the two sides), the chest leans back a little, the head stays
        # level.
        motion[CLAVICLE_LEFT_SLICE.start + 2] = 1.1 * _DEGREE * lift
        motion[CLAVICLE_RIGHT_SLICE.start + 2] = -1.1 * _DEGREE * lift
        motion[SPINE_SLICE.start] = -0.45 * _DEGREE * lift
        motion[NECK_SLICE.start] += 0.35 * _DEGREE * lift
