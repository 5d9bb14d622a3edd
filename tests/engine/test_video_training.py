"""Training of stage 2 on pictures made here; needs torch (the extra `train`)."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs the extra: pip install 'visavis[train]'")

from visavis.engine.training.video import (  # noqa: E402
    PRICE_FAR,
    PRICE_NEAR,
    Both,
    Options,
    encode,
    euler,
    mask_price,
    rollout_step,
    run,
    schedule,
    start_history,
)
from visavis.engine.training.video_loader import WINDOW, Batch, Loader, Variety  # noqa: E402
from visavis.engine.training.video_losses import texture  # noqa: E402
from visavis.engine.training.video_model import PATCH, SHUT, VideoConfig, VideoNet, softened  # noqa: E402

SMALL = VideoConfig("small", (8, 16, 32), (1, 1, 1), (1, 1), 1, 2, 2, 8, 1)


def awake(net: VideoNet) -> VideoNet:
    """Residual branches start at zero: random weights in their place let everything act."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.abs().max() == 0:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return net


def batch(clips: int = 2, frames: int = 3, side: int = 64, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)

    def draw(channels: int) -> Any:
        return torch.rand(clips * frames, channels, side, side, generator=g)

    photo = draw(3)[::frames].repeat_interleave(frames, 0)
    photo_masks = draw(4)[::frames].repeat_interleave(frames, 0)
    photo_position = draw(3)[::frames].repeat_interleave(frames, 0)
    return Batch(
        draw(3), draw(3), draw(4).round(), draw(3), photo, photo_masks, photo_position,
        torch.full((clips * frames, 2), -0.5), torch.ones(clips * frames, 1, side, side),
        torch.full((clips * frames, 2), side / 2), (torch.arange(clips * frames) % frames > 0).float(), frames,
    )  # fmt: skip


def test_a_clip_at_once_is_the_clip_frame_by_frame() -> None:
    torch.manual_seed(0)
    net, data = awake(VideoNet(SMALL)).eval(), batch(clips=1, frames=4)
    history = start_history(data)
    with torch.no_grad():
        whole, _ = encode(net, data, history)
        photo = net.photo(data.photo[:1], data.photo_masks[:1], data.photo_position[:1], data.origin[:1])
        ring = photo[:, :, None].expand(-1, -1, SMALL.window, -1, -1)
        for k in range(4):
            one = slice(k, k + 1)
            features, keys = net.frame(
                data.warp[one],
                history[one],
                data.masks[one],
                data.position[one],
                data.origin[one],
                photo,
                ring,
            )
            ring = torch.cat([ring[:, :, 1:], keys[:, :, None]], 2)
            assert torch.allclose(features, whole[one], atol=1e-5)
    assert float((whole[1:] - whole[:-1]).abs().max()) > 1e-3


def test_replacing_plain_skin_costs_more_than_the_mouth() -> None:
    data = batch(side=64)
    masks = torch.zeros_like(data.masks)
    masks[:, 3] = 1
    masks[:, 3, :8] = 0  # the photo does not show the uppermost rows
    weight = torch.ones_like(data.weight)
    weight[:, :, 40:50, 20:40] = 6
    weight[:, :, 52:60, 20:40] = 0
    price = mask_price(dataclasses.replace(data, masks=masks, weight=weight))
    assert price.shape == weight.shape
    assert torch.allclose(price[:, :, 40:50, 20:40], torch.tensor(PRICE_NEAR))
    assert not price[:, :, 52:60, 20:40].any(), "a price where nothing is asked for would teach to stay away"
    assert torch.allclose(price[:, :, :11], torch.tensor(PRICE_NEAR))
    assert torch.allclose(price[:, :, 12:40], torch.tensor(PRICE_FAR)) and PRICE_FAR > PRICE_NEAR


def test_mixed_precision_trains_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, data = awake(VideoNet(SMALL)), batch()
    with torch.autocast("cpu", torch.bfloat16):
        half, _, _ = Both(net)(data, start_history(data), data.target, torch.zeros(len(data.target)), 1)
    whole, _, _ = Both(net)(data, start_history(data), data.target, torch.zeros(len(data.target)), 1)
    assert 0 < float((half - whole).detach().abs().mean()) < 0.02


