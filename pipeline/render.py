"""Views on the CPU: crop and scale a frame as it was decoded, and only then make it RGB.

A frame of video is luma and, at a quarter of the pixels each, two planes of chroma. Scaled as
planes, a view of 112 x 112 from 456 x 256 converts 12,544 pixels instead of 116,736. Pictures that
are stored in another way (4:4:4, 10 bits, palettes) are made RGB first.

`pipeline/graph.py` does the same to what a GPU decodes. Two ways to scale and to place chroma:
tests/pipeline/test_render.py says how far apart their pixels are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter

from pipeline.augment import LUMA, Draw, blur_window

# T frames, H x W pixels of the video, S side of a view

PLANAR = ("yuv420p", "yuvj420p")
# Shares of red and blue in luma by the codes of ITU-T H.273, table 4: BT.709, FCC, SMPTE 240M and
# BT.2020. All others are BT.601, as FFmpeg takes video that does not say.
SHARES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 7: (0.212, 0.087)}
SHARES |= dict.fromkeys((9, 10), (0.2627, 0.0593))
BT601 = (0.299, 0.114)
# Frame.to_ndarray(format=...) sets up a new converter for every frame: 0.50 ms at 64 x 64 where
# this takes 0.09 (medians of 400 frames). One keeps its set-up while sizes and formats stay.
REFORMATTER = VideoReformatter()
AS_IT_IS = np.eye(3, 4)
cv2.setNumThreads(1)  # a worker process is one thread; the others have cores of their own


@dataclass(frozen=True)
class Picture:
    """A decoded frame, upright. planes: Y [H, W] with U and V [H / 2, W / 2], or RGB [H, W, 3].

    to_rgb: [3, 4] affine map from the levels of the planes to RGB in [0, 255].
    """

    planes: tuple[np.ndarray, ...]
    to_rgb: np.ndarray


def picture(frame: av.VideoFrame, *, width: int, height: int, rotation: int) -> Picture:
    """A frame of a video that is displayed at `width` x `height`, `rotation` degrees clockwise.

    Its planes are the decoder's own memory: nothing is copied unless it has to be turned.
    """
    turned = rotation in (90, 270)
    stored = (height, width) if turned else (width, height)
    if frame.format.name not in PLANAR or (frame.width, frame.height) != stored:
        return Picture((rgb(frame, width=width, height=height, rotation=rotation),), AS_IT_IS)
    y, u, v = frame.planes
    w, h = stored
    half = (h + 1) // 2, (w + 1) // 2
    planes = _plane(y, (h, w)), _plane(u, half), _plane(v, half)
    full_range = frame.format.name == "yuvj420p" or frame.color_range == ColorRange.JPEG
    return Picture(
        tuple(_turned(plane, rotation) for plane in planes) if rotation else planes,
        _yuv_to_rgb(SHARES.get(int(frame.colorspace), BT601), full_range),
    )


def rgb(frame: av.VideoFrame, *, width: int, height: int, rotation: int) -> np.ndarray:
    """[height, width, 3] uint8 as displayed, of that size whatever the stream's own is."""
    w, h = (height, width) if rotation in (90, 270) else (width, height)
    pixels = REFORMATTER.reformat(frame, format="rgb24", width=w, height=h).to_ndarray()
    return _turned(pixels, rotation)


def _plane(plane: av.video.plane.VideoPlane, size: tuple[int, int]) -> np.ndarray:
    return np.ndarray(size, np.uint8, plane, strides=(plane.line_size, 1))


def _turned(plane: np.ndarray, rotation: int) -> np.ndarray:
    if not rotation:
        return plane
    return np.ascontiguousarray(np.rot90(plane, k=-rotation // 90))


@cache
def _yuv_to_rgb(shares: tuple[float, float], full_range: bool) -> np.ndarray:
    """[3, 4] from Y, Cb, Cr in bytes, as ITU-T H.273 defines them."""
    red, blue = shares
    green = 1 - red - blue
    matrix = np.array([
        [1, 0, 2 * (1 - red)],
        [1, -2 * (1 - blue) * blue / green, -2 * (1 - red) * red / green],
        [1, 2 * (1 - blue), 0],
    ])  # fmt: skip
    black, levels = (0, (255, 255, 255)) if full_range else (16, (219, 224, 224))
    matrix = matrix * (255 / np.array(levels))
    return np.column_stack([matrix, -matrix @ [black, 128, 128]])


def placed(pictures: Sequence[Picture], draw: Draw, size: int) -> np.ndarray:
    """[T, S, S, 3] uint8 RGB: the draw's region of every picture, scaled, not mirrored yet."""
    clip = np.empty((len(pictures), size, size, 3), np.uint8)
    for frame, one in zip(clip, pictures, strict=True):
        scaled = [_scaled(plane, draw.roi, size) for plane in one.planes]
        cv2.transform(scaled[0] if len(scaled) == 1 else cv2.merge(scaled), one.to_rgb, dst=frame)
    return clip


def _scaled(plane: np.ndarray, roi: tuple[float, float, float, float], size: int) -> np.ndarray:
    """Means of areas where both sides shrink, else linear, as a picture grows."""
    region, how = _scaling(roi, plane.shape, size)
    return cv2.resize(plane[region], (size, size), interpolation=how)


@lru_cache(maxsize=8)  # one for all frames of a clip, of luma and of chroma
def _scaling(
    roi: tuple[float, float, float, float], shape: tuple[int, ...], size: int
) -> tuple[tuple[slice, slice], int]:
    """What to take of a plane, and how to scale it."""
    region = _whole_pixels(roi[0::2], shape[0]), _whole_pixels(roi[1::2], shape[1])
    shrinks = min(part.stop - part.start for part in region) >= size
    return region, cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR


def _whole_pixels(part: tuple[float, float], length: int) -> slice:
    """[first, last) in [0, 1] of a side as whole pixels, one at least."""
    first = min(round(part[0] * length), length - 1)
    return slice(first, max(round(part[1] * length), first + 1))


def mirrored(clip: np.ndarray, draw: Draw) -> np.ndarray:
    """[T, S, S, ...], left and right exchanged where the draw says so."""
    return clip[:, :, ::-1] if draw.flip else clip


def luma(clip: np.ndarray) -> np.ndarray:
    """[T, S, S, 3] uint8 RGB -> [T, S, S] uint8."""
    return cv2.transform(_rows(clip), LUMA[None]).reshape(clip.shape[:3])


def painted(clip: np.ndarray, draw: Draw) -> np.ndarray:
    """[T, S, S, 3] uint8 with the draw's colour, then blur, then solarisation."""
    if (draw.color != AS_IT_IS).any():
        color = draw.color.copy()
        if draw.mean_matrix.any():
            color[:, 3] += draw.mean_matrix @ clip.mean(axis=(0, 1, 2))
        clip = cv2.transform(_rows(clip), color).reshape(clip.shape)
    if draw.blur_sigma > 0:
        window = (blur_window(draw.blur_sigma),) * 2
        clip = np.stack([cv2.GaussianBlur(frame, window, draw.blur_sigma) for frame in clip])
    if draw.solarize_from < 256:
        clip = np.where(clip >= draw.solarize_from, 255 - clip, clip)
    return clip


def _rows(clip: np.ndarray) -> np.ndarray:
    """A clip as one tall picture, for what is done to each pixel alone."""
    return clip.reshape(-1, *clip.shape[2:])
