"""What the motion networks are trained with: values that cannot wander off, two views of the mouth in one, voices with their phonemes."""

from __future__ import annotations

import ctypes.util
from pathlib import Path

import numpy as np
import pytest
from visavis.engine.motion.lips import APERTURE, TOUCH, WIDTH, heard_closed, meet
from visavis.engine.motion.speech import SPEECH_CHANNELS, spread

torch = pytest.importorskip("torch", reason="training needs the extra: pip install 'visavis[train]'")

from visavis.engine.training.data import BODY, MouthRig  # noqa: E402
from visavis.engine.training.motion import foretell  # noqa: E402
from visavis.engine.training.motion_encoder import READ_OUT, hold, load_start  # noqa: E402
from visavis.engine.training.motion_hearing import COUPLING, Experts, SpeechEncoder  # noqa: E402
from visavis.engine.training.motion_nets import MotionNet, Shape  # noqa: E402
from visavis.engine.training.speech_mix import spoken_curve  # noqa: E402
from visavis.engine.training.speech_net import SpeechNet  # noqa: E402

N = len(SPEECH_CHANNELS)


def net_of(values: np.ndarray) -> MotionNet:
    """A network whose scales are those of values (K, T, D)."""
    net = MotionNet(
        Shape(values.shape[-1], 3, 2, width=16, layers=1, heads=2, window=5, head=16, momentum=True)
    )
    flat = torch.from_numpy(values.reshape(-1, values.shape[-1]))
    net.centre.copy_(flat.mean(0))
    net.spread.copy_(flat.std(0))
    foretell(net, values)
    return net


def wandering(rng: np.random.Generator, k: int = 8, n: int = 3000) -> np.ndarray:
    """Values of several kinds (K, T, 4): a smooth sway, a slow one, a rhythm, and one that is constant but for rounding."""
    t = np.arange(n)
    sway, slow = np.zeros((k, n)), np.zeros((k, n))
    for out, pole in ((sway, 0.93), (slow, 0.997)):
        velocity = np.zeros(k)
        for i in range(1, n):
            velocity = 0.85 * velocity + rng.standard_normal(k) * 0.1
            out[:, i] = pole * out[:, i - 1] + velocity
    rhythm = np.sin(t / 16 + rng.uniform(0, 6, (k, 1)))
    fixed = np.repeat(rng.uniform(0, 1, (k, 1)), n, 1) + 1e-4 * rng.standard_normal((k, n))
    return np.stack([sway, slow, rhythm, fixed], -1).astype(np.float32)


def test_what_is_generated_and_what_is_shown_are_inverses() -> None:
    values = wandering(np.random.default_rng(0))
    net = net_of(values)
    x = torch.from_numpy(values[:, :200])
    before, moved = x[:, 1:-1], net.move(x[:, 1:-1], x[:, :-2])
    made = net.generated(x[:, 2:], before, moved)
    torch.testing.assert_close(net.shown(made, before, moved), x[:, 2:], atol=2e-3, rtol=0)


