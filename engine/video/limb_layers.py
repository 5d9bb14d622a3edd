"""Arms and hands as layers in front of the portrait: cut out of the person, and the person and background filled in behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.arms import ArmFit, hand_points
from visavis.engine.body.detect_hands import Hand
from visavis.engine.body.fit import Fit
from visavis.engine.body.limbs import (
    SEGMENTS,
    ArmMaps,
    Limb,
    PosedArm,
    arm_maps,
    body_without_arms,
    carrier_share,
    limb_mesh,
    pose_arm,
)
from visavis.engine.body.meet import FittedHead
from visavis.engine.body.triangulate import smoothstep
from visavis.engine.video.layers import Layers, disc, fill_background, split_layers
from visavis.engine.video.matting import LocalLinear, data_term, push_pull, solve

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Parted:
    """A person's layers without the arms, and the arms, back to front."""

    layers: Layers
    limbs: tuple[Limb, ...]


def part_limbs(
    rgb: Bytes, layers: Layers, fit: Fit, head: FittedHead, arms: Sequence[tuple[Hand, ArmFit]]
) -> Parted:
    """Take the fitted arms out of a photo's person layer, from the nearest part to the farthest, each from what is left by then."""

    def nearness(pair: tuple[Hand, ArmFit]) -> float:
        return float(hand_points(pair[1].side, fit.shape, pair[1].transforms)[:, 2].mean())

    height, width = layers.alpha.shape
    limbs = []
    posed = [(hand, arm, pose_arm(fit, arm, hand)) for hand, arm in sorted(arms, key=nearness, reverse=True)]
    for segment in SEGMENTS:
        for hand, arm, mesh in posed:
            maps = arm_maps(mesh, segment, (width, height))
            if maps is None:
                continue
            body = body_without_arms(fit, head.vertices, arm.trunk, (width, height))
            for _, _, other in posed:  # the forearms lie over the upper arms
                upper = (
                    arm_maps(other, SEGMENTS[-1], (width, height)) if segment is not SEGMENTS[-1] else None
                )
                body = body if upper is None else np.maximum(body, upper.cover)
            parted = _part(rgb, layers, fit, hand, arm, mesh, maps, body)
            if parted is not None:
                layers, limb = parted
                rgb = layers.composite()
                limbs.append(limb)
    return Parted(layers, tuple(reversed(limbs)))


def _part(
    rgb: Bytes, layers: Layers, fit: Fit, hand: Hand, arm: ArmFit, posed: PosedArm, maps: ArmMaps, trunk: Mask
) -> tuple[Layers, Limb] | None:
    matte = layers.alpha.astype(np.float32) / np.float32(255)
    alpha = _limb_matte(rgb, matte, maps.cover, trunk, hand) * (1 - carrier_share(maps))
    alpha = _connected(alpha, maps.cover)
    alpha[alpha < 0.02] = 0
    gone = np.asarray(smoothstep(*maps.segment.leave, maps.along.astype(np.float64)), np.float32)
    behind, behind_alpha = _fill_behind(layers, alpha, gone, trunk, 0.2 * hand.size)
    plate = layers.plate.astype(np.float32) / 255
    under = _under(behind, behind_alpha, plate)
    split = split_layers(rgb, alpha, under)
    # what no colour of the arm explains goes to what lies behind it
    missing: FloatArray = split.plate.astype(np.float32) / 255 - under
    left = _mended(behind, behind_alpha, plate, missing)
    foreground, alpha8, missing = _exact(rgb, split.foreground, split.alpha, _under(*left))
    left = _mended(*left, missing)
    built = limb_mesh(posed, arm, fit, hand, alpha8, maps)
    if built is None:
        return None
    limb, (x0, y0, x1, y1) = built
    texture = np.dstack([foreground, alpha8])[y0:y1, x0:x1]
    behind8, matte8, plate8 = (_bytes(plane) for plane in left)
    return Layers(behind8, matte8, plate8), replace(limb, texture=np.ascontiguousarray(texture))


def _under(behind: FloatArray, alpha: FloatArray, plate: FloatArray) -> FloatArray:
    """What is seen behind the arm (H, W, 3): the person without it over the plate."""
    return behind * alpha[..., None] + plate * (1 - alpha[..., None])


