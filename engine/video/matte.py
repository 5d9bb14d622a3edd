"""The person cut out of a photo: a soft matte, colours free of background, and the background filled behind.

1. Coarse mask: MediaPipe's selfie segmentation on the whole photo and on the head.
2. Alpha in a band around its edge: closed-form matting (Levin, Lischinski, Weiss, "A Closed-Form Solution to
   Natural Image Matting", 2008; applied with box filters as in He, Sun, Tang, "Fast Matting Using Large
   Kernel Matting Laplacian Matrices", 2010), with a data term from nearby foreground and background colours
   (Wang, Cohen, "Optimized Color Sampling for Robust Matting", 2007), solved by conjugate gradients.
3. Plate: the background mirrored at the silhouette, passing into a smooth fill further in.
4. Foreground colours: from the compositing equation, given alpha and plate.

Images are RGB uint8 (H, W, 3), mattes float32 (H, W) 0..1.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset8
from openvino.frontend import ConversionExtension
from visavis.engine.body.detect import BodyPose, Face
from visavis.engine.body.detect_geometry import Region
from visavis.engine.body.detect_networks import WEIGHTS, Network

FloatArray = npt.NDArray[np.floating[Any]]
Image = npt.NDArray[np.uint8]

WORKING_SIDE = 640
"""The matte is solved with the photo's longer side reduced to this, then carried up by local linear
models."""


@dataclass(frozen=True, eq=False)
class Layers:
    """A photo in two layers: `foreground` (H, W, 3) colours without background, `alpha` (H, W) uint8
    straight, `plate` (H, W, 3) the background filled behind the person."""

    foreground: Image
    alpha: Image
    plate: Image

    def composite(self) -> Image:
        """The layers put together again: (H, W, 3)."""
        a = self.alpha[..., None].astype(np.float32) / 255
        return np.round(self.foreground * a + self.plate * (1 - a)).astype(np.uint8)


# --- 1. coarse mask
# -------------------------------------------------------------------------------------------


def _transposed_convolution(node: Any) -> list[Any]:
    """MediaPipe's Convolution2DTransposeBias: kernel and stride 2, channels last, weights (out, h, w, in)."""
    x, weights, bias = (node.get_input(k) for k in range(3))
    y = opset8.convolution_backprop_data(
        opset8.transpose(x, [0, 3, 1, 2]),
        opset8.transpose(weights, [3, 0, 1, 2]),
        [2, 2],
        auto_pad="same_upper",
    )
    return [opset8.add(opset8.transpose(y, [0, 2, 3, 1]), bias).output(0)]


@functools.cache
def _selfie_network() -> Network:
    core = ov.Core()
    core.add_extension(ConversionExtension("Convolution2DTransposeBias", _transposed_convolution))
    return Network(core.read_model(WEIGHTS / "selfie_segmentation.tflite"))


def _segment(rgb: Image, region: Region) -> FloatArray:
    """The network's person probability in a region, laid into the whole image, 0 outside; mean with its
    mirror image's."""
    picture = region.crop(rgb, 256, cv2.BORDER_REPLICATE).astype(np.float32) / 255
    network = _selfie_network()
    mask = network(picture[None])[0][0, :, :, 0] + network(picture[None, :, ::-1])[0][0, :, ::-1, 0]
    h, w = rgb.shape[:2]
    return region.paste(mask / 2, h, w)


