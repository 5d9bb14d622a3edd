"""Sessions advanced together are the sessions that they are alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sounds import sentence
from visavis.engine.batch import Batch, BatchFullError
from visavis.engine.motion.diffusion import Controls
from visavis.engine.session import Frame, Session


class Drawing:
    """A picture that tells which motion it shows."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def render(self, motion: Any) -> Any:
        if self.broken:
            raise ValueError("no picture")
        return np.repeat(np.uint8(np.clip(motion * 255, 0, 255))[None, :, None], 3, 2)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_batch_gives_what_each_gives_alone(threads: int) -> None:
    """Speech that begins at different times, a session that sits out, barge-in, controls, a slot used again."""
    batch = Batch(3, lookahead=1, threads=threads)
    pairs = {
        batch.open(None, seed=k, renderer=Drawing()): Session(None, seed=k, lookahead=1, renderer=Drawing())
        for k in (4, 5, 6)
    }
    with pytest.raises(BatchFullError, match="all 3 slots"):
        batch.open(None, renderer=Drawing())
    together = list(pairs)

    def tick(sessions: list[Session]) -> None:
        for session, got in batch.tick(sessions).items():
            want = pairs[session].step()
            assert isinstance(got, Frame)
            np.testing.assert_allclose(got.motion, want.motion, atol=2e-5)
            assert (got.index, got.speech_index, got.speaking) == (
                want.index,
                want.speech_index,
                want.speaking,
            )
            np.testing.assert_array_equal(got.audio, want.audio)
            assert got.image.shape == want.image.shape

    for k in range(14):
        if k in (1, 3):
            for session in (together[k // 2], pairs[together[k // 2]]):
                session.push_audio(sentence(0.5), 16000)
        if k == 8:
            for session in (together[0], pairs[together[0]]):
                session.clear()
                session.controls = Controls(1.5, 0.3, (0.2, 0.1), "warm")
        tick(together if k % 3 else together[:2])
    batch.close(together[1])
    assert len(batch) == 2
    again = batch.open(None, seed=9, renderer=Drawing())
    pairs[again] = Session(None, seed=9, lookahead=1, renderer=Drawing())
    tick([again, together[0]])
    alone = again.step()  # by itself it goes on as well
    np.testing.assert_allclose(alone.motion, pairs[again].step().motion, atol=2e-5)
    batch.close()
    assert len(batch) == 0


def test_an_error_of_one_session_is_its_own() -> None:
    batch = Batch(3)
    good, bad, closed = (batch.open(None, seed=k, renderer=Drawing(k == 1)) for k in range(3))
    closed.close()
    out = batch.tick()
    assert isinstance(out[good], Frame) and isinstance(out[bad], ValueError)
    assert isinstance(out[closed], RuntimeError)
