"""Whole loaders side by side: from `fast` shards to the two augmented views of CVRL.

Every side reads the same videos, draws two clips of each and gives batches of the same form on the
same device, with as many worker processes of one thread each. What differs is what a user would
write around them, and that ours normalises in a thread of the trainer, or on the GPU, and the
others in their workers.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from pipeline import AugmentConfig, Batch, ClipConfig, DataConfig, Place, build_loader
from pipeline.augment import of_views, training_draw
from pipeline.clip import training_plan
from pipeline.manifest import Manifest, Video
from tools.benchmark.measure import Comparison, Side, compare
from tools.benchmark.meter import Meter
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


@dataclass(frozen=True)
class Means:
    """What a loader has to work with. lanes: of ours alone."""

    device: str = "cpu"
    workers: int = WORKERS
    batch_videos: int = BATCH_VIDEOS
    lanes: int = 1
    decoder: str = "auto"

    def __str__(self) -> str:
        """For a title."""
        return f"two views of {CLIP.frames} frames at {AUGMENT.size}×{AUGMENT.size}"

    @property
    def ahead(self) -> int:
        """More batches than are made before the first is taken."""
        return (self.workers + 1) * AHEAD_BATCHES

    @property
    def finish(self) -> Callable[[], None] | None:
        """Waits for the device."""
        return torch.cuda.synchronize if self.device != "cpu" else None


def whole_loaders(shards: Manifest, means: Means, *, batches: int, rounds: int) -> Comparison:
    """Samples a second of every loader once it runs; a sample is two views of 16 frames."""
    rivals = {
        "decord2, kornia, DataLoader": (decord_clip, _by_kornia),
        "decord2, OpenCV, DataLoader": (decord_clip, _by_opencv),
        "PyAV, OpenCV, DataLoader": (pyav_clip, _by_opencv),
    }
    streams = {"Kinema": partial(our_views, shards, means)}
    streams |= {name: partial(_rival, shards, means, *how) for name, how in rivals.items()}
    goals = dict(zip(rivals, (2.0, 1.5, 1.5), strict=True))
    title = f"Loaders: {means}, {means.workers} workers"
    return side_by_side(title, streams, means, batches=batches, rounds=rounds, goals=goals)


def originals_beside_shards(
    source: Manifest, shards: Manifest, means: Means, *, batches: int, rounds: int
) -> Comparison:
    """What shards are for: our loader on them, and the usual one on the videos as they came.

    A slow side's queues are empty after every batch, so it is under way after one of each worker,
    and the next two of each are a turn: a batch of it takes some seconds.
    """
    rival = "decord2, kornia, 720p originals"
    streams = {
        "Kinema, fast shards": partial(our_views, shards, means),
        rival: partial(_rival, source, means, decord_clip, _by_kornia),
    }
    title = f"Loaders on originals and on shards: {means}, {means.workers} workers"
    turns = {"batches": batches, "rounds": rounds, "slow": {rival: means.workers}}
    return side_by_side(title, streams, means, goals={rival: 20.0}, **turns)


def side_by_side(
    title: str,
    streams: dict[str, Callable[[], Views]],
    means: Means,
    *,
    batches: int,
    rounds: int,
    goals: dict[str, float] | None = None,
    slow: Mapping[str, int] = MappingProxyType({}),
) -> Comparison:
    """Loaders in turns of `batches`, with what each takes of the machine.

    slow: batches of the warm-up of sides that take long for one; a turn is twice as many.
    """
    torch.set_num_threads(1)
    sides = [
        Side(name, Endless(start, 2 * slow[name], slow[name]))
        if name in slow
        else Side(name, Endless(start, batches, means.ahead))
        for name, start in streams.items()
    ]
    meter = Meter("sample", finish=means.finish)
    rate = partial(steady_rate, meter=meter)
    turns = {"unit": "samples", "rounds": rounds, "goals": goals, "warm_up": False, "rate": rate}
    comparison = compare(title, sides, **turns)
    comparison.facts = meter.facts(sides)
    return comparison


class Endless:
    """Views without end, once `start` has started the workers. A turn is `batches` of them, after
    `warm_up` that are not timed.
    """

    def __init__(self, start: Callable[[], Views], batches: int, warm_up: int):
        self.start, self.batches, self.warm_up = start, batches, warm_up
        self.views: Iterator[Sequence[Tensor]] = iter(())

    def __call__(self) -> float:
        return sum(len(views[0]) for views in islice(self.views, self.batches))


def steady_rate(stream: Endless, *, meter: Meter) -> float:
    """Of workers that are under way. They end with the turn: else they would make batches ahead, at
    the cost of whoever has the next one.
    """
    with closing(stream.start()) as stream.views:
        for _ in islice(stream.views, stream.warm_up):
            pass
        return meter(stream)


def our_views(shards: Manifest, means: Means, *, first: int = 0) -> Views:
    with closing(our_batches(shards, means, first=first)) as batches:
        for batch in batches:
            yield batch.views


def our_batches(
    shards: Manifest,
    means: Means,
    *,
    first: int = 0,
    noted: Callable[[list[dict]], None] = lambda entries: None,
) -> Generator[Batch, None, None]:
    """From step `first` on, without end. noted: told of damaged videos."""
    data = DataConfig(
        batch_size=means.batch_videos, workers=means.workers, prefetch_batches=AHEAD_BATCHES,
        lanes=means.lanes, decoder=means.decoder,
    )  # fmt: skip
    place = Place(device=means.device)
    loader = build_loader(
        shards, clip=CLIP, augment=AUGMENT, data=data, seed=0, place=place, noted=noted
    )
    with closing(loader.batches(first, MANY)) as batches:
        yield from batches


def _rival(shards: Manifest, means: Means, decode: Decode, augment: Augment) -> Views:
    loader = torch.utils.data.DataLoader(
        _Clips(shards, decode, augment),
        batch_size=means.batch_videos,
        num_workers=means.workers,
        prefetch_factor=AHEAD_BATCHES,
        worker_init_fn=_one_thread,
        multiprocessing_context="forkserver",
        pin_memory=means.device != "cpu",
    )
    try:
        for views in loader:
            yield [view.to(means.device, non_blocking=True) for view in views]
    finally:  # in the middle of a batch: they would finish it in the turn of another side
        for worker in multiprocessing.active_children():
            if worker.daemon:
                worker.kill()


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