def coarse_mask(rgb: Image, face: Face, pose: BodyPose | None = None) -> FloatArray:
    """Probability (H, W) that a pixel belongs to the person of `face`: whole photo and head, each seen at the
    network's resolution.

    Other people and objects that do not touch the person are left out; the face itself is always in.
    """
    h, w = rgb.shape[:2]
    mask = _segment(rgb, Region(w / 2, h / 2, float(max(h, w))))
    x, y = (float(v) for v in face.landmarks[:468, :2].mean(0))
    size = face.size
    head = Region(x, y - 0.1 * size, 2.6 * size)
    if head.size < 0.9 * max(h, w):
        # Only the view's middle counts, where there is context on all sides.
        counts = np.zeros((64, 64), np.float32)
        counts[12:44, 10:54] = 1
        blend = head.paste(np.asarray(cv2.GaussianBlur(counts, (0, 0), 4), np.float32), h, w)
        mask += (_segment(rgb, head) - mask) * blend
    hull = cv2.convexHull(face.landmarks[:468, :2].astype(np.int32))
    inside = cv2.fillConvexPoly(np.zeros((h, w), np.uint8), hull, 1).astype(bool)
    if pose is not None and pose.mask is not None and pose.mask[inside].mean() > 0.5:
        if mask[inside].mean() < 0.5:
            mask = pose.mask.copy()  # the network did not see this person
        else:
            # The body's mask is coarse, but has no holes: its inside counts.
            n = max(1, round(0.06 * size))
            sure = cv2.erode((pose.mask > 0.8).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=n)
            mask = np.maximum(mask, cv2.GaussianBlur(sure.astype(np.float32), (0, 0), 0.5 * n))
    mask[inside] = 1
    _, labels = cv2.connectedComponents((mask > 0.3).astype(np.uint8))
    other = (labels > 0) & (labels != labels[inside][0])
    mask[cv2.dilate(other.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)] = 0
    return _fill_holes(mask)


