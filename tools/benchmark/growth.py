"""`tools.benchmark memory`: what a long run of the loader keeps, in memory and in open files.

The real loader over small videos, so that many clips take little time: what is kept for a clip is
kept however few its pixels are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

from pipeline import AugmentConfig, ClipConfig, DataConfig, build_loader
from pipeline.manifest import Manifest
from tools.benchmark.measure import Comparison, Limit
from tools.benchmark.processes import Usage, usage
from tools.benchmark.record import Record
from tools.benchmark.sources import originals
from tools.console import positive

VIDEOS, SECONDS, SIDE = 24, 1.0, 48  # that the clips come from; pixels
BATCH_VIDEOS, VIEWS = 12, 2
CLIP = ClipConfig(frames=4, stride=2, sampling="random")
AUGMENT = AugmentConfig(size=32, blur=0.5)
WINDOWS = 100  # of the run, each with its rate and its sizes
WARM_UP_SHARE = 0.1  # of the clips come before the first look: all that is made once is made then
GROWTH_MEGABYTES = 50.0
MEGABYTE = 1e6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", type=positive, default=20_000, help="that are looked at")
    parser.add_argument("--workers", type=int, default=2)


def run(arguments: argparse.Namespace, record: Record) -> None:
    sizes = {"videos": VIDEOS, "seconds": SECONDS, "width": SIDE, "height": SIDE}
    manifest = originals(arguments.folder, **sizes)
    record.add(measure(manifest, clips=arguments.clips, workers=arguments.workers))


def measure(manifest: Manifest, *, clips: int, workers: int) -> Comparison:
    """Clips a second in each window of the run, and what the processes hold at its end."""
    each = -(-clips // (WINDOWS * BATCH_VIDEOS * VIEWS))  # batches of a window
    warm_up = max(1, round(WARM_UP_SHARE * WINDOWS)) * each
    rates, found = [], []
    with closing(_batches(manifest, warm_up + WINDOWS * each, workers)) as batches:
        _take(batches, warm_up)
        found.append(usage())
        for _ in range(WINDOWS):
            start = time.perf_counter()
            taken = _take(batches, each)
            rates.append(taken / (time.perf_counter() - start))
            found.append(usage())
    seen = WINDOWS * each * BATCH_VIDEOS * VIEWS
    title = f"{seen:,} clips through the loader, {workers} workers"
    comparison = Comparison(title, "clips", rates={"Kinema": rates}, apart=True)
    _judge(comparison, found, each)
    return comparison


def _batches(manifest: Manifest, steps: int, workers: int) -> Iterator:
    data = DataConfig(batch_size=BATCH_VIDEOS, workers=workers, prefetch_batches=2)
    loader = build_loader(manifest, clip=CLIP, augment=AUGMENT, data=data, seed=0, views=VIEWS)
    # Two more for each worker: none ends its work before the last look.
    return loader.batches(0, steps + 2 * max(1, workers))


def _take(batches: Iterator, count: int) -> int:
    """Clips of the next `count` batches."""
    return sum(len(next(batches).index) * VIEWS for _ in range(count))


def _judge(comparison: Comparison, found: list[Usage], each: int) -> None:
    megabytes = [one.resident_bytes / MEGABYTE for one in found]
    files = [one.open_files for one in found]
    grown = max(_last_quarter(megabytes)) - megabytes[0]
    comparison.limits = [
        Limit("growth of resident memory, MB", grown, GROWTH_MEGABYTES),
        Limit("growth of open files", growth(files), 0),
    ]
    comparison.facts["Kinema"] = {
        "MB at first": megabytes[0],
        "most MB": max(megabytes),
        "MB at last": megabytes[-1],
        "open files at first": files[0],
        "most open files": max(files),
        "open files at last": files[-1],
        "processes": found[-1].processes,
    }
    columns = {"resident memory, MB": megabytes, "open files": files}
    comparison.series = {
        f"{name}, by batches": [(n * each, float(value)) for n, value in enumerate(values)]
        for name, values in columns.items()
    }


def growth(values: Sequence[float]) -> float:
    """From the most in the first quarter to the most in the last. Batches under way have files
    open, now more and now fewer of them, so two single looks would differ by chance.
    """
    return max(_last_quarter(values)) - max(_last_quarter(values[::-1]))


def _last_quarter(values: Sequence[float]) -> Sequence[float]:
    quarter = -(-len(values) // 4)
    return values[-quarter:]
