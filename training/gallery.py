"""Test videos beside the training videos that an encoder finds nearest, as moving pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import torch
from PIL import Image

from pipeline import BadVideo, ClipConfig, Manifest
from pipeline.clip import span, uniform_plan
from pipeline.decode import decode_frames
from training.features import Features
from training.protocols import nearest

QUERIES, NEIGHBOURS = 12, 5
PICTURE_FRAMES, PICTURE_SIZE = 8, 64
WEBP_QUALITY = 60  # 132 pictures of 8 frames at about 6 kB each: a page of 1 MB
DECODE_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Searched:
    """Features of the two sets by one encoder. name: how the gallery calls it."""

    name: str
    test: Features
    train: Features


def gallery(
    encoders: Sequence[Searched], *, train: Manifest, test: Manifest, clip: ClipConfig
) -> str:
    """HTML: one figure for each query, in it one row of neighbours for each encoder."""
    pictures = Pictures(clip)
    shared = [set(encoder.test.index.tolist()) for encoder in encoders]
    queries = spread(encoders[0].test, set.intersection(*shared))
    found = [neighbours(encoder, queries) for encoder in encoders]
    figures = []
    for number, query in enumerate(queries):
        rows = [
            _row(encoder.name, one[number], query, train=train, test=test, pictures=pictures)
            for encoder, one in zip(encoders, found, strict=True)
        ]
        figures.append(_figure(test, query, rows, pictures))
    return "\n".join(figures)


def spread(features: Features, allowed: set[int]) -> list[int]:
    """Manifest rows of the queries: evenly spread over the test videos in the order of classes.

    With twelve classes of one size it is the middle video of each; nothing is picked by eye.
    """
    label = features.label.numpy()
    rows = [int(row) for row in features.index.numpy()[np.argsort(label, kind="stable")]]
    rows = [row for row in rows if row in allowed]
    some = min(QUERIES, len(rows))
    return [rows[int((n + 0.5) * len(rows) / some)] for n in range(some)]


def neighbours(encoder: Searched, queries: list[int]) -> list[list[int]]:
    """For each query the manifest rows of the nearest training videos, best first."""
    place = {int(row): n for n, row in enumerate(encoder.test.index)}
    query = encoder.test.feature[torch.tensor([place[row] for row in queries])]
    k = min(NEIGHBOURS, len(encoder.train.index))
    return encoder.train.index[nearest(query, encoder.train.feature, k)].tolist()


class Pictures:
    """<picture> elements with the central clip of a video: moving, and still where asked for."""

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
        return (
            f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{still}">'
            f'<img src="{moving}" {size} alt="{escape(alt, quote=True)}" loading="lazy"></picture>'
        )


def _row(name: str, found: list[int], query: int, *, train, test, pictures) -> str:
    label = test[query].label
    right = sum(train[row].label == label for row in found)
    items = "".join(_neighbour(train, row, label, pictures) for row in found)
    return (
        f'<h4>{escape(name)} <span class="count">{right} of {len(found)} right</span></h4>'
        f'<ol class="found">{items}</ol>'
    )


def _neighbour(train: Manifest, row: int, label: int, pictures: Pictures) -> str:
    """A picture with the name of its class, marked by colour, outline, sign and words."""
    own = train[row].label
    kind, sign, words = (
        ("right", "✓", "the query's class") if own == label else ("wrong", "✗", "another class")
    )
    name = train.classes[own]
    picture = pictures(train, row, alt=f"training video of {name}, {words}")
    text = escape(name, quote=True)
    return (
        f'<li class="{kind}">{picture}<b aria-hidden="true">{sign}</b>'
        f'<span class="name" title="{text}">{text}</span></li>'
    )


def _figure(test: Manifest, query: int, rows: list[str], pictures: Pictures) -> str:
    name = test.classes[test[query].label]
    picture = pictures(test, query, alt=f"query: test video of {name}")
    content = "".join(rows)
    return (
        f"<figure><figcaption>{picture}<h3>{escape(name)}</h3><p>test video</p></figcaption>"
        f'<div class="answers">{content}</div></figure>'
    )


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
