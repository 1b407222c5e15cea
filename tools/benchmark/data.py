"""`tools.benchmark data`: from videos to clips, by stages and whole, and from videos to shards."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.manifest import Manifest
from pipeline.shards.transcode import PRESETS
from tools.benchmark import damaged, loader, pipelines, sweeps
from tools.benchmark.chain import every_stage
from tools.benchmark.clips import every_preset, random_clips
from tools.benchmark.loader import Means
from tools.benchmark.measure import Comparison
from tools.benchmark.packing import making_shards, opening_a_million
from tools.benchmark.record import Record
from tools.benchmark.sources import originals, repeated, sharded
from tools.console import positive
from training import distributed

GPU_BATCH_VIDEOS = 32
FEW_ROUNDS = 3  # at most, of parts whose turns take ten seconds and more


@dataclass(frozen=True)
class Work:
    """What the parts are measured on; data sets are made when the first part asks for them."""

    arguments: argparse.Namespace
    device: str

    @property
    def folder(self) -> Path:
        return self.arguments.folder

    @property
    def turns(self) -> dict[str, int]:
        """Of loaders."""
        return {"batches": self.arguments.batches, "rounds": self.arguments.rounds}

    @property
    def few_rounds(self) -> int:
        return min(FEW_ROUNDS, self.arguments.rounds)

    @cached_property
    def means(self) -> Means:
        batch = Means().batch_videos if self.device == "cpu" else GPU_BATCH_VIDEOS
        return Means(device=self.device, workers=self.arguments.workers, batch_videos=batch)

    @cached_property
    def source(self) -> Manifest:
        return originals(self.folder, videos=self.arguments.videos, seconds=self.arguments.seconds)

    @cached_property
    def fast(self) -> Manifest:
        return self.shards("fast")

    def shards(self, preset: str) -> Manifest:
        jobs = len(os.sched_getaffinity(0))
        return sharded(self.folder, self.source, preset, jobs=jobs)

    def for_batches(self, manifest: Manifest) -> Manifest:
        """As many rows as a batch needs, at least."""
        videos = self.means.batch_videos
        if len(manifest) >= videos:
            return manifest
        return repeated(manifest, manifest.path.with_name("repeated.parquet"), videos=videos)


def _manifest(work: Work) -> list[Comparison]:
    return [opening_a_million(work.folder, rounds=work.arguments.rounds)]


def _stages(work: Work) -> list[Comparison]:
    return [every_stage(work.for_batches(work.fast), batches=1, rounds=work.arguments.rounds)]


def _clips(work: Work) -> list[Comparison]:
    turns = {"clips": work.arguments.clips, "rounds": work.arguments.rounds}
    return [random_clips(work.source, work.fast, **turns)]


def _loaders(work: Work) -> list[Comparison]:
    fast = work.for_batches(work.fast)
    return [loader.whole_loaders(fast, work.means, **work.turns)]


def _originals(work: Work) -> list[Comparison]:
    both = (work.for_batches(manifest) for manifest in (work.source, work.fast))
    turns = work.turns | {"rounds": work.few_rounds}
    return [loader.originals_beside_shards(*both, work.means, **turns)]


def _damaged(work: Work) -> list[Comparison]:
    folder = work.folder / "damaged"
    return [damaged.beside_whole(work.fast, work.means, folder, rounds=work.few_rounds)]


def _pipelines(work: Work) -> list[Comparison]:
    kind = "cpu" if work.device == "cpu" else "cuda"
    shards = work.shards(pipelines.PRESET[kind])
    options = {"device": work.device, "rounds": work.arguments.rounds}
    return [pipelines.lanes_beside_readers(shards, work.folder, **options)]


def _lanes(work: Work) -> list[Comparison]:
    return [sweeps.by_lanes(work.for_batches(work.fast), work.means, **work.turns)]


def _workers(work: Work) -> list[Comparison]:
    return [sweeps.by_workers(work.for_batches(work.fast), work.means, **work.turns)]


def _loader_presets(work: Work) -> list[Comparison]:
    presets = [preset for preset in PRESETS if preset != "copy"]
    shards = {preset: work.for_batches(work.shards(preset)) for preset in presets}
    return [sweeps.by_preset(shards, work.means, **work.turns)]


def _presets(work: Work) -> list[Comparison]:
    turns = {"clips": work.arguments.clips, "rounds": work.arguments.rounds}
    return [every_preset(work.folder, work.source, **turns)]


def _shards(work: Work) -> list[Comparison]:
    return making_shards(work.folder, work.source, rounds=work.arguments.rounds)


PARTS: dict[str, Callable[[Work], list[Comparison]]] = {
    "manifest": _manifest,
    "stages": _stages,
    "clips": _clips,
    "loaders": _loaders,
    "pipelines": _pipelines,
    "originals": _originals,
    "damaged": _damaged,
    "lanes": _lanes,
    "workers": _workers,
    "loader-presets": _loader_presets,
    "presets": _presets,
    "shards": _shards,
}
# Minutes together; each of the others takes minutes alone.
DEFAULT = ("manifest", "stages", "clips", "loaders", "pipelines", "presets", "shards")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(DEFAULT))
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every side")
    parser.add_argument("--videos", type=int, default=6, help="source videos")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a source video")
    parser.add_argument("--clips", type=int, default=48, help="random clips a turn")
    parser.add_argument("--batches", type=int, default=10, help="batches of a loader a turn")
    parser.add_argument("--workers", type=positive, default=2, help="of a loader")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin nothing after that")


def run(arguments: argparse.Namespace, record: Record) -> None:
    """Every part that was asked for, in the order of `PARTS`."""
    begun = time.monotonic()
    work = Work(arguments, str(distributed.start(arguments.device).device))
    for name in (name for name in PARTS if name in arguments.parts):
        if arguments.budget and time.monotonic() - begun > arguments.budget:
            record.skip(f"data {name}")
            continue
        record.console.print(f"measuring {name}")
        record.add(*PARTS[name](work))