def _fill_holes(mask: FloatArray) -> FloatArray:
    """Holes that do not touch the image's border and are small against the person are closed."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((mask < 0.5).astype(np.uint8))
    for k in range(1, len(stats)):
        x, y, w, h, area = stats[k]
        at_border = x == 0 or y == 0 or x + w == mask.shape[1] or y + h == mask.shape[0]
        if not at_border and area < 0.01 * (mask > 0.5).sum():
            mask[labels == k] = 1
    return mask


# --- 2. alpha
# -------------------------------------------------------------------------------------------------


def _box(x: FloatArray, r: int) -> FloatArray:
    return np.asarray(cv2.boxFilter(x, -1, (2 * r + 1, 2 * r + 1), borderType=cv2.BORDER_REFLECT), np.float32)


class _LocalLinear:
    """Windows of (2r+1)^2 pixels in each of which a plane is taken to be linear in the colours of `image`
    (H, W, 3) float 0..1: the matting Laplacian without its matrix."""

    def __init__(self, image: FloatArray, r: int, epsilon: float) -> None:
        self.image, self.r = image, r
        self.mean = _box(image, r)
        i, j = np.triu_indices(3)
        products = _box(image[..., i] * image[..., j], r) - self.mean[..., i] * self.mean[..., j]
        a, b, c, d, e, f = np.moveaxis(products.astype(np.float64), -1, 0)
        a, d, f = a + epsilon, d + epsilon, f + epsilon
        # Inverse of the symmetric covariance [[a, b, c], [b, d, e], [c, e, f]].
        minors = [d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b]
        determinant = a * minors[0] + b * minors[1] + c * minors[2]
        self.inverse = (np.stack(minors) / determinant).astype(np.float32)

    def fit(self, p: FloatArray) -> FloatArray:
        """(H, W, 4): per window, gradient to the three colours and offset of plane `p` (H, W)."""
        means = _box(np.dstack([self.image * p[..., None], p]), self.r)
        u, v, w = np.moveaxis(means[..., :3] - self.mean * means[..., 3:], -1, 0)
        a, b, c, d, e, f = self.inverse
        out = np.empty((*p.shape, 4), np.float32)
        out[..., 0] = a * u + b * v + c * w
        out[..., 1] = b * u + d * v + e * w
        out[..., 2] = c * u + e * v + f * w
        out[..., 3] = means[..., 3] - np.einsum("ijk,ijk->ij", out[..., :3], self.mean)
        return out

    def laplacian(self, p: FloatArray) -> FloatArray:
        """The matting Laplacian applied to `p`, divided by the number of pixels in a window."""
        model = _box(self.fit(p), self.r)
        return p - np.einsum("ijk,ijk->ij", model[..., :3], self.image) - model[..., 3]


def _solve(
    model: _LocalLinear,
    start: FloatArray,
    target: FloatArray,
    weight: FloatArray,
    free: npt.NDArray[np.bool_],
) -> FloatArray:
    """Minimise p' L p + sum weight (p - target)^2 over the `free` pixels by conjugate gradients; others keep
    `start`."""
    x = start.copy()
    gate = free.astype(np.float32)
    residual = gate * (weight * (target - x) - model.laplacian(x))
    scale = 1 / (weight + 0.3)  # diagonal of the Laplacian is about 0.3 where the image has texture
    z = residual * scale
    direction, rho = z.copy(), float(np.vdot(residual, z))
    first = rho
    for _ in range(80):
        if rho <= 1e-5 * first or rho < 1e-12:
            break
        q = gate * (model.laplacian(direction) + weight * direction)
        step = rho / float(np.vdot(direction, q))
        x += step * direction
        residual -= step * q
        z = residual * scale
        rho, before = float(np.vdot(residual, z)), rho
        direction = z + (rho / before) * direction
    return x


def push_pull(image: FloatArray, weight: FloatArray) -> FloatArray:
    """`image` (H, W, C) where `weight` (H, W) is 1, smoothly continued where it is 0 (Gortler et al., "The
    Lumigraph", 1996)."""
    h, w = weight.shape
    if min(h, w) <= 1 or weight.min() >= 1:
        total = max(float(weight.sum()), 1e-6)
        mean = (image * weight[..., None]).sum((0, 1)) / total
        return image * weight[..., None] + mean * (1 - weight[..., None])
    half = ((w + 1) // 2, (h + 1) // 2)
    small_weight = cv2.resize(weight, half, interpolation=cv2.INTER_AREA)
    small = cv2.resize(image * weight[..., None], half, interpolation=cv2.INTER_AREA)
    small = small.reshape(*small_weight.shape, -1) / np.maximum(small_weight, 1e-6)[..., None]
    coarse = push_pull(small, np.minimum(small_weight * 4, 1))
    up = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR).reshape(image.shape)
    return np.asarray(image * weight[..., None] + up * (1 - weight[..., None]), np.float32)


def person_matte(rgb: Image, face: Face, pose: BodyPose | None = None) -> FloatArray:
    """Soft alpha (H, W) 0..1 of the person of `face`, hair included."""
    h, w = rgb.shape[:2]
    mask = coarse_mask(rgb, face, pose)
    scale = min(1.0, WORKING_SIDE / max(h, w))
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    coarse = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.float32)
    landmarks = face.landmarks[:468, :2] * scale
    alpha, model = _alpha(small, coarse, landmarks)
    if scale < 1:
        # Colours of the full photo through the local linear models of the reduced one (He and Sun, "Fast
        # Guided Filter", 2015).
        lines = cv2.resize(_box(model.fit(alpha), model.r), (w, h), interpolation=cv2.INTER_LINEAR)
        full = rgb.astype(np.float32) / 255
        fine = np.einsum("ijk,ijk->ij", lines[..., :3], full) + lines[..., 3]
        rough = cv2.resize(alpha, (w, h), interpolation=cv2.INTER_LINEAR)
        band = (rough > 0.01) & (rough < 0.99)
        alpha = np.where(band, fine, rough).astype(np.float32)
    # The last percent on either side is noise of the solution: make it exact.
    return np.clip((alpha - 0.02) / 0.96, 0, 1).astype(np.float32)


def _alpha(image: FloatArray, mask: FloatArray, landmarks: FloatArray) -> tuple[FloatArray, _LocalLinear]:
    size = float(np.ptp(landmarks, axis=0).max())
    hair = _hair_zone(mask.shape, landmarks, size)
    sure_in, sure_out = _trimap(mask, hair, landmarks, size)
    sure_out &= ~_strands(image, mask, landmarks, size, ~sure_out)
    free = ~(sure_in | sure_out)
    model = _LocalLinear(image, 1, 2e-5)
    target, weight = _data_term(image, mask, hair, sure_in, sure_out)
    start = np.where(sure_in, 1, np.where(sure_out, 0, target)).astype(np.float32)
    return np.clip(_solve(model, start, target, weight, free), 0, 1), model


