"""What damaged videos cost our loader, and whether its list of them is exact.

The same videos in the same order, once whole and once with 1 % of the files broken after they were
indexed, as a disk or a copy that ended early leaves them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from pipeline.decode import read_bytes
from pipeline.manifest import Manifest, write_manifest
from pipeline.quarantine import Quarantine
from tools.benchmark.loader import Means, Views, our_batches, our_views, side_by_side
from tools.benchmark.measure import Comparison, Limit
from tools.benchmark.sources import repeated

VIDEOS = {"cpu": 300, "cuda": 6400}  # about, and as many samples in a turn: every video once
SHARE = 0.01  # of them are broken
MOST = 1.05  # goal: time with broken videos over time without
CUT_BYTES = 64  # of the pictures are left: less than the first one has
WHOLE = "none damaged"
BROKEN, LISTED, WRONG = "broken", "listed", "wrongly listed or not"


def cut(data: bytes) -> bytes:
    """Ends amid the first picture; what stands before the pictures, the index too, is whole."""
    return data[: _pictures(data) + CUT_BYTES]


def flipped(data: bytes) -> bytes:
    """All bits of the pictures are turned over; the length is right."""
    start = _pictures(data)
    return data[:start] + (~np.frombuffer(data, np.uint8, offset=start)).tobytes()


def emptied(data: bytes) -> bytes:
    return b""


# No clip escapes any of them. A file that is broken in a part of it still gives clips of the rest,
# and such a video is on the list only if a clip met the damage.
KINDS: tuple[Callable[[bytes], bytes], ...] = (cut, flipped, emptied)


def _pictures(data: bytes) -> int:
    """Where the pictures of an MP4 begin."""
    return data.index(b"mdat") + 4


def beside_whole(shards: Manifest, means: Means, folder: Path, *, rounds: int) -> Comparison:
    """Samples a second with whole and with damaged videos, and how far the list of a training is
    from what was broken. A turn is the second epoch: every video once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps = -(-VIDEOS["cpu" if means.device == "cpu" else "cuda"] // means.batch_videos)
    whole = repeated(shards, folder / "whole.parquet", videos=steps * means.batch_videos)
    numbers = broken_numbers(len(whole))
    listed = Listed(with_damage(whole, numbers, folder), folder / "quarantine.jsonl")
    first, name = max(0, steps - means.ahead), f"{len(numbers)} of {len(whole)} damaged"
    streams = {
        WHOLE: partial(our_views, whole, means, first=first),
        name: partial(listed.views, means, first=first),
    }
    title = f"Damaged videos: {means}, {means.workers} workers, {len(whole)} samples a turn"
    comparison = side_by_side(title, streams, means, batches=steps, rounds=rounds)
    comparison.apart = True
    comparison.facts[name] |= listed.compared({whole[n].key for n in numbers})
    _judge(comparison, name)
    return comparison


def broken_numbers(videos: int) -> list[int]:
    """Rows of those that are broken, at even distances."""
    count = max(1, round(SHARE * videos))
    return [videos * n // count for n in range(count)]


def with_damage(manifest: Manifest, numbers: list[int], folder: Path) -> Manifest:
    """The manifest as it is, with files of their own for the rows that are broken."""
    kinds, rows = cycle(KINDS), list(manifest)
    for number in numbers:
        path = folder / f"broken{number}.mp4"
        path.write_bytes(next(kinds)(read_bytes(rows[number]).tobytes()))
        rows[number] = replace(rows[number], path=path, offset=0)
    path = folder / "damaged.parquet"
    write_manifest(path, rows, classes=manifest.classes, options={})
    return Manifest.read(path)


class Listed:
    """The loader over damaged videos, with the list that a training keeps of them at `path`."""

    def __init__(self, manifest: Manifest, path: Path):
        self.manifest, self.path = manifest, path
        self.given: set[int] = set()  # rows that came as samples
        path.unlink(missing_ok=True)

    def views(self, means: Means, *, first: int) -> Views:
        videos = len(self.manifest)
        known = Quarantine(self.path, videos=videos, max_bad_fraction=1.0, say=lambda line: None)
        with closing(our_batches(self.manifest, means, first=first, noted=known.note)) as batches:
            for batch in batches:
                self.given.update(batch.index.tolist())
                yield batch.views

    def compared(self, broken: set[str]) -> dict[str, float]:
        """How many videos are broken, on the list, and wrong in it. A turn draws every video, so
        all that are broken have to be listed, no other, and none of them may have come as a sample.
        """
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        listed = {json.loads(line)["key"] for line in lines}
        given = {self.manifest[number].key for number in self.given}
        wrong = (listed ^ broken) | (given & broken)
        return {BROKEN: len(broken), LISTED: len(listed), WRONG: len(wrong)}


def _judge(comparison: Comparison, name: str) -> None:
    found = comparison.facts[name]
    told = f"{found[BROKEN]} broken and drawn, {found[LISTED]} listed"
    comparison.limits = [
        Limit.of_ratio(f"time with {name} over time with none", comparison.ratio(name), MOST),
        Limit(f"videos wrongly on or off the quarantine list ({told})", found[WRONG], 0),
    ]
