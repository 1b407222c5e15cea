"""Source videos for benchmarks: 720p H.264 as cameras and the net deliver it, made here."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, FPS = 1280, 720, 30
MARGIN = 256  # pixels that the camera may travel on each side
GOP_FRAMES = 250  # x264's default: the hardest to seek in


# What each encoder is told, beside the distance of its key frames.
OPTIONS = {
    "libx264": {"preset": "veryfast", "threads": "1"},
    "libx265": {"preset": "ultrafast", "bf": "0", "x265-params": "log-level=none:pools=1"},
    "mjpeg": {"qmin": "4", "qmax": "4"},
}
FULL_RANGE = {"mjpeg": "yuvj420p"}


def write_footage(
    path: Path,
    *,
    seconds: float,
    seed: int,
    width: int = WIDTH,
    height: int = HEIGHT,
    codec: str = "libx264",
    gop: int = GOP_FRAMES,
) -> Path:
    """A camera that travels over a textured ground, with grain; about 5 MB for ten seconds.

    Left as it is when it exists: a video takes some seconds to make.
    """
    if path.exists():
        return path
    rng = np.random.default_rng(seed)
    ground = _ground(rng, height + 2 * MARGIN, width + 2 * MARGIN)
    grain = rng.normal(0, 6, (height + 64, width + 64, 1)).astype(np.int8)
    partial = path.with_name(path.name + ".partial")
    with av.open(str(partial), "w", format="mp4") as container:
        video = container.add_stream(codec, rate=FPS, options=dict(OPTIONS[codec]))
        video.width, video.height = width, height
        video.pix_fmt = FULL_RANGE.get(codec, "yuv420p")
        video.gop_size = gop
        for n in range(round(seconds * FPS)):
            picture = _shot(ground, grain, rng, n, width, height)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
    os.replace(partial, path)
    return path


def _ground(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """[height, width, 3] uint8: noise of six octaves, each half as fine and twice as strong."""
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(6):
        cell = 2 ** (octave + 1)
        coarse = rng.normal(0, 2**octave, (-(-height // cell), -(-width // cell), 3))
        fine = coarse.astype(np.float32).repeat(cell, 0).repeat(cell, 1)
        total += fine[:height, :width]
    return np.clip(128 + total, 0, 255).astype(np.uint8)


def _shot(
    ground: np.ndarray, grain: np.ndarray, rng: np.random.Generator, n: int, width: int, height: int
) -> np.ndarray:
    x = round(MARGIN * (1 + np.sin(n / 40)))
    y = round(MARGIN * (1 + np.cos(n / 55)))
    dy, dx = rng.integers(64, size=2)
    view = ground[y : y + height, x : x + width].astype(np.int16)
    return np.clip(view + grain[dy : dy + height, dx : dx + width], 0, 255).astype(np.uint8)