def test_noise_alone_lives_and_never_wanders_off() -> None:
    """An untrained network's worth: white noise through the linear prediction moves like the data, an hour long."""
    values = wandering(np.random.default_rng(1))
    net, n = net_of(values), 90_000
    push = torch.from_numpy(np.random.default_rng(2).standard_normal((n, 4)).astype(np.float32))
    place, moved = net.centre.clone(), torch.zeros(4)
    out = np.zeros((n, 4), np.float32)
    for k in range(n):
        shown = net.shown(push[k], place, moved)
        place, moved = shown, net.move(shown, place)
        out[k] = shown.numpy()
    early, late = out[5000 : n // 2], out[n // 2 :]
    real = values.reshape(-1, 4).std(0)
    assert (late.std(0)[:2] > 0.4 * real[:2]).all() and (late.std(0)[:3] < 2.5 * real[:3]).all()
    assert (np.abs(late.std(0) / early.std(0) - 1)[:3] < 0.5).all()
    assert (np.abs(out - net.centre.numpy()) <= 5.001 * net.spread.numpy()).all()


def test_a_push_that_never_ends_is_held() -> None:
    """A network that always errs to one side shifts a value, but stays where the shift ends."""
    net = net_of(wandering(np.random.default_rng(3)))
    place, moved = net.centre.clone(), torch.zeros(4)
    path = []
    for _ in range(20_000):
        shown = net.shown(torch.full((4,), 0.05), place, moved)
        place, moved = shown, net.move(shown, place)
        path.append(shown.numpy())
    assert np.abs(path[-1] - path[-5000]).max() < 1e-2
    assert np.isfinite(path[-1]).all()


def test_lips_that_meet_meet() -> None:
    rng = np.random.default_rng(0)
    face = rng.uniform(0, 0.6, (200, N)).astype(np.float32)
    open_ones = face @ APERTURE > TOUCH
    shut = meet(face, np.ones(200, np.float32))
    assert open_ones.sum() > 50
    np.testing.assert_allclose((shut @ APERTURE)[open_ones], TOUCH, atol=1e-3)
    np.testing.assert_array_equal(shut[~open_ones], face[~open_ones])
    np.testing.assert_array_equal(meet(face, np.zeros(200, np.float32)), face)
    half = meet(face, np.full(200, 0.5, np.float32)) @ APERTURE
    assert ((half < face @ APERTURE) & (half > TOUCH))[open_ones].all()
    assert heard_closed(np.array([0.0, 1.0])).tolist() == [0, 1]


def test_the_lips_constants_are_those_of_the_rig() -> None:
    rig = MouthRig.load(BODY)
    basis = spread(np.eye(N, dtype=np.float32))
    np.testing.assert_allclose(APERTURE, basis @ rig.aperture, atol=1e-4)
    np.testing.assert_allclose(WIDTH, basis @ rig.width, atol=1e-4)


def test_the_mouth_of_two_networks_has_the_width_of_one_and_both_their_openings() -> None:
    rig = MouthRig.load(BODY)
    both = Experts(SpeechEncoder(32, 16, 0.0), SpeechNet(32, 0.0), rig)
    basis = spread(np.eye(N, dtype=np.float32))
    rng = np.random.default_rng(0)
    ours, first = rng.uniform(0, 1, (2, 1, 5, N)).astype(np.float32)
    mixed = both.mix(torch.from_numpy(ours), torch.from_numpy(first)).numpy()
    aperture, width = basis @ rig.aperture, basis @ rig.width
    np.testing.assert_allclose(mixed @ aperture, (ours @ aperture + first @ aperture) / 2, atol=1e-4)
    np.testing.assert_allclose(mixed @ width, ours @ width + COUPLING * (mixed @ aperture), atol=1e-4)


@pytest.mark.parametrize("kept", ["ear", "mouth"])
def test_an_ear_may_learn_without_its_mouth_and_a_mouth_without_its_ear(kept: str) -> None:
    torch.manual_seed(0)
    net = SpeechEncoder(32, 16, 0.0)
    hold(net, ear=kept == "ear", mouth=kept == "mouth")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.1)
    heard = net(torch.rand(2, 40, 80) * 5, torch.eye(3)[[2, 2]])
    loss = heard.mouth_BTN.square().mean() - torch.log_softmax(heard.phone_BTK, -1)[..., 1].mean()
    (loss + heard.voice_BT.mean()).backward()
    optimiser.step()
    moved = {
        name.split(".")[0] for name, value in net.state_dict().items() if not torch.equal(value, before[name])
    }
    hears = {"conv1", "conv2", "join", "norm", "gru", "mixer", "voice", "phone", "prosody"}
    assert moved == (set(READ_OUT) if kept == "ear" else hears)


def test_a_training_may_begin_with_the_mean_of_two_ears_and_the_mouth_of_a_third(tmp_path: Path) -> None:
    nets = {name: SpeechEncoder(32, 16, 0.0) for name in ("one", "two", "third")}
    for name, net in nets.items():
        torch.save({"ema": net.state_dict()}, tmp_path / f"{name}.pt")
    begun = SpeechEncoder(32, 16, 0.0)
    load_start(begun, f"{tmp_path / 'one.pt'},{tmp_path / 'two.pt'}", str(tmp_path / "third.pt"))
    one, two, third = (nets[name].state_dict() for name in nets)
    for name, value in begun.state_dict().items():
        if name.split(".")[0] in READ_OUT:
            assert torch.equal(value, third[name]), name
        else:
            torch.testing.assert_close(value, (one[name] + two[name]) / 2)


def test_a_short_closure_astride_two_frames_is_not_lost() -> None:
    phones = np.full(100, 15, np.int8)
    phones[7:9] = 1
    said = spoken_curve(phones, 1.0, 25)[:, -1]
    assert (said == 1).sum() == 1 and said[1:3].max() == 15 and 1 in said[1:3]
    phones[20:24] = 1
    assert (spoken_curve(phones, 1.0, 25)[:, -1] == 1).sum() == 2


@pytest.mark.skipif(ctypes.util.find_library("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_says_when_it_says_what() -> None:
    from visavis.engine.training.voices import CLOSED
    from visavis.engine.training.voices_espeak import Espeak

    try:
        espeak = Espeak()
    except SystemExit as error:
        pytest.skip(str(error))
    sound, phones, unknown = espeak.say("a mama papa assa", "en-us+m3", 150, 50)
    level = np.square(sound[: len(phones) * 160].reshape(-1, 160)).mean(1)
    vowels = phones >= 13
    spans = np.flatnonzero(np.diff((phones == CLOSED).astype(int)) == 1)
    assert len(spans) == 4 and not unknown
    assert level[phones == CLOSED].mean() < 0.5 * level[vowels].mean()
    for start in (
        spans[2:] + 1
    ):  # a p is the silence before its burst, which is where the synthesiser announces it
        assert (
            level[start + 1] < 1e-3 * level.max() and 3 <= (phones[start : start + 12] == CLOSED).sum() <= 10
        )
    with pytest.raises(ValueError, match="no voice"):
        espeak.say("a", "xx+nobody", 150, 50)
