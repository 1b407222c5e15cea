"""Small pictures of videos, moving and still, and which videos of a set to show."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from PIL import Image

from pipeline import BadVideo, ClipConfig, Manifest
from pipeline.clip import span, uniform_plan
from pipeline.decode import decode_frames
from training.features import Features

PICTURE_FRAMES, PICTURE_SIZE = 8, 64
WEBP_QUALITY = 60  # 132 pictures of 8 frames at about 6 kB each: a page of 1 MB
DECODE_TIMEOUT_SECONDS = 30.0


def spread(features: Features, allowed: set[int], number: int) -> list[int]:
    """Manifest rows of at most `number` videos: evenly spread over them in the order of classes.

    Twelve of twelve classes of one size are the middle video of each; nothing is picked by eye.
    """
    label = features.label.numpy()
    rows = [int(row) for row in features.index.numpy()[np.argsort(label, kind="stable")]]
    rows = [row for row in rows if row in allowed]
    some = min(number, len(rows))
    return [rows[int((n + 0.5) * len(rows) / some)] for n in range(some)]


class Pictures:
    """The central clip of a video: moving, and its middle frame for where it should stand still."""

    def __init__(self, clip: ClipConfig):
        # As much time as a clip of the recipe, in as many frames as the page can afford.
        stride = max(1, span(clip.frames, clip.stride) // PICTURE_FRAMES)
        self.clip = ClipConfig(frames=PICTURE_FRAMES, stride=stride)

    def __call__(self, manifest: Manifest, row: int, *, alt: str) -> str:
        video = manifest[row]
        plan = uniform_plan(video.frames, self.clip, 1)
        try:
            decoded = decode_frames(video, plan.frames, timeout_seconds=DECODE_TIMEOUT_SECONDS)
        except BadVideo as error:
            return f'<span class="missing">{escape(error.code)}: {escape(error.what)}</span>'
        frames = [_square(decoded[n]) for n in plan.views[0]]
        moving = _webp(frames, milliseconds=round(1000 * self.clip.stride / float(video.fps or 25)))
        still = _webp(frames[len(frames) // 2 :][:1], milliseconds=0)
        size = f'width="{PICTURE_SIZE}" height="{PICTURE_SIZE}"'
        rest = f'{size} alt="{escape(alt, quote=True)}" loading="lazy"'
        # The page shows one of them: by prefers-reduced-motion, or as its reader asks.
        return (
            f'<span class="picture"><img class="moving" src="{moving}" {rest}>'
            f'<img class="still" src="{still}" {rest}></span>'
        )

    def still(self, manifest: Manifest, row: int) -> str:
        """Data address of the video's middle frame; empty where it does not decode."""
        video = manifest[row]
        middle = np.array([video.frames // 2])
        try:
            decoded = decode_frames(video, middle, timeout_seconds=DECODE_TIMEOUT_SECONDS)
        except BadVideo:
            return ""
        return _webp([_square(decoded[0])], milliseconds=0)


def _square(rgb: np.ndarray) -> Image.Image:
    """The central square of [H, W, 3] uint8, as the network sees it, in the page's size."""
    side = min(rgb.shape[:2])
    top, left = ((length - side) // 2 for length in rgb.shape[:2])
    image = Image.fromarray(np.ascontiguousarray(rgb[top : top + side, left : left + side]))
    return image.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)


def _webp(frames: list[Image.Image], *, milliseconds: int) -> str:
    """A data address of an endless animation, or of a still for one frame."""
    file = io.BytesIO()
    more = {"save_all": True, "append_images": frames[1:], "duration": milliseconds, "loop": 0}
    frames[0].save(file, "WEBP", quality=WEBP_QUALITY, method=4, **(more if frames[1:] else {}))
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