def _data_term(
    image: FloatArray,
    mask: FloatArray,
    hair: FloatArray,
    sure_in: npt.NDArray[np.bool_],
    sure_out: npt.NDArray[np.bool_],
) -> tuple[FloatArray, FloatArray]:
    """What alpha should be by colour alone, and how far that is to be believed: (H, W) each.

    Each open pixel is explained as a mixture of one of several nearby foreground and one of several nearby
    background colours; the pair counts that explains it best and contradicts the coarse mask least. Away from
    hair, where mixtures are rare, a pixel may also be of a colour of its own.
    """
    rows, columns = np.nonzero(~(sure_in | sure_out))
    pixel, prior = image[rows, columns], mask[rows, columns]
    reach = max(2, round(0.02 * max(mask.shape)))
    fronts = _samples(image, sure_in, rows, columns, reach)
    backs = _samples(image, sure_out, rows, columns, reach)
    spread = np.stack(backs).std(0).sum(-1)
    # Foreground, or background where that is of many colours, of a colour of its own.
    alone = 0.08 + 0.5 * hair[rows, columns]
    as_front = alone + (1 - prior) ** 2
    as_back = alone + prior**2 + 2 * np.clip(1 - spread / 0.25, 0, 1)
    best = np.minimum(as_front, as_back).astype(np.float32)
    alpha = (as_front <= as_back).astype(np.float32)
    miss, contrast = np.zeros_like(best), np.full_like(best, 0.02)
    for b in backs:
        from_b = pixel - b
        for f in fronts:
            d = f - b
            square = (d * d).sum(-1) + 1e-4
            mix = np.clip((from_b * d).sum(-1) / square, 0, 1)
            error = ((from_b - mix[:, None] * d) ** 2).sum(-1)
            cost = error / 0.002 + 1.0 * (mix - prior) ** 2
            better = cost < best
            best[better], alpha[better] = cost[better], mix[better]
            miss[better], contrast[better] = error[better], square[better]
    # A colour that no mixture explains and that no background nearby has is something worn: foreground.
    distance = np.sqrt(np.min([((pixel - b) ** 2).sum(-1) for b in backs], axis=0))
    strange = np.clip(np.sqrt(miss) / 0.1 - 0.5, 0, 1) * np.clip(distance / (3 * spread + 0.05) - 1, 0, 1)
    belief = np.maximum(contrast / (contrast + 0.02) * np.exp(-miss / 0.005), strange)
    alpha = alpha + strange * (1 - alpha)
    weight, target = np.zeros_like(mask), mask.copy()
    total = 0.03 * belief + 0.003
    weight[rows, columns] = total
    target[rows, columns] = (0.03 * belief * alpha + 0.003 * prior) / total
    return target, weight