def test_an_untrained_network_gives_the_warp() -> None:
    net, data = VideoNet(SMALL), batch()
    with torch.no_grad():
        features, _ = encode(net, data, start_history(data))
        frame, _, _ = euler(net, features, data.warp, torch.randn(data.target.shape), schedule(2))
    # gates start at a twentieth, not shut: they must learn
    assert torch.allclose(frame, data.warp, atol=2e-3)


def test_softening_takes_the_details_of_the_warp_and_nothing_else() -> None:
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 1  # teeth and the gaps between them
    soft = softened(stripes)
    assert soft.shape == stripes.shape and torch.allclose(soft[..., 8:-8], torch.tensor(0.5), atol=0.03)
    assert torch.allclose(softened(torch.full((1, 3, 64, 64), 0.3)), torch.tensor(0.3))
    net, data = awake(VideoNet(SMALL)), batch(1, 1)
    with torch.no_grad():
        net.step.leave.weight.zero_()
        net.step.leave.bias.fill_(20.0)  # both gates open
        net.step.leave.bias[: 3 * PATCH**2] = 0.0  # no colour of its own
        features, _ = encode(net, data, start_history(data))
        frame, _, _ = euler(net, features, data.warp, torch.randn(data.target.shape), schedule(1))
    assert torch.allclose(frame, softened(data.warp), atol=1e-5)


def test_weights_from_before_softening_load_as_a_network_that_does_not_soften() -> None:
    net = awake(VideoNet(SMALL))
    with torch.no_grad():
        net.step.leave.weight[4 * PATCH**2 :] = 0
        net.step.leave.bias[4 * PATCH**2 :] = SHUT
    old = net.state_dict()
    old["step.leave.weight"] = old["step.leave.weight"][: 4 * PATCH**2]
    old["step.leave.bias"] = old["step.leave.bias"][: 4 * PATCH**2]
    fresh = VideoNet(SMALL)
    fresh.load_state_dict(old)
    for one, other in zip(net.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)


def test_rollouts_send_gradients_to_every_network() -> None:
    from visavis.engine.training.video import Options

    net = awake(VideoNet(SMALL))
    options = Options("rollout", Path(), 1, 2, 3, 1e-3, 0.0, 0.0, 2)
    loss, _ = rollout_step(net, batch(), None, options)
    loss.backward()
    for part in (net.photo, net.frame, net.step):
        assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in part.parameters())


