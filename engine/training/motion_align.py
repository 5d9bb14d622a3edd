"""When GRID's speakers say which phoneme: forced alignment of its sentences, as a file that training reads.

    python -m visavis.engine.training.motion_align --data ../shared/data --out runs/motion/phones.npz

A GRID file's name spells its sentence ("bbaf4p" is "bin blue at f four please"), so no transcript is needed. The aligner is
PyPI `pocketsphinx` (BSD), whose English model is in its wheel; classes of phonemes are those of `voices`, at 100 Hz.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm
from visavis.engine.audio.decode import read_sound
from visavis.engine.audio.pcm import FloatArray, to_int16

WORDS: tuple[dict[str, str], ...] = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"},
    dict(
        zip(
            "z123456789",
            ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
            strict=True,
        ),
    ),
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)
_CLASS_OF = {
    "SIL": 0, "AA": 16, "AE": 15, "AH": 16, "AO": 4, "AW": 18, "AY": 15, "B": 1, "CH": 10, "D": 7, "DH": 6, "EH": 14,
    "ER": 5, "EY": 14, "F": 2, "G": 11, "HH": 12, "IH": 13, "IY": 13, "JH": 10, "K": 11, "L": 8, "M": 1, "N": 7,
    "NG": 11, "OW": 4, "OY": 18, "P": 1, "R": 5, "S": 9, "SH": 10, "T": 7, "TH": 6, "UH": 4, "UW": 4, "V": 2, "W": 3,
    "Y": 12, "Z": 9, "ZH": 10,
}  # fmt: skip
"""ARPABET to the classes of `voices.CLASSES`."""


def sentence(name: str) -> str:
    """The words of a GRID file name, or of one with a prefix ("id2_vcd_swwp2s")."""
    return " ".join(words[letter] for words, letter in zip(WORDS, name[-6:], strict=True))


class Aligner:
    """Pocketsphinx with its own acoustic model and dictionary."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(lm=None, loglevel="FATAL", samprate=16000, bestpath=False)

    def __call__(self, sound: FloatArray, text: str) -> npt.NDArray[np.int8] | None:
        """Class of phoneme (n,) at 100 Hz of `sound` (16 kHz), or None where the text cannot be found in it."""
        pcm, decoder = to_int16(sound).tobytes(), self._decoder
        decoder.set_align_text(text)
        for again in (False, True):
            if again:
                decoder.set_alignment()
            decoder.start_utt()
            decoder.process_raw(pcm, full_utt=True)
            decoder.end_utt()
            if not again and decoder.hyp() is None:
                return None
        classes = np.zeros(len(sound) // 160, np.int8)
        for word in decoder.get_alignment():
            for phone in word:
                classes[phone.start : phone.start + phone.duration] = _CLASS_OF.get(phone.name, 0)
        return classes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/motion/phones.npz"))
    args = parser.parse_args()
    aligner = Aligner()
    found: dict[str, npt.NDArray[np.int8]] = {}
    missed = []
    for path in tqdm(sorted((args.data / "grid").glob("*/*/*.mkv")), desc="aligning", unit="clip"):
        key = f"{path.parent.name}/{path.stem}"
        classes = aligner(read_sound(path), sentence(path.stem))
        if classes is None:
            missed.append(key)
        else:
            found[key] = classes
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, **found)
    print(f"aligned {len(found)} clips, not found: {', '.join(missed) or 'none'}")


if __name__ == "__main__":
    main()