def _samples(
    image: FloatArray,
    sure: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    reach: int,
) -> list[FloatArray]:
    """Six colours (N, 3) for each of N pixels out of the `sure` region: the smooth continuation of its
    colours, the nearest one, and the nearest ones to four points `reach` pixels around."""
    smooth = push_pull(image, sure.astype(np.float32))
    _, labels = cv2.distanceTransformWithLabels(
        (~sure).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    flat = cv2.GaussianBlur(image, (0, 0), 0.7).reshape(-1, 3)
    inside = np.flatnonzero(sure.ravel())
    at = np.zeros(int(labels.max()) + 1, np.int64)
    at[labels.ravel()[inside]] = inside
    out = [smooth[rows, columns]]
    h, w = sure.shape
    for dy, dx in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
        y, x = np.clip(rows + dy * reach, 0, h - 1), np.clip(columns + dx * reach, 0, w - 1)
        out.append(flat[at[labels[y, x]]])
    return out


def _hair_zone(shape: tuple[int, ...], landmarks: FloatArray, size: float) -> FloatArray:
    """(H, W): 1 around the head, falling to 0 below the chin."""
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    cx, cy = landmarks.mean(0)
    hair = np.clip(1.5 - np.hypot(x - cx, y - cy) / (1.2 * size), 0, 1)
    return np.asarray(hair * np.clip(1 - (y - landmarks[:, 1].max()) / (0.5 * size), 0, 1), np.float32)


def _trimap(
    mask: FloatArray, hair: FloatArray, landmarks: FloatArray, size: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Pixels that are surely the person's, surely not: a band around the mask's edge is left open, wide where
    hair may be, narrow at clothes."""
    inner = cv2.distanceTransform((mask > 0.6).astype(np.uint8), cv2.DIST_L2, 5)
    outer = cv2.distanceTransform((mask < 0.3).astype(np.uint8), cv2.DIST_L2, 5)
    h, w = mask.shape
    wide_out, wide_in = 2 + size * (0.02 + 0.07 * hair), 2 + size * (0.015 + 0.05 * hair)
    sure_in = inner > wide_in
    hull = cv2.convexHull(landmarks.astype(np.int32))
    face = cv2.fillConvexPoly(np.zeros((h, w), np.uint8), hull, 1)
    sure_in |= cv2.erode(face, np.ones((3, 3), np.uint8), iterations=max(1, int(size * 0.03))).astype(bool)
    return sure_in, (outer > wide_out) & ~sure_in


def _strands(
    image: FloatArray,
    mask: FloatArray,
    landmarks: FloatArray,
    size: float,
    near: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Pixels (H, W) outside the band `near` the mask that stand out from a calm background and hang together
    with the band: strands of hair that the network has not seen."""
    distance = cv2.distanceTransform((~near).astype(np.uint8), cv2.DIST_L2, 5)
    h, w = mask.shape
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    cx, cy = landmarks.mean(0)
    around = (distance > 0) & (distance < 0.35 * size) & (np.hypot(x - cx, y - cy) < 2.2 * size)
    far = ((distance > 0.05 * size) & ~around).astype(np.float32)
    if far.sum() < 0.02 * far.size:
        far = (distance > 0.2 * size).astype(np.float32)
    # Mean and variance of the background, carried in from further out.
    mean, square = (cv2.GaussianBlur(push_pull(x, far), (0, 0), 0.1 * size) for x in (image, image**2))
    variance = np.maximum(square - mean**2, 0).sum(-1)
    fine = cv2.GaussianBlur(image, (0, 0), 1.0)
    stands_out = ((fine - mean) ** 2).sum(-1) > 9 * variance + 0.01
    calm = variance < 0.01
    candidates = (around & stands_out & calm) | near
    _, labels = cv2.connectedComponents(candidates.astype(np.uint8))
    keep = np.isin(labels, np.unique(labels[near])) & candidates & ~near
    return cv2.dilate(keep.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)


# --- 3. and 4. layers
# -----------------------------------------------------------------------------------------


def split_layers(rgb: Image, alpha: FloatArray) -> Layers:
    """Foreground colours, alpha and background plate of a photo; together they give the photo back.

    Given the plate, the foreground's colour follows from the compositing equation. Where no colour can
    explain a pixel in front of the filled background, alpha is raised if it was high or the misfit is small
    at the silhouette (halos of sharpening, strands that the matte lost), else the plate keeps the pixel.
    """
    image = rgb.astype(np.float32) / 255
    alpha = np.clip(alpha, 0, 1).astype(np.float32)
    plate = fill_background(image, alpha)
    # The least alpha for which a colour in 0..1 exists.
    room = np.where(image > plate, 1 - plate, plate)
    least = np.clip((np.abs(image - plate) / np.maximum(room, 1e-3)).max(-1), 0, 1)
    margin = _margin(alpha.shape)
    near = cv2.dilate((alpha > 0.4).astype(np.float32), _disc(margin))
    near = cv2.GaussianBlur(near, (0, 0), 0.5 * margin)
    small = np.clip(least - 0.02, 0, 1) * np.clip((0.4 - least) / 0.15, 0, 1) * near
    large = least * np.clip((alpha - 0.25) / 0.25, 0, 1)
    alpha = np.maximum(alpha, np.maximum(small, large))
    alpha8 = np.round(alpha * 255).astype(np.uint8)
    a = alpha8[..., None].astype(np.float32) / 255
    # Exact, but noise where alpha is nearly 0: there the colours of the inside are continued.
    exact = np.clip((image - (1 - a) * plate) / np.maximum(a, 1e-3), 0, 1)
    inside = push_pull(image, (alpha > 0.95).astype(np.float32))
    trust = a**2 / (a**2 + 0.05**2)
    foreground = np.where(a >= 1, image, trust * exact + (1 - trust) * inside)
    foreground8 = np.round(foreground * 255)
    missing = image - a * foreground8 / 255 - (1 - a) * plate
    # The plate takes over what is missing, at the silhouette only its slow part: an outline left there would
    # stay behind when the person moves.
    missing = missing * np.clip(1.2 - 2 * a, 0, 1) / np.maximum(1 - a, 0.1)
    rim = cv2.GaussianBlur(cv2.dilate((alpha8 > 1).astype(np.float32), _disc(1)), (0, 0), 1.0)[..., None]
    rim = np.clip(1.5 * rim, 0, 1)
    plate = plate + (1 - rim) * missing + rim * cv2.GaussianBlur(missing, (0, 0), 2.0 * margin)
    plate8 = np.round(np.clip(plate, 0, 1) * 255).astype(np.uint8)
    return Layers(foreground8.astype(np.uint8), alpha8, plate8)


def _margin(shape: tuple[int, ...]) -> int:
    """Width in pixels of what touches the silhouette without being in the matte: lens blur, halos of
    sharpening."""
    return max(2, round(0.008 * max(shape)))


def _disc(radius: int) -> Image:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2), np.uint8)


