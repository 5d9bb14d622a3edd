"""Find where MediaPipe's hand landmarks lie on the body model: draw people of known pose, look at the drawings, and fit one offset a landmark.

    python -m visavis.engine.training.hand_landmarks --data ../shared/data --count 70

Prints the table that `visavis.engine.body.arms` holds: offsets in millimetres along `offset_axes` from the rig's own points, on top of
those it has, and the median distance in pixels before and after.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm
from visavis.engine.body.arms import offset_axes, rest_hand_points
from visavis.engine.body.detect import find_face
from visavis.engine.body.detect_hands import find_hands
from visavis.engine.body.fit import FLIP
from visavis.engine.body.rig import arm_bones
from visavis.engine.errors import PhotoError
from visavis.engine.training.draw_person import person

Float64 = npt.NDArray[np.float64]


def look(skins: list[Path], seeds: range) -> list[tuple[Float64, Float64]]:
    """For each hand found in drawings of these seeds: Jacobian (21, 2, 3) of its landmarks' pixels by offsets in metres, and the pixels by
    which the network's landmarks differ from the model's (21, 2)."""
    found = []
    for seed in tqdm(seeds, desc="drawing and looking"):
        picture, truth = person(seed, skins)
        try:
            face = find_face(picture)
        except PhotoError:
            continue
        for hand in find_hands(picture, face)[0]:
            if f"transforms{hand.side}" not in truth:
                continue
            rest, shares = rest_hand_points(hand.side, truth["shape"])
            blend = np.einsum("vj,jab->vab", shares, truth[f"transforms{hand.side}"])
            x, y, z = (np.einsum("vab,vb->va", blend[..., :3], rest) + blend[..., 3]).T * np.array(
                [[1], [-1], [-1]]
            )
            focal = float(truth["camera"][0])
            zero = np.zeros_like(z)
            project = np.stack([
                np.stack([focal / z, zero, -focal * x / z**2], -1), np.stack([zero, focal / z, -focal * y / z**2], -1)
            ], 1)  # fmt: skip
            names = arm_bones(hand.side)
            axes = np.stack([offset_axes(hand.side, names[k]) for k in shares.argmax(1)])
            jacobian = project @ FLIP @ blend[..., :3] @ axes.transpose(0, 2, 1)
            found.append((jacobian, hand.landmarks[:, :2] - truth[f"landmarks{hand.side}"]))
    return found


def fit_offsets(found: list[tuple[Float64, Float64]]) -> tuple[Float64, Float64, Float64]:
    """Robust least squares: offsets (21, 3) in metres, median distances (21,) in pixels before and after."""
    jacobian, away = np.stack([j for j, _ in found]), np.stack([a for _, a in found])
    offsets = np.zeros((21, 3))
    for k in range(21):
        weight = np.ones(len(found))
        for _ in range(10):
            root = np.sqrt(weight)[:, None]
            left = (jacobian[:, k] * root[..., None]).reshape(-1, 3)
            offsets[k] = np.linalg.lstsq(left, (away[:, k] * root).ravel(), rcond=None)[0]
            residual = np.linalg.norm(jacobian[:, k] @ offsets[k] - away[:, k], axis=1)
            weight = 1 / (1 + (residual / 6) ** 2) ** 2
    after = np.linalg.norm(np.einsum("nkij,kj->nki", jacobian, offsets) - away, axis=2)
    return offsets, np.median(np.linalg.norm(away, axis=2), 0), np.median(after, 0)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder that holds body/skins")
    parser.add_argument("--count", type=int, default=70)
    parser.add_argument("--seed", type=int, default=1000)
    args = parser.parse_args()
    skins = sorted((args.data / "body/skins").glob("*.png"))
    found = look(skins, range(args.seed, args.seed + args.count))
    if len(found) < 10:
        raise SystemExit(f"only {len(found)} hands found in {args.count} drawings: draw more")
    offsets, before, after = fit_offsets(found)
    for k, row in enumerate(offsets * 1000):
        print(f"{k:2d} ({row[0]:6.1f}, {row[1]:6.1f}, {row[2]:6.1f}) {before[k]:5.1f} -> {after[k]:4.1f} px")
    print(f"{len(found)} hands; mean of the medians {before.mean():.2f} -> {after.mean():.2f} px")


if __name__ == "__main__":
    main()
