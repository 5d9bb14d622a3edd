"""The speech encoder's networks: what is said, by whomever, and the mean of what a mouth does at it.

Phoneme posteriors and a few prosodic values are a bottleneck that the mouth hangs on, since film of one man teaches his lips, not
everybody's; how they are trained: `motion_encoder`. Axes: B sequences, T frames, N speech channels, K classes of phonemes, P prosodic values.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from visavis.engine.motion.layout import PROSODY
from visavis.engine.motion.speech import SPEECH_CHANNELS, spread
from visavis.engine.training.data import BODY, MouthRig
from visavis.engine.training.speech_net import Ear, SpeechNet
from visavis.engine.training.voices import CLASSES

N = len(SPEECH_CHANNELS)


@dataclass
class Heard:
    """What the encoder says of each frame: B sequences, T frames."""

    mouth_BTN: Tensor
    """Mean of the speech channels."""
    voice_BT: Tensor
    """Logit of somebody speaking."""
    phone_BTK: Tensor
    """Logits of the classes of phonemes."""
    prosody_BTP: Tensor


class SpeechEncoder(Ear):
    """Log-mel features of video frames -> phonemes, prosody, voice, mean mouth."""

    def __init__(self, width: int = 256, tail: int = 96, dropout: float = 0.3) -> None:
        super().__init__(width, dropout)
        self.tail_width = tail
        self.voice = nn.Linear(width, 1)
        self.phone = nn.Linear(width, len(CLASSES))
        self.prosody = nn.Linear(width, PROSODY)
        self.tail = nn.GRU(len(CLASSES) + 1 + PROSODY, tail, batch_first=True)
        self.spoken = nn.Linear(tail, N)
        self.sounded = nn.Linear(width, N)
        self.register_buffer("gain", torch.ones(N))

    def read(self, encoded: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """-> inner features, voice, phone, prosody, input of the tail."""
        x = self.dropout(self.mix(encoded, recurrent))
        voice, phone, prosody = self.voice(x), self.phone(x), torch.tanh(self.prosody(x))
        told = torch.cat([torch.softmax(phone, -1), torch.sigmoid(voice), prosody], dim=2)
        return x, voice[..., 0], phone, prosody, told

    def mouth(self, x: Tensor, tail: Tensor, straight: Tensor | float = 1.0) -> Tensor:
        """Mean mouth (B, T, N); `straight` (B, 1, 1) switches the way past the phonemes off."""
        return self.spoken(tail) + straight * self.sounded(x)

    def forward(
        self, mel_BNM: Tensor, delay_BD: Tensor, straight: Tensor | float = 1.0, film_trunk: bool = True
    ) -> Heard:
        """A whole sequence after silence; without `film_trunk` the mouth sends no gradient to what is heard."""
        x, voice, phone, prosody, told = self.read(*self.hear(mel_BNM, delay_BD))
        if not film_trunk:
            x, told = x.detach(), told.detach()
        return Heard(self.mouth(x, self.tail(told)[0], straight), voice, phone, prosody)


FIRST_SHARE = 0.5
"""How much of the mean mouth is the first network's; the width is the encoder's alone."""
COUPLING = 0.07
"""By how much more the mouth widens as it opens than the networks say: they learned it from one man (slope 0.06), nine other speakers'
mean is 0.12, and the networks give 0.05 for speakers they do not know."""


class Experts(nn.Module):
    """Two views of the mean mouth in one: the first network reads it off the sound, the encoder off phonemes. Their errors differ, so
    their mean is better than either (see the card)."""

    def __init__(self, encoder: SpeechEncoder, first: SpeechNet, rig: MouthRig) -> None:
        super().__init__()
        self.encoder, self.first = encoder, first
        basis = spread(np.eye(N, dtype=np.float32))
        aperture, width = basis @ rig.aperture, basis @ rig.width
        # Along this direction the width changes and the aperture does not.
        along = width - aperture * (aperture @ width) / (aperture @ aperture)
        along /= width @ along
        share = FIRST_SHARE * np.outer(width, along) + (1 - FIRST_SHARE) * np.eye(N)
        self.register_buffer("share", torch.from_numpy(share).float())
        self.register_buffer("couple", torch.from_numpy(COUPLING * np.outer(aperture, along)).float())

    def mix(self, ours_BTN: Tensor, first_BTN: Tensor) -> Tensor:
        """Mean mouths of both -> the one."""
        mouth = first_BTN + (ours_BTN - first_BTN) @ self.share
        return mouth + mouth @ self.couple

    def forward(self, mel_BNM: Tensor, delay_BD: Tensor) -> Heard:
        """As the encoder's, gains applied."""
        heard = self.encoder(mel_BNM, delay_BD)
        face, voice, _ = self.first(mel_BNM, delay_BD)
        heard.mouth_BTN = self.mix(heard.mouth_BTN * self.encoder.gain, face * self.first.gain)
        heard.voice_BT = voice  # the first network's takes fewer noises for speech
        return heard


def load_experts(path: Path, first_path: Path) -> Experts:
    """The encoder of a final.pt or checkpoint.pt of this module beside the network of `training.speech`'s final.pt."""
    saved = torch.load(path, weights_only=True)
    encoder = SpeechEncoder(saved["settings"]["width"], saved["settings"]["tail"], 0.0)
    encoder.load_state_dict(saved["ema"])
    if not saved["settings"].get("straight", 0.5):  # a way that was not trained
        nn.init.zeros_(encoder.sounded.weight)
        nn.init.zeros_(encoder.sounded.bias)
    saved = torch.load(first_path, weights_only=True)
    first = SpeechNet(saved["settings"]["width"], 0.0)
    first.load_state_dict(saved["ema"])
    return Experts(encoder, first, MouthRig.load(BODY)).eval()