def shards(root: Path) -> None:
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    n, side = 8, 256
    part = np.zeros((n, side, side), np.uint8)
    part[:, 60:220, 70:190] = 1
    part[:, 170:180, 110:150] = 5
    picture = rng.integers(0, 255, (n, 16, 16, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    np.savez(
        root / "a.npz", target=picture, warp=np.roll(picture, 3, 1), part=part, coverage=(part > 0).astype(np.uint8) * 255,
        position=picture, photo=picture[0], photo_part=part[0], photo_position=picture[0], scale=np.float32(1),
        speaker="a", clip="c", frame=np.arange(n),
    )  # fmt: skip


def test_loader_windows_hold_what_they_say(tmp_path: Path) -> None:
    shards(tmp_path / "set")
    loader = Loader(tmp_path, {"set": 1.0}, clips=3, frames=2, augment=False)
    for whole in (0.0, 1.0):
        drawn = loader.batch(whole)
        side = 256 if whole else WINDOW
        assert drawn.target.shape[1:] == (3, side, side)
        x, y = drawn.mouth[0].tolist()
        if whole or (
            8 < x < WINDOW - 8 and 8 < y < WINDOW - 8
        ):  # the mask of the mouth is where the mouth is said to be
            assert float(drawn.masks[0, 0, int(y), int(x)]) == 1
        corner = ((drawn.origin[0] + 1) * 128).round().to(int).tolist()
        assert all(value % 16 == 0 for value in corner)


def test_mouths_that_are_not_to_be_believed_weigh_nothing(tmp_path: Path) -> None:
    shards(tmp_path / "set")
    kept, left = (
        Loader(tmp_path, {"set": 1.0}, clips=2, frames=2, augment=False, mouthless=sets).batch(1.0)
        for sets in ((), ("set",))
    )
    inside = kept.masks[:, :1] > 0
    assert float(kept.weight[inside].min()) > 10 and float(left.weight[inside].max()) == 0
    far = torch.nn.functional.max_pool2d(inside.float(), 41, 1, 20) == 0
    assert torch.equal(kept.weight[far], left.weight[far]) and float(left.weight[far].min()) >= 1


def _plain(**changes: float) -> Variety:
    """What is filmed as it is, but for the named."""
    return dataclasses.replace(
        Variety(light=0.0, less_colour=0.0, elsewhere=0.0, shape=0.0, mixed=0.0), **changes
    )


def test_a_face_of_another_shape_is_so_in_every_picture_of_a_clip(tmp_path: Path) -> None:
    """Target, warp, photo and labels are bent alike: what lay on each other still does, and the mouth is where its mask is."""
    shards(tmp_path / "set")
    with np.load(tmp_path / "set/a.npz") as data:
        arrays = {name: data[name] for name in data.files}
    same = np.repeat(arrays["target"][:1], len(arrays["target"]), 0)
    same[:, 170:180, 110:150] = 255  # the mouth, white
    np.savez(tmp_path / "set/a.npz", **{**arrays, "target": same, "warp": same, "photo": same[0]})
    plain = Loader(tmp_path, {"set": 1.0}, clips=1, frames=2, seed=4, variety=_plain()).batch(1.0)
    drawn = Loader(tmp_path, {"set": 1.0}, clips=1, frames=2, seed=4, variety=_plain(shape=1.0)).batch(1.0)
    assert torch.equal(drawn.target, drawn.warp) and torch.equal(drawn.target, drawn.photo)
    assert float((drawn.target - plain.target).abs().mean()) > 0.02, "it has another shape"
    inside = torch.nn.functional.max_pool2d(-drawn.masks[:, :1], 3, 1, 1) == -1  # a pixel from its rim
    assert inside.sum() > 100 and float(drawn.target[inside.expand_as(drawn.target)].min()) > 0.95
    assert set(drawn.masks[:, :3].unique().tolist()) <= {0.0, 1.0}, "labels have nothing in between"


def test_clips_laid_over_each_other_are_so_throughout(tmp_path: Path) -> None:
    shards(tmp_path / "set")
    for seed in range(4):
        apart, laid = (
            Loader(tmp_path, {"set": 1.0}, clips=2, frames=1, seed=seed, variety=_plain(mixed=mixed)).batch(
                0.0
            )
            for mixed in (1e-9, 1.0)
        )
        first = apart.target.flatten(1)
        change = laid.target.flatten(1) - first
        towards = first.flip(0) - first
        share = (change * towards).sum(1) / towards.square().sum(1).clamp_min(1e-9)
        assert float(share.min()) >= -1e-6 and float(share.max()) <= 0.5 + 1e-6, (
            "the clip itself is most of it"
        )
        for name in ("target", "warp", "masks", "position", "photo", "photo_masks", "photo_position"):
            own = getattr(apart, name)
            expected = own + share[:, None, None, None] * (own.flip(0) - own)
            assert torch.allclose(getattr(laid, name), expected, atol=1e-5), name


def test_texture_counts_details_and_not_where_they_lie() -> None:
    generator = torch.Generator().manual_seed(1)
    real = torch.rand(1, 3, 48, 48, generator=generator)
    weight = torch.ones(1, 1, 48, 48)
    shifted, soft = real.roll(1, 3), torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    assert float(texture(real, real, weight)) == 0
    assert float(texture(shifted, real, weight)) < 0.3 * float(texture(soft, real, weight))
    assert float((shifted - real).abs().mean()) > float((soft - real).abs().mean()), "unlike L1"


def test_a_shut_gate_is_opened_where_all_is_to_be_painted(tmp_path: Path) -> None:
    """Behind a gate that is shut nothing is learned, be the colour right or not: sets to be painted throughout pull at it."""
    shards(tmp_path / "set")
    grown = []
    for painted in ((), ("set",)):
        data = Loader(
            tmp_path, {"set": 1.0}, clips=2, frames=2, seed=3, augment=False, painted=painted
        ).batch(1.0)
        net = _seeded()
        bias = net.step.leave.bias
        assert bias is not None
        torch.manual_seed(2)
        options = Options("rollout", tmp_path, 1, 2, 2, 1e-3, 0.0, 0.0, 1)
        loss, _ = rollout_step(net, data, None, options)
        loss.backward()
        assert bias.grad is not None
        grown.append(float(bias.grad[3 * PATCH**2 : 4 * PATCH**2].sum()))
    assert grown[1] < grown[0] - 1e-3


def _worker(rank: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29617")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    net = awake(_seeded())
    both = torch.nn.parallel.DistributedDataParallel(Both(net))
    _loss(both, _halves()[rank]).backward()
    torch.save([p.grad for p in net.parameters()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _seeded() -> VideoNet:
    torch.manual_seed(5)
    return VideoNet(SMALL)


def _halves() -> list[Batch]:
    return [batch(1, 2, 64, seed) for seed in (1, 2)]


def _loss(both: Any, data: Batch) -> Any:
    t = torch.full((len(data.target),), 0.3)
    noisy = 0.7 * torch.ones_like(data.target) + 0.3 * data.target
    estimate, _, _ = both(data, start_history(data), noisy, t, 1)
    return (estimate - data.target).square().mean() + 0 * sum(p.sum() for p in both.parameters())


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    net = awake(_seeded())
    both = Both(net)
    for data in _halves():
        (_loss(both, data) / 2).backward()
    for rank in (0, 1):
        for got, parameter in zip(torch.load(tmp_path / f"{rank}.pt"), net.parameters(), strict=True):
            assert torch.allclose(got, parameter.grad, atol=1e-6)


def test_training_stops_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    from visavis.engine.training import video

    monkeypatch.setitem(video.SIZES, "tiny", SMALL)
    shards(tmp_path / "data" / "set")
    args = argparse.Namespace(
        stage="teacher", data=tmp_path / "data", validation=tmp_path / "none", sets='{"set": 1}', features=None,
        out=tmp_path / "out", start=None, teacher=None, size="tiny", steps=2, clips=2, frames=2, rate=1e-3, whole=0.0,
        perceptual=0.0, adversarial=0.0, mouthless=[], painted=[], student_steps=2, every=1, threads=1, seed=0, bf16=False, shape=1.0, mixed=0.5, texture=2.0,
    )  # fmt: skip
    run(args)
    first = video.load(tmp_path / "out/last.pt", smooth=False)
    args.steps = 3
    run(args)
    second = video.load(tmp_path / "out/last.pt", smooth=False)
    lines = (tmp_path / "out/log.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ['{"step": 1', '{"step": 2', '{"step": 3']
    moved = sum(
        float((a - b).abs().sum()) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert moved > 0


def test_the_mean_of_networks_and_shipped_weights_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from visavis.engine.training.video import load, mean_of

    torch.manual_seed(0)
    nets = [awake(VideoNet(SMALL)), VideoNet(SMALL)]
    mean = mean_of(nets)
    for name, value in mean.state_dict().items():
        assert torch.allclose(
            value, 0.5 * (nets[0].state_dict()[name] + nets[1].state_dict()[name]), atol=1e-6
        )
    config = json.dumps(SMALL.to_dict())
    save_file(mean.state_dict(), tmp_path / "video.safetensors", metadata={"config": config})
    read = load(tmp_path / "video.safetensors")
    assert read.config == SMALL
    assert all(torch.equal(a, b) for a, b in zip(read.parameters(), mean.parameters(), strict=True))