def _mended(
    behind: FloatArray, alpha: FloatArray, plate: FloatArray, missing: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Person without the arm, its alpha and the plate, such that `_under` is brighter by `missing` (H, W, 3)."""
    share = alpha[..., None]
    person = np.where(share >= 0.5, behind + missing / np.maximum(share, 0.5), behind)
    return person, alpha, np.where(share >= 0.5, plate, plate + missing / np.maximum(1 - share, 0.5))


def _exact(rgb: Bytes, colour: Bytes, alpha: Bytes, under: FloatArray) -> tuple[Bytes, Bytes, FloatArray]:
    """Colour and alpha of the arm, and what is missing behind it (H, W, 3), such that together they give back the photo: a pixel that does
    not and is mostly the arm's becomes all the arm's, any other all of what is behind."""
    share = alpha[..., None].astype(np.float32) / 255
    photo = rgb.astype(np.float32) / 255
    off = np.abs(colour / 255 * share + under * (1 - share) - photo).max(-1) > 0.024
    mine = off & (alpha > 90)
    theirs = off & ~mine
    opacity = np.where(mine, 255, np.where(theirs, 0, alpha)).astype(np.uint8)
    return np.where(mine[..., None], rgb, colour), opacity, np.where(theirs[..., None], photo - under, 0)


def _connected(alpha: Mask, cover: Mask) -> Mask:
    """Alpha (H, W) without pieces that hardly touch the arm's silhouette."""
    _, labels = cv2.connectedComponents((alpha > 0.3).astype(np.uint8))
    area = np.bincount(labels.ravel())
    inside = np.bincount(labels.ravel(), weights=(cover > 0.5).ravel(), minlength=len(area))
    keep = inside > 0.3 * area
    keep[0] = False
    near = cv2.dilate(keep[labels].astype(np.uint8), disc(2))
    return (alpha * near).astype(np.float32)


def _bytes(image: npt.NDArray[np.floating]) -> Bytes:
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _limb_matte(rgb: Bytes, matte: Mask, cover: Mask, trunk: Mask, hand: Hand) -> Mask:
    """Alpha (H, W) of the arm: the person's matte where the background lies behind it, matted against the person elsewhere."""
    size = max(8.0, hand.size)
    rows, columns = np.nonzero(cover > 0.5)
    pad = int(0.6 * size) + 4
    box = (
        slice(max(0, int(rows.min()) - pad), int(rows.max()) + pad),
        slice(max(0, int(columns.min()) - pad), int(columns.max()) + pad),
    )
    out = np.zeros_like(matte)
    out[box] = _matte_near(rgb[box], matte[box], cover[box], trunk[box], size)
    return out


def _matte_near(rgb: Bytes, matte: Mask, cover: Mask, trunk: Mask, size: float) -> Mask:
    """`_limb_matte` in the part of the frame around the arm; `size`: the hand's, in pixels."""
    inside = (cover > 0.5).astype(np.uint8)
    to_limb = cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5)
    to_trunk = cv2.distanceTransform((trunk < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    # pixels of the person near the arm and nearer to it than to the trunk are the arm's: sleeves are wider than arms
    claim = (matte > 0.02) & (to_limb < 0.22 * size) & (to_limb < 0.5 * to_trunk)
    prior = np.maximum(cover, claim.astype(np.float32)) * (matte > 0.02)
    solid = (prior > 0.5).astype(np.uint8)
    inner = cv2.distanceTransform(solid, cv2.DIST_L2, 5)
    outer = cv2.distanceTransform(1 - solid, cv2.DIST_L2, 5)
    sure_in = inner > 0.06 * size
    sure_out = (outer > 0.09 * size) | (matte < 0.02)
    free = ~(sure_in | sure_out)
    image = rgb.astype(np.float32) / 255
    soft = np.asarray(cv2.GaussianBlur(prior, (0, 0), 0.03 * size), np.float32)
    if not sure_in.any() or not sure_out.any():
        return np.minimum(soft, matte)
    target, weight = data_term(image, soft, np.zeros_like(soft), sure_in, sure_out)
    # the fitted arm counts too, most where it says arm: skin before skin has no colour to tell it by
    trust = np.where(cover > 0.5, np.float32(0.04), np.float32(0.012))
    target, weight = (weight * target + trust * soft) / (weight + trust), weight + trust
    start = np.where(sure_in, 1, np.where(sure_out, 0, target)).astype(np.float32)
    alpha = np.clip(solve(LocalLinear(image, 1, 2e-5), start, target, weight, free), 0, 1)
    alpha = np.clip((alpha - 0.05) / 0.9, 0, 1)
    over_background = claim & (to_trunk > 0.12 * size) & (to_limb < 0.22 * size)
    return np.where(over_background, matte, np.minimum(alpha, matte)).astype(np.float32)


def _fill_behind(layers: Layers, alpha: Mask, gone: Mask, trunk: Mask, reach: float) -> tuple[Mask, Mask]:
    """Colours (H, W, 3) and alpha (H, W) of the person without the arm; `gone` (H, W): where the arm has left the portrait."""
    colour = layers.foreground.astype(np.float32) / 255
    matte = layers.alpha.astype(np.float32) / 255
    hole = cv2.dilate((alpha > 0.02).astype(np.uint8), disc(max(2, round(0.004 * max(alpha.shape))))) * (
        gone > 0.01
    )
    touched = np.maximum(hole.astype(np.float32), (matte < 0.9).astype(np.float32))
    filled = fill_background(colour, touched) if (touched < 0.5).any() else colour
    known = push_pull(matte[..., None], 1 - hole.astype(np.float32))[..., 0]
    # at the hole's border what is seen around it goes on, further in the fitted body decides
    inwards = np.clip(cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 5) / reach, 0, 1)
    vote = known + 0.6 * inwards * (trunk - known)
    body = np.asarray(smoothstep(0.35, 0.65, cv2.GaussianBlur(vote, (0, 0), 1.5)), np.float32)
    # a breath of the arm leaves what is behind as the photo shows it
    share = np.asarray(smoothstep(0.02, 0.3, alpha.astype(np.float64)), np.float32) * gone
    out = colour + (filled - colour) * share[..., None]
    return np.asarray(out, np.float32), np.asarray(matte + (body - matte) * share, np.float32)
