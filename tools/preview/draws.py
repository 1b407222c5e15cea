"""An augmentation draw in words: what was done to a clip, read from the numbers that did it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.augment import RGB_TO_YIQ, YIQ_TO_RGB, Draw

Facts = dict[str, str]
OFF = "no"  # what a fact says of an augmentation that did not happen
UNTOUCHED = np.eye(3, 4)


def describe(draws: Sequence[Draw], *, width: int, height: int) -> Facts:
    """Crop, flip, jitter, grey, blur and solarise of a view of a `width` x `height` picture.

    draws: one for the clip, or one for each of its frames.
    """
    if len(draws) == 1:
        return _one(draws[0], width, height)
    flipped, grey, solarized = (
        sum(of(d) for d in draws) for of in (lambda d: d.flip, is_grey, _solarizes)
    )
    areas = [100 * _area(draw.roi) for draw in draws]
    sigmas = [draw.blur_sigma for draw in draws if draw.blur_sigma]
    blur = f"{min(sigmas):.2f} to {max(sigmas):.2f} px in " if sigmas else ""
    return {
        "crop": f"anew for each frame · {min(areas):.0f} to {max(areas):.0f} %",
        "flip": f"{flipped} of {len(draws)} frames",
        "jitter": "anew for each frame" if any(map(_is_jittered, draws)) else OFF,
        "grey": f"{grey} of {len(draws)} frames",
        "blur": f"{blur}{len(sigmas)} of {len(draws)} frames",
        "solarise": f"{solarized} of {len(draws)} frames",
    }


def color_words(color: np.ndarray, mean_matrix: np.ndarray | None = None) -> str:
    """The affine colour map [3, 4] of RGB in [0, 255] as levels, saturation and hue.

    mean_matrix: see Draw; what it adds to a grey level is told as a share of the clip's mean.

    Brightness and contrast scale and shift v, all channels alike; saturation and hue scale and
    turn the chroma plane of YIQ. So their composition, in any order, is told by four numbers.
    """
    chroma = (RGB_TO_YIQ @ color[:, :3] @ YIQ_TO_RGB)[1:, 1:]
    gain, offset = color[0, :3].sum(), color[:, 3].mean()
    words = f"{gain:.2f} v {'−' if offset < 0 else '+'} {abs(offset):.0f}"
    if mean_matrix is not None and mean_matrix.any():
        share = mean_matrix[0].sum()
        words = f"{gain:.2f} v {'−' if share < 0 else '+'} {abs(share):.2f} of the clip's mean"
    if is_flat(color) or gain == 0:
        return words
    saturation = math.hypot(chroma[0, 0], chroma[1, 0]) / gain
    degrees = math.degrees(math.atan2(chroma[1, 0], chroma[0, 0]))
    turn = f"{degrees:+.0f}".replace("-", "−")
    return f"{words}, saturation {saturation:.2f}, hue {turn}°"


def is_flat(color: np.ndarray) -> bool:
    """Whether a colour map leaves no colour: all three channels come out alike."""
    return bool(np.allclose(color, color[0], atol=1e-9))


def is_grey(draw: Draw) -> bool:
    return is_flat(draw.color)


def _one(draw: Draw, width: int, height: int) -> Facts:
    top, left, bottom, right = draw.roi
    size = f"{(right - left) * width:.0f} × {(bottom - top) * height:.0f}"
    return {
        "crop": f"{size} at {left * width:.0f}, {top * height:.0f} · {100 * _area(draw.roi):.0f} %",
        "flip": "yes" if draw.flip else OFF,
        "jitter": color_words(draw.color, draw.mean_matrix) if _is_jittered(draw) else OFF,
        "grey": "yes" if is_grey(draw) else OFF,
        "blur": f"{draw.blur_sigma:.2f} px" if draw.blur_sigma else OFF,
        "solarise": f"from {draw.solarize_from}" if _solarizes(draw) else OFF,
    }


def _area(roi: tuple[float, float, float, float]) -> float:
    top, left, bottom, right = roi
    return (bottom - top) * (right - left)


def _is_jittered(draw: Draw) -> bool:
    """Whether brightness, contrast, saturation or hue changed; greyscale alone does not count."""
    if is_grey(draw):
        return not np.allclose((draw.color[0, :3].sum(), draw.color[0, 3]), (1, 0))
    return not np.allclose(draw.color, UNTOUCHED)


def _solarizes(draw: Draw) -> bool:
    return draw.solarize_from <= 255
