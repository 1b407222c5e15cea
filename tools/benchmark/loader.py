"""Whole loaders side by side: from `fast` shards to the two augmented views of CVRL.

Every side reads the same videos, draws two clips of each and gives batches of the same form, with
two worker processes of one thread each. What differs is what a user would write around them, and
that ours normalises in a thread of the trainer, and the others in their workers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pipeline import AugmentConfig, ClipConfig, DataConfig, build_loader
from pipeline.augment import of_views, training_draw
from pipeline.clip import training_plan
from pipeline.manifest import Manifest, Video
from tools.benchmark.measure import Comparison, Side, compare, rate_of_one
from tools.benchmark.pictures import kornia_views, opencv_view
from tools.benchmark.rivals import decord_clip, pyav_clip

WORKERS = 2
BATCH_VIDEOS = 6
AHEAD_BATCHES = 2  # of each worker
MANY = 10**6
# CVRL's as in configs/cvrl_k400.yaml, at the smaller size that video networks are compared at.
CLIP = ClipConfig(frames=16, stride=2, sampling="interval")
AUGMENT = AugmentConfig(
    size=112, scale=[0.3, 1.0], ratio=[0.5, 2.0], brightness=0.8, contrast=0.8, saturation=0.8,
    hue=0.2, blur=1.0, views={1: {"blur": 0.1, "solarize": 0.2}},
)  # fmt: skip

Views = Generator[Sequence[Tensor], None, None]
Decode = Callable[[Video, np.ndarray], np.ndarray]
Augment = Callable[[list[np.ndarray], np.random.Generator], list[Tensor]]


def whole_loaders(shards: Manifest, *, batches: int, rounds: int) -> Comparison:
    """Samples a second of every loader once it runs; a sample is two views of 16 frames."""
    rivals = {
        "decord2, kornia, DataLoader": (decord_clip, _by_kornia),
        "decord2, OpenCV, DataLoader": (decord_clip, _by_opencv),
        "PyAV, OpenCV, DataLoader": (pyav_clip, _by_opencv),
    }
    streams = {"Kinema": partial(_ours, shards)}
    streams |= {name: partial(_rival, shards, *means) for name, means in rivals.items()}
    sides = [Side(name, _Stream(start, batches)) for name, start in streams.items()]
    torch.set_num_threads(1)
    goals = dict(zip(rivals, (2.0, 1.5, 1.5), strict=True))
    title = f"Loaders: two views of {CLIP.frames} frames at 112×112, {WORKERS} workers"
    return compare(
        title, sides, unit="samples", rounds=rounds, goals=goals, warm_up=False, rate=_steady_rate
    )


class _Stream:
    """Views without end, once `start` has started the workers. A turn is `batches` of them."""

    def __init__(self, start: Callable[[], Views], batches: int):
        self.start, self.batches = start, batches
        self.views: Iterator[Sequence[Tensor]] = iter(())

    def __call__(self) -> float:
        return sum(len(views[0]) for views in islice(self.views, self.batches))


def _steady_rate(stream: _Stream) -> float:
    """Of workers that are under way. They end with the turn: else they would make batches ahead, at
    the cost of whoever has the next one.
    """
    with closing(stream.start()) as stream.views:
        for _ in islice(stream.views, (WORKERS + 1) * AHEAD_BATCHES):
            pass  # more than is made before the first is taken
        return rate_of_one(stream)


def _ours(shards: Manifest) -> Views:
    data = DataConfig(batch_size=BATCH_VIDEOS, workers=WORKERS, prefetch_batches=AHEAD_BATCHES)
    loader = build_loader(shards, clip=CLIP, augment=AUGMENT, data=data, seed=0)
    with closing(loader.batches(0, MANY)) as batches:
        for batch in batches:
            yield batch.views


def _rival(shards: Manifest, decode: Decode, augment: Augment) -> Views:
    loader = torch.utils.data.DataLoader(
        _Clips(shards, decode, augment),
        batch_size=BATCH_VIDEOS,
        num_workers=WORKERS,
        prefetch_factor=AHEAD_BATCHES,
        worker_init_fn=_one_thread,
        multiprocessing_context="forkserver",
    )
    yield from loader


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class _Clips(torch.utils.data.Dataset):
    """Two clips of a video, decoded and augmented: a data set as users write it."""

    manifest: Manifest
    decode: Decode
    augment: Augment

    def __len__(self) -> int:
        return MANY

    def __getitem__(self, number: int) -> list[Tensor]:
        rng = np.random.default_rng(number)
        video = self.manifest[number % len(self.manifest)]
        plan = training_plan(video.frames, CLIP, 2, rng)
        pictures = self.decode(video, plan.frames)
        return self.augment([pictures[rows] for rows in plan.views], rng)


def _by_kornia(clips: list[np.ndarray], _: np.random.Generator) -> list[Tensor]:
    return kornia_views(clips, of_views(AUGMENT, len(clips)))


def _by_opencv(clips: list[np.ndarray], rng: np.random.Generator) -> list[Tensor]:
    """With our draws: the regions and colours are those that our loader would take."""
    height, width = clips[0].shape[1:3]
    return [
        opencv_view(clip, training_draw(width, height, augment, rng), augment)
        for clip, augment in zip(clips, of_views(AUGMENT, len(clips)), strict=True)
    ]
