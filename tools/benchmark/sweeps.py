"""Our loader by the number of its lanes, of its workers and by the preset of its shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial

from pipeline.manifest import Manifest
from tools.benchmark.loader import Means, our_views, side_by_side
from tools.benchmark.measure import Comparison

LANES = {"cpu": (1, 2, 4), "cuda": (1, 2, 4, 7, 10, 14)}
WORKERS = (1, 2, 4)


def by_lanes(shards: Manifest, means: Means, *, batches: int, rounds: int) -> Comparison:
    kind = "cpu" if means.device == "cpu" else "cuda"
    ways = {_count(n, "lane"): (shards, replace(means, lanes=n)) for n in LANES[kind]}
    title = f"Lanes of the loader: {means}, {means.workers} workers"
    return _swept(title, ways, means, batches=batches, rounds=rounds)


def by_workers(
    shards: Manifest, means: Means, *, counts: Iterable[int] = WORKERS, batches: int, rounds: int
) -> Comparison:
    ways = {_count(n, "worker"): (shards, replace(means, workers=n)) for n in counts}
    title = f"Workers of the loader: {means}, {_count(means.lanes, 'lane')}"
    return _swept(title, ways, means, batches=batches, rounds=rounds)


def by_preset(
    shards: Mapping[str, Manifest], means: Means, *, batches: int, rounds: int
) -> Comparison:
    """shards: the same videos by the preset that they were written with."""
    ways = {preset: (manifest, means) for preset, manifest in shards.items()}
    title = f"Presets through the loader: {means}, {means.workers} workers"
    return _swept(title, ways, means, batches=batches, rounds=rounds)


def _swept(
    title: str, ways: dict[str, tuple[Manifest, Means]], means: Means, **turns: int
) -> Comparison:
    streams = {name: partial(our_views, *way) for name, way in ways.items()}
    # As many batches before a turn as the way with the most workers needs.
    most = max(way.workers for _, way in ways.values())
    comparison = side_by_side(title, streams, replace(means, workers=most), **turns)
    comparison.apart = True
    return comparison


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
