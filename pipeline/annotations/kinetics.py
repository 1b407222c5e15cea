"""Kinetics-400, -600, -700: CSV files with a header, of DeepMind, CVDF and the crawlers.

    label,youtube_id,time_start,time_end,split[,is_cc]
    YouTube Identifier,Start time,End time,Class label

The test file may have no label. Videos are ID_SSSSSS_EEEEEE.mp4 (.mkv, .mp4.webm), or carry the
plain numbers or only the ID, flat or in folders of classes and splits; since they are found by
their names, it does not matter how a folder spells its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.annotations.listing import (
    SPLITS,
    Entry,
    Listing,
    Source,
    bad_rows,
    class_key,
    shown,
    split_in,
)
from pipeline.annotations.locate import VideoIndex
from pipeline.annotations.text import first_line, read_table, seconds
from pipeline.errors import DataError

COLUMNS = {
    "label": ("label", "class label"),
    "id": ("youtube_id", "youtube identifier"),
    "start": ("time_start", "start time"),
    "end": ("time_end", "end time"),
    "split": ("split", "subset"),
}
NEEDED = ("id", "start", "end")


@dataclass(frozen=True, slots=True)
class _Clip:
    where: str
    label: str | None
    id: str
    start: int
    end: int
    split: str

    @property
    def name(self) -> str:
        return f"{self.id}_{self.start:06d}_{self.end:06d}"

    @property
    def names(self) -> tuple[str, ...]:
        """What the video may be called, without suffix."""
        return self.name, f"{self.id}_{self.start}_{self.end}", self.id


def is_kinetics(source: Source) -> bool:
    return any(_is_kinetics_file(path) for path in source.annotations)


def _is_kinetics_file(path: Path) -> bool:
    if path.suffix.lower() != ".csv":
        return False
    return all(name in _positions(first_line(path).split(",")) for name in NEEDED)


def _positions(header: list[str]) -> dict[str, int]:
    words = [word.strip().strip('"').lower() for word in header]
    return {
        name: words.index(spelling)
        for name, spellings in COLUMNS.items()
        for spelling in spellings
        if spelling in words
    }


def read_kinetics(source: Source) -> Listing:
    files = [path for path in source.annotations if _is_kinetics_file(path)]
    if not files:
        raise DataError(
            f"error[E-LIST]: no Kinetics list · {source.path} · its header must name youtube_id, "
            "time_start and time_end"
        )
    clips = [clip for path in files for clip in _read_file(path)]
    index = VideoIndex(source.root)
    entries, elsewhere, there = [], [], set()
    known = {class_key(clip.label) for clip in clips if clip.label}
    for clip in clips:
        found = index.find(*clip.names, hints=[clip.label or "", clip.split])
        entries.append(_entry(clip, found, source))
        if found:
            there.add(clip.label)
        folder = class_key(found.parent.name) if found else ""
        if clip.label and folder in known - {class_key(clip.label)}:
            elsewhere.append(f"{found.parent.name}/{found.name} ({clip.label})")
    lost = {clip.label for clip in clips if clip.label} - there
    notes = [*_unmatched(lost, known, index), *index.notes()]
    if elsewhere:
        count = len(elsewhere)
        notes.append(
            f"{count} videos lie in another class's folder, the list counts: {shown(elsewhere)}"
        )
    return Listing(entries, notes, may_lack_labels=True)


def _read_file(path: Path) -> Iterator[_Clip]:
    rows = list(read_table(path))
    at = _positions(rows[0][1])
    clips, bad = [], []
    for number, fields in rows[1:]:
        value = {name: fields[n] for name, n in at.items() if n < len(fields)}
        start, end = seconds(value.get("start")), seconds(value.get("end"))
        if not value.get("id") or start is None or end is None:
            bad.append((number, f"expected {', '.join(rows[0][1])}, got '{','.join(fields)}'"))
            continue
        split = value.get("split", "").lower()
        clips.append(
            _Clip(
                where=f"{path}:{number}",
                label=value.get("label") or None,
                id=value["id"],
                start=int(start),
                end=int(end),
                split=SPLITS.get(split, split) or split_in(path.stem),
            )
        )
    if bad:
        raise bad_rows(path, bad, len(rows) - 1)
    return clips


def _entry(clip: _Clip, found: Path | None, source: Source) -> Entry:
    key = f"{clip.split}/{clip.name}" if clip.split else clip.name
    path = found or source.root / (clip.label or "") / f"{clip.name}.mp4"
    label = clip.label if source.options.labels else None
    return Entry(key, path, label, clip.where, clip.split)


def _unmatched(lost: set[str], known: set[str], index: VideoIndex) -> list[str]:
    """Every class without a video, and every folder that is none of the classes, by name."""
    strange = sorted(
        folder
        for folder in index.folders - {index.root.name}
        if class_key(folder) not in known and folder.lower() not in SPLITS
    )
    notes = []
    if lost:
        notes.append(f"{len(lost)} classes have no video on disk: {'; '.join(sorted(lost))}")
    if strange and known:
        notes.append(f"{len(strange)} folders are none of the classes: {'; '.join(strange)}")
    return notes