def fill_background(image: FloatArray, alpha: FloatArray) -> FloatArray:
    """The background (H, W, 3) float, continued behind the person.

    Close to the silhouette the background is mirrored at it, which keeps texture and grain; further in it
    passes into a smooth continuation. Colours are taken only from where no hair or shadow of the person can
    be.
    """
    h, w = alpha.shape
    margin = _margin(alpha.shape)
    touched = cv2.dilate((alpha > 0.02).astype(np.uint8), _disc(margin))
    safe = (touched == 0).astype(np.float32)
    if not safe.any():
        return image.copy()
    smooth = cv2.GaussianBlur(push_pull(image, safe), (0, 0), 0.01 * max(h, w))
    depth, labels = cv2.distanceTransformWithLabels(
        touched, cv2.DIST_L2, cv2.DIST_MASK_PRECISE, labelType=cv2.DIST_LABEL_PIXEL
    )
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    at = np.zeros(int(labels.max()) + 1, np.int64)
    outside = touched == 0
    at[labels[outside]] = np.flatnonzero(outside.ravel())
    nearest = at[labels]
    # Mirror point; the field is smoothed with growing depth so that it does not break along the silhouette's
    # axes.
    field = np.dstack([nearest % w - x, nearest // w - y]).astype(np.float32)
    soft = cv2.GaussianBlur(field, (0, 0), 0.01 * max(h, w))
    blend = np.clip(depth / (0.03 * max(h, w)), 0, 1)[..., None]
    field = field * (1 - blend) + soft * blend
    map_x, map_y = x + 2 * field[..., 0], y + 2 * field[..., 1]
    mirrored = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    valid = cv2.remap(safe, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    valid = np.clip(valid * 2 - 1, 0, 1) * np.clip(1.5 - depth / (0.06 * max(h, w)), 0, 1)
    filled = smooth + valid[..., None] * (mirrored - smooth)
    # From photo to fill within the margin, where the matte says that there is no person.
    keep = np.where(alpha > 0, 0, np.clip(1 - depth / margin, 0, 1)).astype(np.float32)
    keep = np.minimum(keep, cv2.GaussianBlur(keep, (0, 0), 1))[..., None]
    return np.asarray(filled + (image - filled) * keep, np.float32)
