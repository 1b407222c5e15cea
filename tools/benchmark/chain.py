"""The stages of a sample one by one and all together, in one process: where the time goes.

read -> decode -> views -> join, and flow beside them where a recipe wants it
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pipeline import DataConfig, build_loader
from pipeline.augment import of_views, training_draw
from pipeline.clip import ClipPlan, training_plan
from pipeline.decode import decode_pictures, read_bytes
from pipeline.flow.config import FlowConfig
from pipeline.flow.operator import build_operator
from pipeline.host import HostLane, HostViews
from pipeline.loader import Loader
from pipeline.manifest import Manifest, Video
from pipeline.sample import clip_tracks
from pipeline.track import Track
from tools.benchmark.counting import decoding
from tools.benchmark.loader import AUGMENT, BATCH_VIDEOS, CLIP
from tools.benchmark.measure import Comparison, Side, compare
from tools.benchmark.meter import Meter

VIEWS = 2
TIMEOUT_SECONDS = 60.0
LEAST_SECONDS = 0.5  # of a turn
WHOLE = "whole, one process"


@dataclass(frozen=True)
class Chain:
    """Samples with their plans, and every stage's input made before it is timed."""

    videos: list[Video]
    plans: list[ClipPlan]
    decoded: list[Track]
    rendered: list[Track]  # as they come out of a worker's batch
    lumas: torch.Tensor  # [samples x views, T, S, S] uint8

    @classmethod
    def of(cls, manifest: Manifest, *, samples: int) -> Chain:
        rng, augments = np.random.default_rng(0), of_views(AUGMENT, VIEWS)
        videos = [manifest[n % len(manifest)] for n in range(samples)]
        plans = [training_plan(video.frames, CLIP, VIEWS, rng) for video in videos]
        decoded = []
        for video, plan in zip(videos, plans, strict=True):
            drawn = [[training_draw(video.width, video.height, a, rng)] for a in augments]
            pictures = decode_pictures(video, plan.frames, timeout_seconds=TIMEOUT_SECONDS)
            decoded += clip_tracks(pictures, video, plan, list(plan.views), drawn)
        rendered = _loader(manifest).streams[0].stage[0].unpacked()
        grey = torch.from_numpy(np.stack([track.pictures[..., 1] for track in rendered]))
        lumas = grey.view(-1, CLIP.frames, AUGMENT.size, AUGMENT.size)
        return cls(videos, plans, decoded, rendered, lumas)

    def read(self) -> int:
        """The encoded files whole, as a decoder on a GPU is given them."""
        for video in self.videos:
            read_bytes(video)
        return len(self.videos)

    def decode(self) -> int:
        for video, plan in zip(self.videos, self.plans, strict=True):
            decode_pictures(video, plan.frames, timeout_seconds=TIMEOUT_SECONDS)
        return len(self.videos)

    def views(self) -> int:
        for track in self.decoded:
            _host()(track)
        return len(self.videos)

    def flow(self, operator: Callable[[torch.Tensor], torch.Tensor]) -> int:
        operator(self.lumas)
        return len(self.videos)

    def join(self, lane: HostLane) -> int:
        """What workers have rendered, normalised as one batch."""
        lane.submit(self.rendered)
        lane.collect()
        return len(self.rendered)


def every_stage(manifest: Manifest, *, batches: int, rounds: int) -> Comparison:
    """Milliseconds of a sample of two views in each stage and in the whole loader without workers;
    of the whole also what it decodes for what it delivers.
    """
    torch.set_num_threads(1)
    chain = Chain.of(manifest, samples=BATCH_VIDEOS)
    lane = HostLane(_host(), mean=AUGMENT.mean, std=AUGMENT.std)
    dis = build_operator("dis", FlowConfig(), device="cpu", threads=1)
    whole = partial(_whole, manifest, batches)
    sides = [
        Side(WHOLE, whole),
        Side("read", chain.read),
        Side("decode", chain.decode),
        Side("views", chain.views),
        Side("join", partial(chain.join, lane)),
        Side("flow of both views, DIS", partial(chain.flow, dis)),
    ]
    meter = Meter("sample", least_seconds=LEAST_SECONDS)
    title = f"Stages of a sample: two views of {CLIP.frames} frames at 112×112, one thread"
    comparison = compare(title, sides, unit="samples", rounds=rounds, rate=meter)
    comparison.timed = comparison.apart = True
    comparison.facts = meter.facts(sides)
    comparison.facts[WHOLE] |= decoding(whole, comparison.rate(WHOLE).p50)
    return comparison


def _whole(manifest: Manifest, batches: int) -> int:
    return sum(len(batch.index) for batch in _loader(manifest).batches(0, batches))


def _loader(manifest: Manifest) -> Loader:
    data = DataConfig(batch_size=BATCH_VIDEOS, workers=0, prefetch_batches=1)
    return build_loader(manifest, clip=CLIP, augment=AUGMENT, data=data, seed=0)


def _host() -> HostViews:
    return HostViews(AUGMENT.size, whole=True)
