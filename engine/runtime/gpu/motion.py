"""Stage 1 on the device: what `engine.motion.diffusion` does for a session, for all slots of a worker, with no look in between.

The host says beforehand what it alone knows (`SlotMotion.cue`: voice activity, controls, where the eyes look by themselves); sound goes
through log-mel, speech network, gate, face and life network to the motion of every slot (kernels/cuda/motion.cu).
"""

from __future__ import annotations

import ctypes
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.audio import mel
from visavis.engine.audio.vad import VoiceActivity
from visavis.engine.motion import articulation as articulating
from visavis.engine.motion import diffusion as product
from visavis.engine.motion import lips
from visavis.engine.motion.channels import ARKIT, GAZE_SLICE, INDEX, N_CHANNELS
from visavis.engine.motion.director import MotionSource
from visavis.engine.motion.layout import (
    EYE_LIMIT,
    FACE,
    GAZE,
    HEAD,
    LABELS,
    LIFE,
    LIFE_INDEX,
    MOODS,
    life_matrix,
)
from visavis.engine.motion.life import HEAD_LIMIT, Reflex, Reflexes
from visavis.engine.motion.speech import FORGET, MAX_LOOKAHEAD, spread
from visavis.engine.runtime.gpu import structures as st
from visavis.engine.runtime.gpu.device import Device, DeviceError, address, call, put
from visavis.engine.runtime.gpu.networks import SlotNetwork, StateTable
from visavis.engine.runtime.gpu.staging import Layout, Staging
from visavis.engine.timing import SAMPLES_PER_FRAME
from visavis.kernels.sampler import SamplerStep

FloatArray = npt.NDArray[np.float32]
_STATE_BYTES = ctypes.sizeof(st.MotionState)
_CUE_BYTES = ctypes.sizeof(st.MotionCue)
_DELAYS = np.eye(MAX_LOOKAHEAD + 1, dtype=np.float32)


class SlotMotion:
    """The host's part of one slot's stage 1. Stands in the session where a `MotionSource` does; the worker asks it for cues.

    `source` makes the motion in place of the networks, if given: then it alone is asked.
    """

    def __init__(self, seed: int, lookahead: int, source: MotionSource | None = None) -> None:
        if not 0 <= lookahead <= MAX_LOOKAHEAD:
            raise ValueError(f"lookahead is {lookahead} frames, expected 0 to {MAX_LOOKAHEAD}")
        self.seed, self.source = seed % 2**63, source
        self.lookahead = lookahead if source is None else source.lookahead
        self.controls = product.Controls()
        self.gate = 0.0
        """As the device told it after the last tick: 0 = nobody speaks."""
        self._vad = VoiceActivity(hangover=1)
        self._reflexes = Reflexes(self.seed)
        self._heard: deque[bool] = deque(maxlen=self.lookahead + 1)
        self._hush = False

    def step(self, heard: FloatArray) -> FloatArray:
        """Never called: the worker advances all slots at once."""
        raise DeviceError("this session is advanced by its worker's tick")

    def hush(self) -> None:
        """See MotionSource; takes effect with the next tick."""
        if self.source is not None:
            self.source.hush()
        self._hush = True
        self._heard.clear()
        self._vad.reset()
        self.gate = 0.0

    def heard_one(self, block: FloatArray) -> int:
        """Flags for hearing a frame (640,)."""
        self._heard.append(self._vad.push(block))
        return st.HEARS | st.VOICED * any(self._heard)

    def take_hush(self) -> int:
        """Flag for the first launch since the last `hush`."""
        hush, self._hush = self._hush, False
        return st.HUSH * hush

    def reflex(self) -> Reflex:
        """What moves by itself in the next frame; before the tick's sound is heard."""
        return self._reflexes.step(self.gate > 0, self.controls.listening)

    def cue(self, flags: int, reflex: Reflex) -> st.MotionCue:
        """What the device is told for a tick."""
        controls = self.controls
        target = np.clip(np.asarray(controls.gaze, np.float32), -product.GAZE_LIMIT, product.GAZE_LIMIT)
        flags |= st.LISTENING * controls.listening
        return st.MotionCue(
            flags, MOODS.index(controls.mood), controls.expressiveness, controls.head_motion,
            tuple(map(float, target)), tuple(map(float, reflex.looks)), reflex.lids, reflex.nod, reflex.breath,
        )  # fmt: skip


