"""Speech of espeak-ng in many languages with the time of every phoneme, as a file that training and benchmarks read.

    python -m visavis.engine.training.voices_espeak --out runs/espeak.npz --sentences 400

Robotic, but in any language and instant, and the synthesiser says itself when each phoneme begins. Sentences are random words
of a lexicon of English spellings, read by each language's own rules: all its sounds, no meaning. Same file as `voices`.

Needs, for making data only: espeak-ng with its library (Debian `espeak-ng`), PyPI `hibari-tts` for the words.
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import gzip
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm
from visavis.engine.audio.pcm import FloatArray, to_int16
from visavis.engine.audio.resample import Resampler
from visavis.engine.training.voices import CLASSES, CLOSED, PHONES_RATE, random_sentence

LANGUAGES = (
    "en-us", "en-gb-scotland", "de", "fr", "es", "it", "pt-br", "nl", "pl", "ru", "tr", "sv", "el", "hu", "fi", "hi", "id", "cs", "ro", "uk",
)  # fmt: skip
VOICES = (
    "m1",
    "m2",
    "m3",
    "m4",
    "m5",
    "m6",
    "m7",
    "m8",
    "f1",
    "f2",
    "f3",
    "f4",
    "f5",
    "klatt",
    "klatt2",
    "klatt4",
)
UNVOICED_STOPS = frozenset("ptkqcʈʧʦ")
"""First letters of phonemes that espeak-ng announces at their release: the silence in which the mouth is closed, about 50 ms, comes before
(measured on 105 p between vowels: -41 to -57 dB from 50 ms before the event until the event, while b and m begin with theirs)."""
CLOSURE = 80
"""Milliseconds that such a silence lasts at most."""
QUIET = 30
"""It is so many dB below the loudest 10 ms of the sentence."""
RELEASE = 10
"""Milliseconds after which the lips of a p have parted; what follows is breath."""
_RETRIEVAL, _PHONEMES, _IPA, _ABORT = 1, 1, 2, 0x8000
_UTF8 = 1
_LIST_END, _PHONEME_EVENT = 0, 7
_CLASS_OF = {symbol: number for number, symbols in enumerate(CLASSES) for symbol in symbols}
_CLASS_OF |= (
    dict.fromkeys("ãaɐ", 15)
    | dict.fromkeys("ɛ̃eø", 14)
    | dict.fromkeys("gɟʝɢʛ", 11)
    | {"l": 8, "ɫ": 8, "ɭ": 8, "ɬ": 8}
)
_CLASS_OF |= dict.fromkeys("ʀrɽɾ", 5) | {
    "ɱ": 2,
    "ɦ": 12,
    "ʃ": 10,
    "ʒ": 10,
    "n": 7,
    "ŋ": 11,
    "ɲ": 7,
    "y": 4,
    "ʏ": 4,
    "ɤ": 16,
    "ɘ": 17,
    "ʉ": 4,
    "ʋ": 3,
    "ʍ": 3,
}


def closed_from(level: FloatArray, start: int) -> int:
    """Where the silence before an unvoiced stop begins that is released at `start`: `level` (T,) of each 10 ms in dB below the loudest."""
    first = min(start, len(level))
    while first > max(0, start - CLOSURE // 10) and level[first - 1] < -QUIET:
        first -= 1
    return first


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("phoneme", ctypes.c_char * 8),
    ]  # fmt: skip


class Espeak:
    """The library, which can be started once a process."""

    def __init__(self) -> None:
        found = ctypes.util.find_library("espeak-ng")
        if found is None:
            raise SystemExit("espeak-ng is not installed (Debian: apt-get install espeak-ng)")
        self._library: Any = ctypes.CDLL(found)
        self.rate = int(self._library.espeak_Initialize(_RETRIEVAL, 200, None, _PHONEMES | _IPA | _ABORT))
        if self.rate <= 0:
            raise SystemExit("espeak-ng did not start: are its voices installed?")
        self._sound: list[npt.NDArray[np.int16]] = []
        self._events: list[tuple[int, str]] = []
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
        )
        self._callback = kind(self._take)
        self._library.espeak_SetSynthCallback(self._callback)

    def _take(self, wav: Any, count: int, events: Any) -> int:
        if wav and count > 0:
            self._sound.append(np.ctypeslib.as_array(wav, (count,)).copy())
        k = 0
        while events[k].type != _LIST_END:
            if events[k].type == _PHONEME_EVENT:
                self._events.append((events[k].audio_position, events[k].phoneme.decode("utf8", "ignore")))
            k += 1
        return 0

    def say(
        self, text: str, voice: str, speed: int, pitch: int
    ) -> tuple[FloatArray, npt.NDArray[np.int8], list[str]]:
        """Sound at 16 kHz, class of phoneme at PHONES_RATE, and symbols that have no class. `voice` as espeak-ng names it, "de+f2";
        `speed` in words a minute; `pitch` 0 to 99."""
        library = self._library
        if library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        library.espeak_SetParameter(1, speed, 0)
        library.espeak_SetParameter(3, pitch, 0)
        self._sound, self._events = [], []
        data = text.encode()
        library.espeak_Synth(data, len(data) + 1, 0, 1, 0, _UTF8, None, None)
        library.espeak_Synchronize()
        resampler = Resampler(self.rate, 16_000)
        raw = np.concatenate(self._sound).astype(np.float32) / 32768
        sound = np.concatenate([resampler.push(raw), resampler.flush()])
        n = len(sound) * PHONES_RATE // 16_000
        classes, unknown, from_here = np.zeros(n, np.int8), [], 0
        level = 10 * np.log10(np.square(sound[: n * 160].reshape(n, 160)).mean(1) + 1e-10)
        level -= level.max()
        ends = [*(at for at, _ in self._events), n * 10][1:]
        for (at, symbol), end in zip(self._events, ends, strict=True):
            own = next((_CLASS_OF[c] for c in symbol if c in _CLASS_OF), 0)
            if own == 0 and symbol.strip(" ː_ˈˌ|;"):
                unknown.append(symbol)
            start, stop = at // 10, max(at // 10 + 1, end // 10)
            first = (
                max(from_here, closed_from(level, start))
                if symbol[:1] in UNVOICED_STOPS
                else from_here or start
            )
            classes[first:stop] = own
            from_here = 0
            if own == CLOSED and first < start:
                from_here = start + RELEASE // 10  # the next phoneme takes the breath
                classes[from_here:stop] = 0
        return sound, classes, unknown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/espeak.npz"))
    parser.add_argument("--sentences", type=int, default=400)
    parser.add_argument("--first", type=int, default=0, help="number of the first sentence")
    parser.add_argument("--languages", default=",".join(LANGUAGES), help="taken in turn")
    args = parser.parse_args()
    lexicon = json.loads(
        gzip.decompress((files("hibari") / "assets" / "lexicon_us_gold.json.gz").read_bytes())
    )
    words = sorted(word for word in lexicon if word.isalpha() and word.islower() and 2 <= len(word) <= 8)
    espeak, languages = Espeak(), args.languages.split(",")
    made: dict[str, npt.NDArray[Any]] = {}
    strange: dict[str, int] = {}
    for number in tqdm(range(args.first, args.first + args.sentences), desc="speaking", unit="sentence"):
        rng = np.random.default_rng([number, 2])
        language, voice = languages[number % len(languages)], str(rng.choice(VOICES))
        sound, phones, unknown = espeak.say(
            random_sentence(words, rng), f"{language}+{voice}", int(rng.integers(130, 200)), int(rng.integers(20, 80))
        )  # fmt: skip
        for symbol in unknown:
            strange[symbol] = strange.get(symbol, 0) + 1
        key = f"{number:05d}_espeak_{voice}_{language}"
        made[f"{key}/sound"], made[f"{key}/phones"] = to_int16(sound), phones
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez(args.out, **made)  # type: ignore[arg-type]
    if strange:
        print("symbols without a class:", ", ".join(f"{s} {n}" for s, n in sorted(strange.items())))


if __name__ == "__main__":
    main()
