"""Closed-form matting with a data term, and smooth continuation of images into holes.

Levin, Lischinski, Weiss, "A Closed-Form Solution to Natural Image Matting", 2008, applied with box filters as in He, Sun, Tang, "Fast
Matting Using Large Kernel Matting Laplacian Matrices", 2010; the data term follows Wang, Cohen, "Optimized Color Sampling for Robust
Matting", 2007; solved by conjugate gradients. Images are float (H, W, 3) 0..1, mattes float32 (H, W) 0..1.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]


def box_mean(x: FloatArray, r: int) -> FloatArray:
    """Mean over (2r+1)^2 pixels of (H, W, ...)."""
    return np.asarray(cv2.boxFilter(x, -1, (2 * r + 1, 2 * r + 1), borderType=cv2.BORDER_REFLECT), np.float32)


class LocalLinear:
    """Windows of (2r+1)^2 pixels in each of which a plane is taken to be linear in the colours of `image`
    (H, W, 3) float 0..1: the matting Laplacian without its matrix."""

    def __init__(self, image: FloatArray, r: int, epsilon: float) -> None:
        self.image, self.r = image, r
        self.mean = box_mean(image, r)
        i, j = np.triu_indices(3)
        products = box_mean(image[..., i] * image[..., j], r) - self.mean[..., i] * self.mean[..., j]
        a, b, c, d, e, f = np.moveaxis(products.astype(np.float64), -1, 0)
        a, d, f = a + epsilon, d + epsilon, f + epsilon
        # Inverse of the symmetric covariance [[a, b, c], [b, d, e], [c, e, f]].
        minors = [d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b]
        determinant = a * minors[0] + b * minors[1] + c * minors[2]
        self.inverse = (np.stack(minors) / determinant).astype(np.float32)

    def fit(self, p: FloatArray) -> FloatArray:
        """(H, W, 4): per window, gradient to the three colours and offset of plane `p` (H, W)."""
        means = box_mean(np.dstack([self.image * p[..., None], p]), self.r)
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
        model = box_mean(self.fit(p), self.r)
        return p - np.einsum("ijk,ijk->ij", model[..., :3], self.image) - model[..., 3]


def solve(
    model: LocalLinear,
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


def data_term(
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