def staging_layout(slots: int) -> Layout:
    """What stage 1 is told of a tick."""
    return {
        "cues": ((slots, _CUE_BYTES), np.uint8),
        "moves": ((slots,), np.uint8),
        "hears": ((slots,), np.uint8),
        "hushes": ((slots,), np.uint8),
        "sound": ((slots, SAMPLES_PER_FRAME), np.float32),
        "given": ((slots, N_CHANNELS), np.float32),
    }


def report_layout(slots: int) -> Layout:
    """What comes back of stage 1."""
    return {"motion": ((slots, N_CHANNELS), np.float32), "gates": ((slots,), np.float32)}


class DeviceMotion:
    """The motion networks of `slots` slots. `staging` holds what `staging_layout` says, `report` what `report_layout` says."""

    def __init__(
        self,
        device: Device,
        slots: int,
        staging: Staging,
        report: Staging,
        weights: Path = product.WEIGHTS,
    ) -> None:
        self.device, self.slots, self._staging, self._report = device, slots, staging, report
        n, z = slots, device.zeros
        self.speech = SlotNetwork(device, weights / "motion_speech.onnx", n)
        features = self.speech.engine.outputs["features"]
        shared = {"heard": z(*features), "labels": z((n, LABELS), np.float32)}
        self.face, self.life = (
            SlotNetwork(device, weights / f"motion_{part}.onnx", n, shared) for part in ("face", "life")
        )
        whole, single = np.dtype(np.int64), np.dtype(np.float32)
        self.speech.expect(
            {"mel": ((n, mel.MELS_PER_FRAME, mel.N_MELS), single), "delay": ((n, MAX_LOOKAHEAD + 1), single)}
        )
        for network, values in ((self.face, len(FACE)), (self.life, len(LIFE))):
            network.expect(
                {name: ((n, values), single) for name in ("motion", "noise", "past")}
                | {name: ((n,), whole) for name in ("index", "filled")}
            )
        self._state = z((n, _STATE_BYTES), np.uint8)
        self._mel_state = z((n, mel.WINDOW - mel.HOP), np.float32)
        self._frames, self._seeds = z((n,), np.uint32), z((n,), np.uint64)
        self._sides, self._neutral = z((n, len(ARKIT)), np.float32), z((n, N_CHANNELS), np.float32)
        self._actions = [z((n,), np.uint8) for _ in range(4)]
        self._quiet = z(*features)
        self._past_inputs = z((n, articulating.LAGS, articulating.INPUTS), np.float32)
        self._aims, self._articulations = z((n,), np.float32), z((n,), np.uint64)
        self._held: list[Any] = [None] * n  # what _articulations points to
        self._mel_tables, self._mel_keep = _mel_tables(device)
        self._motion, self._keep = self._structure()
        self._noises = [
            SamplerStep(
                x=device.pointer(network.tensors["noise"]), seeds=device.pointer(self._seeds),
                frames=device.pointer(self._frames), mask=device.pointer(staging.device["moves"]),
                sigma=temperature, purpose=purpose,
            )
            for network, temperature, purpose in (
                (self.face, product.FACE_TEMPERATURE, 1), (self.life, product.LIFE_TEMPERATURE, 2),
            )
        ]  # fmt: skip
        self._tables = [self._tables_of(parity) for parity in (0, 1)]
        self._silence = [self._hear_silence(k) for k in range(MAX_LOOKAHEAD + 1)]

    def reset(
        self,
        slot: int,
        motion: SlotMotion,
        sides: FloatArray,
        neutral: FloatArray,
        articulation: articulating.Articulation | None = None,
    ) -> None:
        """A new session in this slot, of this seed and of a person who articulates like this; the others do not notice. Waits."""
        device = self.device
        state = st.MotionState(pause=product.TURN, reach=product.starting_reach(articulation))
        row = np.frombuffer(bytes(state), np.uint8)
        lookahead = min(motion.lookahead, MAX_LOOKAHEAD)
        pointer, self._held[slot] = 0, None
        if articulation is not None:
            self._held[slot] = put(device, _flat(articulation))
            pointer = device.pointer(self._held[slot])
        quiet = self._silence[lookahead]
        held = {
            "state": (self._state, row), "seed": (self._seeds, np.array(motion.seed, np.uint64)),
            "sides": (self._sides, sides), "neutral": (self._neutral, neutral),
            "delay": (self.speech.tensors["delay"], _DELAYS[lookahead]), "quiet": (self._quiet, quiet),
            "heard": (self.face.tensors["heard"], quiet), "aim": (self._aims, np.array(product.aimed_reach(articulation), np.float32)),
            "articulation": (self._articulations, np.array(pointer, np.uint64)),
        }  # fmt: skip
        for array, value in held.values():
            device.upload(array[slot : slot + 1], np.ascontiguousarray(value).reshape(1, *array.shape[1:]))
        cleared = [self._mel_state, self._frames, self._past_inputs]
        for network in (self.face, self.life):
            cleared += [network.tensors[name] for name in ("past", "index", "filled")]
        for network in (self.speech, self.face, self.life):
            cleared += [array for arrays in network.states.values() for array in arrays]
        for array in cleared:
            zeros = np.zeros((1, *array.shape[1:]), array.dtype)
            device.upload(array[slot : slot + 1], zeros)
        device.synchronize()

    def hear(self, parity: int, more: bool = False) -> None:
        """Queue the hearing of one frame of sound. With `more` another one follows in the same tick."""
        device, staging = self.device, self._staging
        at = lambda array: address(device, array)  # noqa: E731
        before, between, again, _ = self._tables[parity]
        before.queue()
        call(
            device, "vvc_log_mel", ctypes.byref(self._mel_tables), at(staging.device["sound"]), at(self._mel_state),
            at(self.speech.tensors["mel"]), at(staging.device["hears"]), self.slots,
        )  # fmt: skip
        self.speech.run(parity)
        call(device, "vvc_motion_hear", ctypes.byref(self._motion), self.slots, int(more))
        (again if more else between).queue()

    def move(self, parity: int) -> None:
        """Queue the motion of this tick's slots, after the last frame was heard."""
        device = self.device
        for noise, network in zip(self._noises, (self.face, self.life), strict=True):
            n = network.tensors["noise"].shape[1]
            call(device, "vvc_sampler_step", ctypes.byref(noise), self.slots, n)
            network.run(parity)
        self._tables[parity][3].queue()
        call(device, "vvc_motion_show", ctypes.byref(self._motion), self.slots)

    def _tables_of(self, parity: int) -> tuple[StateTable, StateTable, StateTable, StateTable]:
        """What states.cu does before the speech network, after it, after it where more sound follows, after face and life."""
        device, n, other = self.device, self.slots, 1 - parity
        hushes = self._staging.device["hushes"]
        speech, context, face, moving = self._actions
        before = StateTable(device, n).add_network(self.speech, other, parity, {"": hushes})
        before.add(None, self._mel_state, hushes)
        kept = {"": speech, "context": context}
        between = StateTable(device, n).add_network(self.speech, parity, other, kept)
        again = StateTable(device, n).add_network(self.speech, other, parity, kept)
        for table in (between, again):
            table.add_network(self.face, other, parity, {"": face})
        after = StateTable(device, n)
        for network in (self.face, self.life):
            after.add_network(network, parity, other, {"": moving})
        return before, between, again, after

    def _structure(self) -> tuple[st.Motion, list[Any]]:
        device, staging = self.device, self._staging
        moods = np.zeros((len(MOODS), len(LIFE)), np.float32)
        for row, mood in zip(moods, MOODS, strict=True):
            for name, value in product.MOOD_FACES[mood].items():
                row[LIFE_INDEX[name]] = value
        kinds = np.zeros(len(LIFE), np.int32)
        kinds[product.COEFFICIENTS] |= st.COEFFICIENT
        kinds[product.BROWS] |= st.BROW
        kinds[product.RAISED] |= st.RAISED
        kinds[HEAD] |= st.HEAD
        kinds[HEAD.stop : HEAD.stop + 3] |= st.TRANSLATION
        places = [*range(GAZE_SLICE.start, GAZE_SLICE.stop)]
        places += [
            INDEX[f"eyeLook{way}{side}"] for way in ("Down", "Up", "Out", "In") for side in ("Left", "Right")
        ]
        tables = {
            "moods": moods, "life_matrix": life_matrix(), "face_matrix": spread(np.eye(len(FACE), dtype=np.float32)),
            "aperture": lips.APERTURE, "width": lips.WIDTH, "parts": articulating.PARTS, "widens": articulating.WIDENS, "kinds": kinds, "eye_places": np.array(places, np.int32),
        }  # fmt: skip
        keep = {name: put(device, array) for name, array in tables.items()}
        arrays = {
            "cues": staging.device["cues"], "states": self._state, "features": self.speech.tensors["features"],
            "quiet": self._quiet, "heard": self.face.tensors["heard"], "labels": self.face.tensors["labels"],
            "past_face": self.face.tensors["past"], "past_life": self.life.tensors["past"],
            "face": self.face.tensors["motion"], "life": self.life.tensors["motion"], "arms": self.life.tensors["arms"],
            "given": staging.device["given"], "sides": self._sides, "neutral": self._neutral,
            "articulations": self._articulations, "aims": self._aims, "past_inputs": self._past_inputs,
            "motion": self._report.device["motion"], "gates": self._report.device["gates"], "frames": self._frames, **keep,
        }  # fmt: skip
        pointer = device.pointer
        parts = (self.face, self.life)
        structure = st.Motion(
            **{name: pointer(array) for name, array in arrays.items()},
            index=tuple(pointer(p.tensors["index"]) for p in parts),
            filled=tuple(pointer(p.tensors["filled"]) for p in parts),
            actions=tuple(map(pointer, self._actions)),
            head_limit=tuple(map(float, HEAD_LIMIT)), eye_limit=tuple(map(float, EYE_LIMIT)),
            window=tuple(p.engine.inputs["keys"][0][3] for p in parts),
            n_features=self._quiet.shape[1], n_face=len(FACE), n_life=len(LIFE), n_labels=LABELS, n_channels=N_CHANNELS,
            n_coefficients=len(ARKIT), voice=product.VOICE, closed=product.CLOSED, turn=product.TURN, forget=FORGET, head=HEAD.start,
            gaze_place=GAZE.start, lids_place=product.LIDS, breath_place=product.BREATH, share=product.FACE_SHARE,
            translation=product.TRANSLATION_LIMIT, amplitude=product.AMPLITUDE, touch=lips.TOUCH, raise_=product.RAISE,
            reach_start=product.REACH_START, reach_pace=product.REACH_PACE, most_gain=product.MOST_GAIN,
            voice_from=product.VOICE_FROM, voice_over=product.VOICE_OVER,
            closed_from=lips.HEARD[0], closed_over=lips.HEARD[1] - lips.HEARD[0],
            n_lags=articulating.LAGS, n_inputs=articulating.INPUTS, pucker=articulating.PUCKER, own_scale=articulating.OWN_SCALE, most=tuple(map(float, articulating.MOST)),
        )  # fmt: skip
        return structure, list(keep.values())

    def _hear_silence(self, lookahead: int) -> FloatArray:
        """What the speech network says of silence (FEATURES,); before any slot is taken."""
        device, network = self.device, self.speech
        device.upload(network.tensors["delay"], np.tile(_DELAYS[lookahead], (self.slots, 1)))
        for arrays in network.states.values():
            device.upload(arrays[0], np.zeros(arrays[0].shape, arrays[0].dtype))
        for k in range(FORGET):
            network.run(k % 2)
        features = np.zeros(network.tensors["features"].shape, np.float32)
        device.download(features, network.tensors["features"])
        device.synchronize()
        return np.asarray(features[0])


def _flat(articulation: articulating.Articulation) -> FloatArray:
    """Weights, then offset, as motion.cu reads them."""
    return np.concatenate([articulation.weights.ravel(), articulation.offset]).astype(np.float32)


def _mel_tables(device: Device) -> tuple[st.MelTables, list[Any]]:
    held = [put(device, array) for array in mel.TABLES.arrays]
    return st.MelTables(*map(device.pointer, held), mel.TABLES.scale, mel.TABLES.floor), held
