"""Train stage 2: the teacher by flow matching, the student by distillation of the teacher's path, then on its own rollouts.

    python -m visavis.engine.training.video teacher --data runs/video --features ../shared/data/taef2/taef2_encoder.pth --out runs/video/teacher
    python -m visavis.engine.training.video student --teacher runs/video/teacher/last.pt --data ... --out runs/video/student
    python -m visavis.engine.training.video rollout --start runs/video/student/last.pt --teacher ... --data ... --out runs/video/final

Every stage resumes from `last.pt` in its output folder. Under `torchrun` each process draws its own batches and gradients are averaged
(DistributedDataParallel). Methods: flow matching (Lipman et al. 2023) with x-prediction (Li and He 2025); noisy history against
drift (as in Diffusion Forcing, Chen et al. 2024); discrete consistency by regression on the teacher's own path, from the student's
own intermediate states; rollouts on its own history (Self Forcing, Huang et al. 2025).
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from visavis.engine.diffusion.path import mix, velocity_of_x
from visavis.engine.diffusion.times import logit_normal, schedule
from visavis.engine.training import loop
from visavis.engine.training.video_loader import Batch, Loader, Variety
from visavis.engine.training.video_losses import Critic, Features, edges, patches, texture
from visavis.engine.training.video_model import SIZES, VideoConfig, VideoNet, blended

TEACHER_STEPS = 8
PATCH_SIDE = 64
PRICE_NEAR, PRICE_FAR = 0.005, 0.08
TEXTURE = 2.0
"""How much the amount of fine detail counts against colours and edges. Without it the network takes a quarter of the lips' detail away."""
SETS = {"grid": 0.5, "people": 0.3, "portraits": 0.2}


@dataclass
class Options:
    """What a run is asked to do."""

    stage: str
    out: Path
    steps: int
    clips: int
    frames: int
    rate: float
    perceptual: float
    adversarial: float
    student_steps: int
    texture: float = TEXTURE


def start_history(batch: Batch) -> Tensor:
    """The frame before each frame (B, 3, H, W): the real one, and the warp where none is known, as at the start of a call."""
    return torch.where(batch.follows[:, None, None, None] > 0, batch.target.roll(1, 0), batch.warp)


def corrupted(history: Tensor, warp: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """History as it may look in a long run: noisy, blurred, off in brightness, or only warped."""
    n = len(history)

    def draw() -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=generator)

    soft = F.avg_pool2d(F.pad(history, (2, 2, 2, 2), mode="replicate"), 5, 1)
    out = torch.where(draw() < 0.3, torch.lerp(history, soft, draw()), history)
    out = out + 0.08 * torch.randn(n, 3, 1, 1, generator=generator) * (draw() < 0.5)
    out = out + 0.2 * draw() * torch.randn(out.shape, generator=generator) * (draw() < 0.6)
    return torch.where(draw() < 0.3, warp, out)


def flow_loss(estimate: Tensor, batch_target: Tensor, t: Tensor, weight: Tensor) -> Tensor:
    """Squared error of the velocity that follows from the estimate of the clean frame (both in 0..1), weighted.

    The velocity's scale is bounded early: late times, where the noisy frame shows the answer, would have nearly all of the loss, and a
    few-step student starts from noise.
    """
    scale = 4 / (1 - t).clamp_min(0.5).square()  # pictures are -1..1 on the path
    return (weight * (estimate - batch_target).square() * scale[:, None, None, None]).mean()


def mask_price(batch: Batch) -> Tensor:
    """What a pixel of the blend mask costs (B, 1, H, W): little at mouth, eyes and what the photo does not show, more on
    plain skin, hair and cloth. There the network would soften texture that lies a pixel off, which lowers L1 and is a blur to the eye. Where
    the target is not to be believed it costs nothing: a price alone would teach the network to stay away."""
    uncovered = F.max_pool2d((batch.masks[:, 3:] < 0.9).float(), 7, 1, 3)
    near = ((batch.weight - 1) / 3).clamp(0, 1)
    price = PRICE_FAR - (PRICE_FAR - PRICE_NEAR) * torch.maximum(near, uncovered)
    return price * (batch.weight > 0)


