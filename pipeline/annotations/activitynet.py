"""ActivityNet 1.3: every annotated segment becomes a row.

    activity_net.v1-3.min.json  {"database": {ID: {"duration": 82.7, "subset": "training",
                                 "annotations": [{"segment": [6.7, 19.2], "label": "..."}]}}}
    anet_anno_train.json        {"v_ID": {"duration_second": 82.7, "annotations": [...]}}

Videos are v_ID.mp4, .mkv or .webm. Segments are seconds; see Span for the frames that they cover.
Videos without segments (testing), and all videos when labels are left out, are whole rows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.annotations.listing import SPLITS, Entry, Listing, Source, Span, split_in
from pipeline.annotations.locate import VideoIndex
from pipeline.annotations.text import head, read_json, seconds
from pipeline.errors import DataError

HEAD = re.compile(r'\s*\{\s*"(database|taxonomy|version)"\s*:', re.IGNORECASE)
MMACTION_HEAD = re.compile(r'\s*\{\s*"v_[^"]+"\s*:\s*\{[^{}]*"duration_second"')
REVERSED, CLIPPED, EMPTY = "reversed", "clipped", "empty"
WHAT = {
    REVERSED: "segments run backwards: their ends are swapped",
    CLIPPED: "segments reach beyond the video: clipped to its duration",
    EMPTY: "segments cover nothing of the video: left out",
}


@dataclass(frozen=True, slots=True)
class _Video:
    """One item of either kind of file. name: v_ID."""

    name: str
    split: str
    duration: Fraction | None
    annotations: list


def is_activitynet(source: Source) -> bool:
    return any(_is_list(path) for path in source.annotations)


def _is_list(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    start = head(path)
    return bool(HEAD.match(start) or MMACTION_HEAD.match(start))


def read_activitynet(source: Source) -> Listing:
    files = [path for path in source.annotations if _is_list(path)]
    if not files:
        raise DataError(
            f"error[E-LIST]: no ActivityNet JSON · {source.path} · pass activity_net.v1-3.min.json"
        )
    index, counts, entries = VideoIndex(source.root), Counter(), []
    for path in files:
        for video in _videos(path):
            bare = video.name.removeprefix("v_")
            found = index.find(video.name, bare, hints=[video.split])
            place = found or source.root / f"{video.name}.mp4"
            entries += _rows(video, place, f"{path} {video.name}", counts, source.options.labels)
    notes = [f"{counts[kind]} {what}" for kind, what in WHAT.items() if counts[kind]]
    return Listing(entries, [*notes, *index.notes()], may_lack_labels=True)


def _videos(path: Path) -> Iterator[_Video]:
    data = read_json(path)
    database = data.get("database", data)
    if not isinstance(database, dict):
        raise _malformed(path, "database")
    for id, item in database.items():
        if not isinstance(item, dict) or not isinstance(item.get("annotations", []), list):
            raise _malformed(path, id)
        name = id if database is data else f"v_{id}"
        subset = str(item.get("subset", "")).lower()
        split = SPLITS.get(subset, subset) or split_in(path.stem)
        duration = seconds(item.get("duration", item.get("duration_second")))
        yield _Video(name, split, duration, item.get("annotations", []))


def _rows(video: _Video, path: Path, where: str, counts: Counter, labels: bool) -> Iterator[Entry]:
    """One entry for each segment, or one for the video without any."""
    if not video.annotations or not labels:
        yield Entry(video.name, path, None, where, video.split)
        return
    for n, annotation in enumerate(video.annotations):
        span = _span(annotation, video, where, counts)
        if span is not None:
            label = str(annotation["label"])
            yield Entry(f"{video.name}#{n:03d}", path, label, where, video.split, span)


def _span(annotation: Any, video: _Video, where: str, counts: Counter) -> Span | None:
    """The segment within the video's duration, forwards; None when nothing of it is."""
    try:
        start, end = (seconds(value) for value in annotation["segment"])
        known = isinstance(annotation["label"], str) and start is not None and end is not None
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise _malformed(where, "a segment")
    if start > end:
        counts[REVERSED] += 1
        start, end = end, start
    longest = end if video.duration is None else video.duration
    if start < 0 or end > longest:
        start, end = max(start, Fraction(0)), min(end, longest)
        counts[CLIPPED if start < end else EMPTY] += 1
    elif start == end:
        counts[EMPTY] += 1
    return Span(start, end) if start < end else None


def _malformed(where: Path | str, what: str) -> DataError:
    return DataError(
        f'error[E-LIST]: {what} is not as in {{"duration": s, "annotations": [{{"segment": [s, e], '
        f'"label": ...}}]}} · {where} · download it again'
    )
