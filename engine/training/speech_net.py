"""The network from speech to the face.

Convolutions over the last 12 features (130 ms) and a gated recurrent layer. Look-ahead is a condition, told as a one-hot. How it is
trained: `speech`; how it is exported: `speech_export`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from visavis.engine.audio.mel import N_MELS
from visavis.engine.motion.speech import CONTEXT, MAX_LOOKAHEAD, SPEECH_CHANNELS
from visavis.engine.training.voices import CLASSES


class Ear(nn.Module):
    """What both networks that hear begin with, to be decoded by those who derive from it.

    Shapes: B sequences, T frames, M = N_MELS.
    """

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.conv1 = nn.Conv2d(1, 32, (4, 9), stride=(2, 4), padding=(0, 4))
        self.conv2 = nn.Conv2d(32, 64, (5, 3), stride=(2, 2), padding=(0, 1))
        self.join = nn.Linear(64 * N_MELS // 8 + MAX_LOOKAHEAD + 1, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.mixer = nn.Linear(2 * width, width)

    def encode(self, mel_BNM: Tensor, delay_BD: Tensor) -> Tensor:
        """Features (B, CONTEXT + 4 T, M) -> (B, T, width); frame t sees features up to 4 t + 3."""
        x = (mel_BNM[:, None] - 4.0) / 3.0
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = x.permute(0, 2, 1, 3).flatten(2)
        delay = delay_BD[:, None].expand(-1, x.shape[1], -1)
        return self.norm(F.relu(self.join(torch.cat([self.dropout(x), delay], dim=2))))

    def hear(self, mel_BNM: Tensor, delay_BD: Tensor) -> tuple[Tensor, Tensor]:
        """A whole sequence after silence: encoded features and the recurrent layer's (B, T, width each)."""
        context = mel_BNM.new_zeros(len(mel_BNM), CONTEXT, mel_BNM.shape[2])
        encoded = self.encode(torch.cat([context, mel_BNM], dim=1), delay_BD)
        return encoded, self.gru(encoded)[0]

    def mix(self, encoded: Tensor, recurrent: Tensor) -> Tensor:
        """Both together (B, T, width), for what reads them."""
        return F.relu(self.mixer(self.dropout(torch.cat([encoded, recurrent], dim=2))))


class SpeechNet(Ear):
    """Log-mel features of video frames -> speech channels and whether somebody speaks.

    Shapes: B sequences, T frames, M = N_MELS, C = len(SPEECH_CHANNELS).
    """

    def __init__(self, width: int = 256, dropout: float = 0.3) -> None:
        super().__init__(width, dropout)
        self.face = nn.Linear(width, len(SPEECH_CHANNELS))
        self.voice = nn.Linear(width, 1)
        self.phone = nn.Linear(width, len(CLASSES))  # for training only
        self.register_buffer("gain", torch.ones(len(SPEECH_CHANNELS)))

    def decode(self, encoded: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> channels (B, T, C), voice logit (B, T), logits of phoneme classes (B, T, K)."""
        x = self.mix(encoded, recurrent)
        return self.face(self.dropout(x)), self.voice(x)[..., 0], self.phone(x)

    def forward(self, mel_BNM: Tensor, delay_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A whole sequence after silence."""
        return self.decode(*self.hear(mel_BNM, delay_BD))
