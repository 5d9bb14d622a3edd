"""The session: sound and image stay together, whatever the pace at which speech comes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import sentence
from visavis.engine.audio.pace import LivePace
from visavis.engine.errors import AudioError, QueueFullError
from visavis.engine.motion.channels import INDEX, zero_motion
from visavis.engine.session import LIVE_BACKLOG, LIVE_LIMIT, Frame, Session, render_offline
from visavis.engine.timing import PLAYBACK_RATE, SAMPLE_RATE, SAMPLES_PER_FRAME

JAW = INDEX["jawOpen"]


class LevelSource:
    """A stage 1 that opens the jaw with the loudness of the frame: shows which sound a motion belongs to."""

    def __init__(self, lookahead: int = 2) -> None:
        self.lookahead = lookahead
        self.levels = [0.0] * (lookahead + 1)
        self.calls: list[int] = []

    def step(self, heard: np.ndarray) -> np.ndarray:
        self.calls.append(len(heard))
        for block in heard:
            assert block.shape == (SAMPLES_PER_FRAME,)
            self.levels = [*self.levels[1:], float(np.abs(block).mean())]
        motion = zero_motion()
        motion[JAW] = self.levels[0] if len(heard) else 0
        return motion

    def hush(self) -> None:
        self.levels = [0.0] * (self.lookahead + 1)


class Drawing:
    """A renderer whose picture is as bright as the jaw is open."""

    def render(self, motion: np.ndarray) -> np.ndarray:
        return np.full((4, 4, 3), int(255 * min(1.0, motion[JAW])), np.uint8)


def make(lookahead: int = 2, **more: float) -> Session:
    return Session(None, renderer=Drawing(), source=LevelSource(lookahead), **more)


def noise(n: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).uniform(-0.5, 0.5, n)).astype(np.float32)


def played(frames: list[Frame]) -> np.ndarray:
    return np.concatenate([frame.audio for frame in frames])


def smooth(n: int, rate: int, seed: int = 0) -> np.ndarray:
    """A random signal below 3 kHz, the same at every rate."""
    rng = np.random.default_rng(seed)
    time = np.arange(n) / rate
    out = np.zeros(n)
    for frequency, phase in zip(rng.uniform(80, 3000, 30), rng.uniform(0, 6, 30), strict=True):
        out += np.sin(2 * np.pi * frequency * time + phase)
    return (out / 24).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize("lookahead", [0, 2])
def test_sound_leaves_with_its_frame_to_the_sample(rate: int, lookahead: int) -> None:
    session = make(lookahead)
    session.push_audio(smooth(rate, rate), rate)
    session.commit()
    frames = list(session.frames(30))
    first = next(frame.index for frame in frames if frame.speech_index == 0)
    assert first == 0
    got = played(frames[first : first + 25]) / 32768
    want = smooth(PLAYBACK_RATE, PLAYBACK_RATE)
    spectrum = np.fft.rfft(got, 1 << 17) * np.conj(np.fft.rfft(want, 1 << 17))
    assert int(np.fft.irfft(spectrum).argmax()) == 0
    np.testing.assert_allclose(got[500:-500], want[500:-500], atol=2e-3)
    assert [frame.speech_index for frame in frames] == [*range(25), *[None] * 5]


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_image_and_sound_of_a_frame_belong_together(lookahead: int) -> None:
    sound = np.repeat(np.linspace(0.02, 0.9, 20), SAMPLES_PER_FRAME).astype(np.float32)
    session = make(lookahead)
    idle = list(session.frames(3))
    assert all(frame.speech_index is None and not frame.speaking and not frame.audio.any() for frame in idle)
    session.push_audio(sound, SAMPLE_RATE)
    session.commit()
    for frame in session.frames(20):
        assert frame.speaking and frame.speech_index is not None
        level = float(np.abs(sound.reshape(20, -1)[frame.speech_index]).mean())
        assert frame.motion[JAW] == pytest.approx(level, abs=1e-4)
        assert np.median(frame.audio) / 32768 == pytest.approx(level, abs=2e-3)
    after = session.step()
    assert not after.speaking and after.speech_index is None and after.motion[JAW] == 0


def stream(cuts: list[int], sound: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    session = make()
    blocks = np.split(sound, sorted(min(cut, len(sound)) for cut in cuts))
    for block in blocks:
        session.push_audio(block, rate)
    session.commit()
    n = -(-len(sound) * 25 // rate)
    frames = list(session.frames(n + 2))
    return played(frames), np.stack([frame.motion for frame in frames])


@given(
    cuts=st.lists(st.integers(0, 20_000), max_size=30),
    rate=st.sampled_from([8000, 16000, 22050, 44100]),
    n=st.integers(1, 20_000),
)
@settings(max_examples=30, deadline=None)
def test_pushing_in_pieces_is_pushing_at_once(cuts: list[int], rate: int, n: int) -> None:
    sound = noise(n)
    whole, pieces = stream([], sound, rate), stream(cuts, sound, rate)
    np.testing.assert_array_equal(whole[0], pieces[0])
    np.testing.assert_array_equal(whole[1], pieces[1])


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_nothing_is_lost_or_reordered_at_any_pace(data: st.DataObject) -> None:
    session = make(data.draw(st.sampled_from([0, 1, 2])))
    pushed, shown = 0, []
    for _ in range(data.draw(st.integers(1, 40))):
        n = data.draw(st.integers(0, 2000))
        session.push_audio(np.full(n, 0.25, np.float32), SAMPLE_RATE)
        pushed += n
        shown += list(session.frames(data.draw(st.integers(0, 3))))
    session.commit()
    for _ in range(4000):
        if not session.queued_seconds:
            break
        shown.append(session.step())
    assert session.queued_seconds == 0
    indices = [frame.speech_index for frame in shown if frame.speech_index is not None]
    assert indices == list(range(len(indices)))
    loud = int((np.abs(played([*shown, session.step()])) > 8000).sum())
    assert abs(loud - 3 * pushed) <= 60 * (1 + len(indices))  # but for the filter's ringing at each flush
    assert [frame.index for frame in shown] == list(range(len(shown)))


def test_speech_starts_when_its_look_ahead_is_there() -> None:
    session = make(2)
    sound = np.full(SAMPLES_PER_FRAME, 0.5, np.float32)
    session.push_audio(sound, SAMPLE_RATE)
    assert session.step().speech_index is None
    session.push_audio(sound, SAMPLE_RATE)
    assert session.step().speech_index is None
    session.push_audio(sound, SAMPLE_RATE)
    frame = session.step()
    assert frame.speech_index == 0 and frame.motion[JAW] == pytest.approx(0.5, abs=1e-3)


def test_underrun_waits_two_steps_then_plays_the_rest() -> None:
    session = make(2)
    session.push_audio(np.full(SAMPLES_PER_FRAME * 4 + 100, 0.5, np.float32), SAMPLE_RATE)
    shown = [frame.speech_index for frame in session.frames(10)]
    assert shown == [0, 1, None, None, 2, 3, 4, None, None, None]


def test_a_short_word_without_commit_is_spoken() -> None:
    session = make(2)
    session.push_audio(np.full(300, 0.5, np.float32), SAMPLE_RATE)
    frames = list(session.frames(5))
    spoken = [frame for frame in frames if frame.speech_index == 0]
    assert len(spoken) == 1 and spoken[0].index == 2
    assert abs(int((spoken[0].audio > 8000).sum()) - 900) <= 60


def test_speech_that_comes_in_time_is_never_interrupted() -> None:
    session = make(2)
    sound = noise(SAMPLES_PER_FRAME * 50)
    shown = []
    for k in range(50):
        session.push_audio(sound[k * SAMPLES_PER_FRAME : (k + 1) * SAMPLES_PER_FRAME], SAMPLE_RATE)
        shown.append(session.step().speech_index)
    assert shown == [None, None, *range(48)]


def test_two_utterances_follow_each_other() -> None:
    session = make(2)
    for _ in range(2):
        session.push_audio(np.full(1000, 0.5, np.float32), SAMPLE_RATE)
        session.commit()
    assert [frame.speech_index for frame in session.frames(6)] == [0, 1, 2, 3, None, None]


def test_clear_drops_all_and_counts_it() -> None:
    session = make(2)
    session.push_audio(noise(16_000 + 123), SAMPLE_RATE)
    frames = list(session.frames(5))
    assert frames[-1].speech_index == 4
    assert session.clear() == 16_000 + 123 - 5 * SAMPLES_PER_FRAME
    after = session.step()
    assert (
        after.speech_index is None and not after.speaking and not after.audio.any() and after.motion[JAW] == 0
    )
    assert session.queued_seconds == 0 and session.clear() == 0
    session.push_audio(noise(6400), SAMPLE_RATE)
    session.commit()
    assert session.step().speech_index == 25  # 25 whole frames came before; the cut one never got a number


def test_queue_full_takes_nothing() -> None:
    session = make(2, max_queue_s=1.0)
    session.push_audio(noise(12_000), SAMPLE_RATE)
    waiting = session.queued_seconds
    with pytest.raises(QueueFullError, match=r"1\.0 s"):
        session.push_audio(noise(8_000), SAMPLE_RATE)
    assert session.queued_seconds == waiting == 0.75
    session.push_audio(noise(4_000), SAMPLE_RATE)
    assert session.queued_seconds == 1.0


def test_live_backlog_is_cut_back_in_its_silences() -> None:
    session = make(2)
    speech = sentence(1.0)[: SAMPLES_PER_FRAME * 5]
    silence = np.zeros(SAMPLES_PER_FRAME * 15, np.float32)
    session.push_audio(np.concatenate([speech, silence, speech]), SAMPLE_RATE, live=True)
    waiting = round(session.queued_seconds * 25)
    assert 10 <= waiting < 25, "the silence went, the speech stayed"
    session.commit()
    got = played(list(session.frames(waiting)))
    assert (np.abs(got.reshape(-1, 1920)).max(axis=1) > 500).sum() == 10


def test_live_backlog_never_exceeds_a_second() -> None:
    session = make(2)
    for _ in range(40):
        session.push_audio(sentence(0.2), SAMPLE_RATE, live=True)
        assert session.queued_seconds * 25 <= LIVE_LIMIT + 3
    session.push_audio(np.zeros(SAMPLE_RATE * 100, np.float32), SAMPLE_RATE, live=True)
    assert session.queued_seconds * 25 <= LIVE_LIMIT + 3
    quiet = make(2)
    quiet.push_audio(np.zeros(SAMPLE_RATE * 5, np.float32), SAMPLE_RATE, live=True)
    assert quiet.queued_seconds * 25 <= LIVE_BACKLOG


@pytest.mark.parametrize("phase_ms", [0, 7, 19, 39])
@pytest.mark.parametrize("burst", [0, 1, 3])
@pytest.mark.parametrize("block_ms", [10, 20])
def test_what_a_live_source_leaves_over_is_taken_out_of_its_silences(
    phase_ms: int, burst: int, block_ms: int
) -> None:
    """Blocks of 10 or 20 ms, unevenly, beside a clock of 40 ms; early on some come ahead of their time."""
    session, rng = make(2), np.random.default_rng(phase_ms)
    standing, held, sent = [], 0, 0
    for k in range(600):
        ahead = burst if k > 40 else 0
        while block_ms * sent < 23_800 and phase_ms + block_ms * (sent - ahead) + rng.uniform(0, 4) <= 40 * k:
            n = 48 * block_ms
            loud = block_ms * sent // 500 % 2 == 0  # half a second of speech, then of silence, in turn
            session.push_audio(noise(n) if loud else np.zeros(n, np.float32), 48_000, live=True)
            sent += 1
        frame = session.step()
        standing.append(session.queued_seconds - 2 * 0.04)
        held += k > 100 and frame.speech_index is None
    assert np.median(standing[300:590]) <= 0.030, "at most a packet and the margin"
    assert held <= 6, "what is needed stays"


def test_a_cut_leaves_no_click() -> None:
    pace = LivePace()
    for _ in range(60):
        pace.step(0.05)
    hum = (0.003 * np.sin(np.arange(480) * 2 * np.pi * 100 / 24_000)).astype(np.float32)
    cut = pace.shorten(hum, 24_000)
    assert len(cut) < len(hum) and np.abs(np.diff(cut)).max() < 3 * np.abs(np.diff(hum)).max()
    loud = 100 * hum
    assert pace.shorten(loud, 24_000) is loud, "speech is not shortened"


def test_the_video_network_can_rest_and_begins_anew() -> None:
    class Network:
        painted = resets = 0

        def render(self, image: np.ndarray, motion: np.ndarray) -> np.ndarray:
            self.painted += 1
            return image

        def reset(self) -> None:
            self.resets += 1

    session, network = make(0), Network()
    assert session.reduced, "there is none"
    session._generator = network  # type: ignore[assignment]
    assert not session.reduced
    session.step()
    session.reduced = True
    session.step()
    assert (network.painted, network.resets) == (1, 0)
    session.reduced = False
    session.step()
    assert (network.painted, network.resets) == (2, 1)


def test_memory_does_not_grow() -> None:
    import tracemalloc

    session = make(2)
    sound = noise(SAMPLES_PER_FRAME)
    session._source.calls = _Forgetful()  # type: ignore[attr-defined]

    def run(frames: int) -> int:
        for _ in range(frames):
            session.push_audio(sound, SAMPLE_RATE, live=True)
            session.step()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early = run(300)
        late = run(3000)
    finally:
        tracemalloc.stop()
    assert late - early < 200_000
    assert session.queued_seconds < 0.3


class _Forgetful(list[int]):
    def append(self, item: int) -> None:
        pass


@pytest.mark.parametrize(
    ("pcm", "rate"),
    [
        (np.zeros(640, np.float64), 16000),
        (np.zeros((640, 5), np.int16), 16000),
        (np.zeros(640, np.int16), 4000),
        (np.zeros(640, np.int16), 96000),
        (np.array([np.nan], np.float32), 16000),
        (b"\0\0", 16000),
    ],
)
def test_bad_sound_is_refused_and_changes_nothing(pcm: object, rate: int) -> None:
    session = make()
    session.push_audio(noise(700), SAMPLE_RATE)
    with pytest.raises(AudioError):
        session.push_audio(pcm, rate)  # type: ignore[arg-type]
    assert session.queued_seconds == 700 / SAMPLE_RATE


def test_a_change_of_rate_ends_the_utterance() -> None:
    session = make()
    session.push_audio(np.full(8000, 0.5, np.float32), 8000)
    session.push_audio(np.full((24_000, 2), 0.5, np.float32), 48_000)
    assert session.queued_seconds == pytest.approx(1.5, abs=0.001)


@pytest.mark.parametrize(("n", "rate"), [(16_000, 16_000), (1, 16_000), (44_100 * 3 + 7, 44_100), (0, 8000)])
def test_offline_is_exactly_as_long_as_the_sound(n: int, rate: int) -> None:
    sound = smooth(n, rate) if n else np.zeros(0, np.float32)
    frames = list(render_offline(None, sound, rate, renderer=Drawing(), source=LevelSource()))
    assert len(frames) == -(-n * 25 // rate)
    assert [frame.speech_index for frame in frames] == list(range(len(frames)))


def test_a_closed_session_says_so() -> None:
    session = make()
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.step()
    with pytest.raises(RuntimeError, match="closed"):
        session.push_audio(noise(10), SAMPLE_RATE)


def test_half_the_frame_rate_draws_every_second_frame_and_moves_on_as_ever(avatar):
    whole, half = Session(avatar, generator_steps=0), Session(avatar, generator_steps=0)
    half.halved = True
    speech = (np.sin(np.arange(16000) / 9) * 9000).astype(np.int16)
    for session in (whole, half):
        session.push_audio(speech, 16000)
    shown = None
    for k in range(20):
        if k == 12:
            half.halved = False
        expected, frame = whole.step(), half.step()
        assert frame.repeated == (k < 12 and k % 2 == 1)
        np.testing.assert_array_equal(frame.motion, expected.motion)
        np.testing.assert_array_equal(frame.audio, expected.audio)
        np.testing.assert_array_equal(frame.image, shown if frame.repeated else expected.image)
        shown = frame.image
    whole.close()
    half.close()