def picture_loss(
    estimate: Tensor, batch: Batch, mask: Tensor, features: Features | None, options: Options, again: int = 1
) -> Tensor:
    """L1, edges, the amount of detail, features about the mouth, and a price for replacing what the warp has right."""
    target = batch.target.repeat(again, 1, 1, 1)
    weight = batch.weight.repeat(again, 1, 1, 1)
    loss = (
        (weight * (estimate - target).abs()).mean()
        + 0.5 * edges(estimate, target, weight)
        + options.texture * texture(estimate, target, weight)
        + (mask_price(batch).repeat(again, 1, 1, 1) * mask).mean()
    )
    if features is not None and options.perceptual:
        pick = torch.randperm(len(estimate))[: max(1, len(estimate) // 10)]
        middle = batch.mouth.repeat(again, 1)[pick]
        loss = loss + options.perceptual * features.distance(
            patches(estimate[pick], middle, PATCH_SIDE), patches(target[pick], middle, PATCH_SIDE)
        )
    return loss


class Both(nn.Module):
    """Frame and step networks as one module, so that data-parallel training sees a single forward."""

    def __init__(self, net: VideoNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, batch: Batch, history: Tensor, noisy: Tensor, t: Tensor, again: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Estimates (again B, 3, H, W), colours and masks for `again` noise levels of each frame."""
        features, _ = encode(self.net, batch, history)
        warp = batch.warp.repeat(again, 1, 1, 1)
        colour, mask = self.net.step(features.repeat(again, 1, 1, 1), noisy, t, warp)
        return blended(colour, mask, warp), colour, mask


def encode(net: VideoNet, batch: Batch, history: Tensor) -> tuple[Tensor, Tensor]:
    """Features and own keys of each frame of the batch."""
    first = slice(None, None, batch.frames)
    photo = net.photo(
        batch.photo[first], batch.photo_masks[first], batch.photo_position[first], batch.origin[first]
    )
    photo = photo.repeat_interleave(batch.frames, 0)
    features, keys = net.frame(
        batch.warp, history, batch.masks, batch.position, batch.origin, photo, None, batch.frames
    )
    return features, keys


def euler(
    net: VideoNet, features: Tensor, warp: Tensor, noise: Tensor, times: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Follow the path from noise over `times` (ascending, from 0) to the clean frame: the last estimate, its mask and its colour."""
    x = noise
    estimate = mask = colour = warp
    for t, after in itertools.pairwise(times):
        colour, mask = net.step(features, x, torch.full((len(x),), t), warp)
        estimate = blended(colour, mask, warp)
        if after < 1:
            x = x + (after - t) * velocity_of_x(2 * estimate - 1, x, t)
    return estimate, mask, colour


def teacher_step(both: nn.Module, batch: Batch, features: Features | None, options: Options) -> Tensor:
    """Flow matching at a noise level a frame."""
    again = 1
    target = batch.target.repeat(again, 1, 1, 1)
    t = logit_normal(torch.randn(len(target)), -0.4, 1.2) * (torch.rand(len(target)) > 0.35)
    noisy = mix(torch.randn(target.shape), 2 * target - 1, t)
    history = corrupted(start_history(batch), batch.warp)
    estimate, colour, mask = both(batch, history, noisy, t, again)
    weight = batch.weight.repeat(again, 1, 1, 1)
    # the colour learns apart from the mask too: behind a mask still shut it would hardly
    colours = 0.3 * (weight * (colour - target).abs()).mean()
    return (
        flow_loss(estimate, target, t, weight)
        + colours
        + picture_loss(estimate, batch, mask, features, options, again)
    )


def student_step(
    both: Both, teacher: VideoNet, batch: Batch, features: Features | None, options: Options
) -> tuple[Tensor, Tensor]:
    """The student's estimates at each of its steps against the end of the teacher's path from the same noise, and the real frame."""
    history = corrupted(start_history(batch), batch.warp)
    noise = torch.randn(batch.target.shape)
    with torch.no_grad():
        goal, _, _ = euler(
            teacher, encode(teacher, batch, history)[0], batch.warp, noise, schedule(TEACHER_STEPS)
        )
    net = both.net
    own, _ = encode(net, batch, history)
    loss = torch.zeros(())
    estimate = batch.warp
    for times in (schedule(1), schedule(options.student_steps)):
        x = noise
        for t, after in itertools.pairwise(times):
            colour, mask = net.step(own, x, torch.full((len(x),), t), batch.warp)
            estimate = blended(colour, mask, batch.warp)
            if after < 1:
                x = (x + (after - t) * velocity_of_x(2 * estimate - 1, x, t)).detach()
        toward = (batch.weight * (estimate - goal).abs()).mean() + 0.5 * edges(estimate, goal, batch.weight)
        loss = loss + 0.5 * toward + 0.5 * picture_loss(estimate, batch, mask, features, options)
    return loss, estimate


def rollout_step(
    net: VideoNet, batch: Batch, features: Features | None, options: Options
) -> tuple[Tensor, Tensor]:
    """Frame after frame on the student's own history: pictures and keys of earlier frames are its own. Clips of one step and of all
    `student_steps` take turns, so that slower machines may take one."""
    steps = int(torch.randint(1, options.student_steps + 1, ()))
    frames = batch.frames
    clips = len(batch.target) // frames
    photo = net.photo(
        batch.photo[::frames],
        batch.photo_masks[::frames],
        batch.photo_position[::frames],
        batch.origin[::frames],
    )
    ring = photo[:, :, None].expand(-1, -1, net.config.window, -1, -1)
    previous = batch.warp[::frames]
    noise = torch.randn(clips, *batch.target.shape[1:])  # one for the whole clip, as in a call
    made, masks, colours = [], [], []
    for k in range(frames):
        at = slice(k, None, frames)
        own, keys = net.frame(
            batch.warp[at], previous, batch.masks[at], batch.position[at], batch.origin[at], photo, ring
        )
        estimate, mask, colour = euler(net, own, batch.warp[at], noise, schedule(steps))
        made.append(estimate)
        masks.append(mask)
        colours.append(colour)
        previous = estimate.detach()
        ring = torch.cat([ring[:, :, 1:], keys.detach()[:, :, None]], 2)
    estimate = torch.stack(made, 1).flatten(0, 1)
    mask = torch.stack(masks, 1).flatten(0, 1)
    loss = picture_loss(estimate, batch, mask, features, options)
    # Colours learn apart from the mask too: where they are wrong at first the mask shuts before they are right, and behind a shut mask nothing is
    # learned ever again.
    colour = torch.stack(colours, 1).flatten(0, 1)
    loss = loss + 0.3 * (batch.weight * (colour - batch.target).abs()).mean()
    if batch.painted is not None:
        wanted = batch.painted[:, None, None, None] * batch.masks[:, :1]
        loss = (
            loss - 0.3 * (wanted * torch.log(mask + 1e-6)).mean()
        )  # a logarithm: it pulls at a shut gate too
    # the change from frame to frame is the real one: no flicker of its own
    made_change = (estimate[1:] - estimate[:-1]).reshape(-1, *estimate.shape[1:])
    real_change = batch.target[1:] - batch.target[:-1]
    inside = (torch.arange(1, len(estimate)) % frames != 0).float()[:, None, None, None]
    loss = loss + ((made_change - real_change).abs() * batch.weight[1:] * inside).mean()
    return loss, estimate


@torch.no_grad()
def validate(net: VideoNet, batches: list[Batch], steps: tuple[int, ...]) -> dict[str, float]:
    """Mean absolute error (0..1) inside the mouth's mask widened by a few pixels: of the warp and of each number of steps."""
    sums: dict[str, list[float]] = {}
    torch_state = torch.get_rng_state()
    torch.manual_seed(7)
    for batch in batches:
        inside = F.max_pool2d(batch.masks[:, :2].amax(1, keepdim=True), 5, 1, 2)
        features, _ = encode(net, batch, start_history(batch))
        noise = torch.randn(batch.target.shape)

        def error(estimate: Tensor, batch: Batch = batch, inside: Tensor = inside) -> float:
            return float(
                ((estimate - batch.target).abs().mean(1, keepdim=True) * inside).sum()
                / inside.sum().clamp_min(1)
            )

        sums.setdefault("warp", []).append(error(batch.warp))
        for n in steps:
            estimate, _, _ = euler(net, features, batch.warp, noise, schedule(n))
            sums.setdefault(f"mouth_{n}", []).append(error(estimate))
            sums.setdefault(f"all_{n}", []).append(float((estimate - batch.target).abs().mean()))
        sums.setdefault("all_warp", []).append(float((batch.warp - batch.target).abs().mean()))
    torch.set_rng_state(torch_state)
    return {name: sum(values) / len(values) for name, values in sums.items()}


def load(path: Path, *, smooth: bool = True) -> VideoNet:
    """A network from a checkpoint, with its averaged weights, or from the `video.safetensors` that is shipped."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            net = VideoNet(VideoConfig.from_dict(json.loads(file.metadata()["config"])))
        net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        return net
    saved = torch.load(path, map_location="cpu", weights_only=False)
    net = VideoNet(VideoConfig.from_dict(saved["config"]))
    net.load_state_dict(saved["average" if smooth else "net"])
    return net


def mean_of(nets: Sequence[VideoNet]) -> VideoNet:
    """The network whose weights are the mean of those of several of one origin: it knows what none of them was trained on better than each of them
    (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022)."""
    states = [net.state_dict() for net in nets]
    out = copy.deepcopy(nets[0])
    out.load_state_dict({name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]})
    return out


def run(args: argparse.Namespace) -> None:
    """One stage of training."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("gloo")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed + rank)
    options = Options(
        args.stage, args.out, args.steps, args.clips, args.frames, args.rate, args.perceptual, args.adversarial,
        args.student_steps, args.texture,
    )  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    net = load(args.start) if args.start else VideoNet(SIZES[args.size])
    teacher = load(args.teacher).requires_grad_(False) if args.teacher else None
    if args.stage == "student" and teacher is not None and not args.start:
        net = copy.deepcopy(teacher).requires_grad_(True)
    average = copy.deepcopy(net).requires_grad_(False)
    both = Both(net)
    wrapped: nn.Module = nn.parallel.DistributedDataParallel(both) if world > 1 else both
    optimizer = torch.optim.AdamW(net.parameters(), lr=options.rate, betas=(0.9, 0.98), weight_decay=0.01)
    critic = Critic() if options.adversarial else None
    critic_optimizer = torch.optim.Adam(critic.parameters(), lr=2e-4, betas=(0.5, 0.9)) if critic else None
    features = Features(args.features) if args.features and options.perceptual else None
    last, step = args.out / "last.pt", 0
    if last.exists():
        saved = torch.load(last, map_location="cpu", weights_only=False)
        net.load_state_dict(saved["net"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        if critic is not None and critic_optimizer is not None and saved.get("critic"):
            critic.load_state_dict(saved["critic"])
            critic_optimizer.load_state_dict(saved["critic_optimizer"])
        step = saved["step"]
    shares = json.loads(args.sets) if args.sets else SETS
    loader = Loader(
        args.data, shares, clips=options.clips, frames=options.frames, seed=args.seed + rank + 1000 * step,
        mouthless=tuple(args.mouthless), painted=tuple(args.painted),
        variety=Variety(shape=args.shape, mixed=args.mixed),
    )  # fmt: skip
    fixed = []
    if args.validation.exists():
        held = Loader(args.validation, {".": 1.0}, clips=8, frames=options.frames, seed=5, augment=False)
        fixed = [held.batch(0.0) for _ in range(4)]
    began, losses = time.time(), []
    while step < options.steps:
        loop.set_rate(optimizer, loop.learning_rate(step, options.rate, options.steps, warm_up=200))
        batch = loader.batch(args.whole)
        estimate = None
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            if args.stage == "teacher":
                loss = teacher_step(wrapped, batch, features, options)
            elif args.stage == "student":
                assert teacher is not None
                loss, estimate = student_step(both, teacher, batch, features, options)
            else:
                loss, estimate = rollout_step(net, batch, features, options)
        if critic is not None and critic_optimizer is not None and estimate is not None:
            loss = loss + options.adversarial * _adversarial(critic, critic_optimizer, estimate, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if world > 1 and args.stage != "teacher":
            for parameter in net.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= world
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        loop.average(average, net, step, most=0.998)
        step += 1
        losses.append(float(loss.detach()))
        if rank == 0 and (step % args.every == 0 or step == options.steps):
            figures = validate(average, fixed, (1, 2, 8)) if fixed else {}
            entry = {
                "step": step,
                "loss": sum(losses) / len(losses),
                "seconds": time.time() - began,
                **figures,
            }
            losses = []
            loop.log_row(args.out / "log.jsonl", {k: round(v, 5) for k, v in entry.items()})
            parts = {
                "net": net.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict(), "step": step,
                "config": net.config.to_dict(), "critic": critic.state_dict() if critic else None,
                "critic_optimizer": critic_optimizer.state_dict() if critic_optimizer else None, "stage": args.stage,
            }  # fmt: skip
            loop.save_whole(last, parts)


def _adversarial(critic: Critic, optimizer: torch.optim.Optimizer, estimate: Tensor, batch: Batch) -> Tensor:
    """One step of the critic on mouth squares, and the generator's loss against it."""
    real = patches(batch.target, batch.mouth, PATCH_SIDE)
    made = patches(estimate, batch.mouth, PATCH_SIDE)
    warp = patches(batch.warp, batch.mouth, PATCH_SIDE)
    critic.requires_grad_(True)
    loss = F.relu(1 - critic(real, warp)).mean() + F.relu(1 + critic(made.detach(), warp)).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    critic.requires_grad_(False)
    return -critic(made, warp).mean()


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("teacher", "student", "rollout"))
    parser.add_argument(
        "--data", type=Path, default=Path("runs/video"), help="folder of shards, a folder a set"
    )
    parser.add_argument(
        "--validation",
        type=Path,
        default=Path("runs/video/grid_val"),
        help="shards of speakers never trained on",
    )
    parser.add_argument("--sets", help='shares of the sets as JSON, e.g. {"grid": 0.5, "people": 0.5}')
    parser.add_argument(
        "--mouthless", nargs="*", default=[], help="sets whose mouths teach nothing, e.g. people"
    )
    parser.add_argument(
        "--painted", nargs="*", default=[], help="sets whose mouths are to be painted throughout, e.g. drawn"
    )
    parser.add_argument("--features", type=Path, help="taef2_encoder.pth for the perceptual loss")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--start", type=Path, help="checkpoint, or video.safetensors, whose weights to begin with"
    )
    parser.add_argument("--teacher", type=Path, help="checkpoint of the teacher (student, rollout)")
    parser.add_argument("--size", choices=sorted(SIZES), default="tiny")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--whole", type=float, default=0.12, help="share of batches that are whole crops")
    parser.add_argument("--shape", type=float, default=1.0, help="how far the face's shape is changed")
    parser.add_argument("--mixed", type=float, default=0.5, help="share of clips with another laid over them")
    parser.add_argument("--perceptual", type=float, default=0.05)
    parser.add_argument(
        "--texture", type=float, default=TEXTURE, help="how much the amount of fine detail counts"
    )
    parser.add_argument("--adversarial", type=float, default=0.0)
    parser.add_argument("--student-steps", type=int, default=2)
    parser.add_argument("--every", type=int, default=250, help="steps between validations and checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--bf16", action="store_true", help="mixed precision: twice as fast where the CPU has bf16 products"
    )
    parser.add_argument("--seed", type=int, default=0)
    run(parser.parse_args(argv))


if __name__ == "__main__":
    main()
