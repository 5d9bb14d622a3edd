"""The video network on the device: the face cut out, features, sampler steps, and what it painted put back."""

from __future__ import annotations

from visavis.engine.video.crop import CropTransform


def crop_place(
    where: CropTransform, width: int, height: int
) -> tuple[float, float, float, int, int, int, int, int]:
    """scale, x0, y0 and by, left, top, columns, rows of face_crop.cu for a frame of width x height: as `crop` has it."""
    by, left, top, columns, rows = 1, 0, 0, width, height
    if where.scale < 0.67:
        by = round(1 / where.scale)
        x0, y0, x1, y1 = where.box(width, height)
        left, top = max(x0 - by, 0), max(y0 - by, 0)
        columns = (min(x1 + 2 * by, width) - left) // by
        rows = (min(y1 + 2 * by, height) - top) // by
        if x1 <= x0 or y1 <= y0 or columns < 1 or rows < 1:
            by, left, top, columns, rows = 1, 0, 0, width, height
    return where.scale, where.x0, where.y0, by, left, top, columns, rows
