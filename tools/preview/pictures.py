"""Frames of a strip as pictures to show: in another size, with the crops outlined."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from tools.preview.samples import Box, Strip

VIEW_COLORS = ("#2f5fd0", "#d9631e", "#1b8a4a", "#9a45c9", "#b8860b", "#0e8a99")
HALO = "#ffffff"


def view_color(view: int) -> str:
    return VIEW_COLORS[view % len(VIEW_COLORS)]


def fitted(width: int, height: int, limit: int) -> tuple[int, int]:
    """Size of a picture in a square of `limit`: whole multiples where it is small."""
    longest = max(width, height)
    if longest <= limit:
        return width * (limit // longest), height * (limit // longest)
    return max(1, round(width * limit / longest)), max(1, round(height * limit / longest))


def pictures(strip: Strip, limit: int, chosen: Sequence[int] | None = None) -> list[Image.Image]:
    """The pictures numbered `chosen` (default: all) of a strip, each in a square of `limit`.

    Small views are enlarged by a whole factor without smoothing, so a pixel stays a pixel. The
    source is there for its outlines and fills its square.
    """
    numbers = range(len(strip.frames)) if chosen is None else chosen
    if not strip.boxes:
        return [_resized(strip.frames[n], limit) for n in numbers]
    return [outlined(_filling(strip.frames[n], limit), strip.boxes[n]) for n in numbers]


def outlined(image: Image.Image, boxes: Sequence[Box]) -> Image.Image:
    """The picture with the outline of each box in the colour of its view, on a light halo."""
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for view, (top, left, bottom, right) in boxes:
        corners = (left * width, top * height, right * width - 1, bottom * height - 1)
        x0, y0, x1, y1 = (round(value) for value in corners)
        box = (max(0, x0), max(0, y0), max(x0, min(width - 1, x1)), max(y0, min(height - 1, y1)))
        if box[2] - box[0] > 6 and box[3] - box[1] > 6:
            inner = (box[0] + 2, box[1] + 2, box[2] - 2, box[3] - 2)
            draw.rectangle(inner, outline=HALO)
        draw.rectangle(box, outline=view_color(view), width=2)
    return image


def _resized(rgb: np.ndarray, limit: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(rgb))
    size = fitted(*image.size, limit)
    grown = size[0] >= image.width
    return image.resize(size, Image.Resampling.NEAREST if grown else Image.Resampling.LANCZOS)


def _filling(rgb: np.ndarray, limit: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(rgb))
    factor = limit / max(image.size)
    size = [max(1, round(length * factor)) for length in image.size]
    return image.resize(size, Image.Resampling.LANCZOS)
