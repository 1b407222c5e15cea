"""Lists of paths: plain lines, CSV with a header, and CoCLR's and ViCC's lists of frame folders."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.annotations.listing import (
    SPLITS,
    Entry,
    Listing,
    Source,
    Span,
    bad_rows,
    is_video_name,
    shown,
)
from pipeline.annotations.locate import VideoIndex, remapped, stem
from pipeline.annotations.path_list import read_path_list
from pipeline.annotations.text import first_line, read_lines, read_table, seconds
from pipeline.errors import DataError

# Column -> spellings of it in a header, the best first.
HEADER = {
    name: tuple(spellings.split())
    for name, spellings in {
        "path": "path video_path filepath file_path file filename file_name video video_file "
        "video_name clip",
        "label": "class_name label_name label class action category target label_id class_id",
        "split": "split subset partition",
        "start": "start start_seconds start_time time_start",
        "end": "end end_seconds end_time time_end",
    }.items()
}
DELIMITERS = (",", "\t", ";")
FRAME_FOLDER = re.compile(r"(?P<path>.*/)\s*,\s*\d+")


@dataclass
class Finder:
    """Where listed paths are; frame folders stand for the video of the same name."""

    source: Source
    frame_folders: int = 0

    def __post_init__(self):
        self.index = VideoIndex(self.source.root)
        self.remaps_used = False

    def path(self, name: str) -> Path:
        moved = remapped(name, self.source.options.remap)
        self.remaps_used |= moved != name
        path = Path(os.path.normpath(self.source.root / moved))
        if is_video_name(path.name) or path.is_file():
            return path
        found = self.index.find(stem(path.name), hints=[path.parent.name])
        self.frame_folders += found is not None
        return found or path

    def notes(self) -> list[str]:
        notes = self.index.notes()
        if self.frame_folders:
            notes.append(f"{self.frame_folders} names without a video's suffix: found by name")
        if self.source.options.remap and not self.remaps_used:
            beginnings = ", ".join(old for old, _ in self.source.options.remap)
            notes.append(f"--remap: no path starts with {beginnings}")
        return notes


def read_list(source: Source) -> Listing:
    """Lines `path label` or `path`, see pipeline/annotations/path_list.py."""
    _check_file(source)
    lines, notes = read_path_list(source.path, source.options.columns)
    finder = Finder(source)
    entries = []
    for line in lines:
        label = line.label if source.options.labels else None
        entries.append(
            Entry(
                key=_key(line.path, line.span),
                path=finder.path(line.path),
                label=label,
                where=f"{source.path}:{line.at}",
                split=SPLITS.get(line.split.lower(), line.split),
                span=line.span,
            )
        )
    return Listing(entries, [*notes, *finder.notes()])


def _key(name: str, span: Span | None) -> str:
    return f"{name}#{float(span.start)}-{float(span.end)}" if span else name


def _check_file(source: Source) -> None:
    if not source.path.is_file():
        what = "neither a file nor a folder" if source.path.exists() else "no such list"
        raise DataError(f"error: {what} · {source.path} · give a list of videos")


def is_table(source: Source) -> bool:
    if not source.path.is_file() or source.options.columns:
        return False
    return "path" in _header(first_line(source.path))[1]


def _header(line: str) -> tuple[str, dict[str, int]]:
    """The delimiter of a header and the positions of the columns known by name."""
    delimiter = max(DELIMITERS, key=line.count)
    words = [word.strip().strip('"').lower() for word in line.split(delimiter)]
    positions = {
        name: next(words.index(spelling) for spelling in spellings if spelling in words)
        for name, spellings in HEADER.items()
        if set(spellings) & set(words)
    }
    return delimiter, positions if len(words) > 1 else {}


def read_table_list(source: Source) -> Listing:
    """CSV (comma, tab, semicolon) whose header names a path and perhaps label, split, start, end
    in seconds."""
    _check_file(source)
    delimiter, at = _header(first_line(source.path))
    if "path" not in at:
        raise DataError(
            f"error[E-LIST]: no header with a column for the path ({', '.join(HEADER['path'])}) · "
            f"{source.path}:1 · name the columns there, or with --columns"
        )
    rows = list(read_table(source.path, delimiter))
    names = rows.pop(0)[1]
    if not rows:
        raise DataError(f"error[E-LIST]: 0 rows · {source.path} · write lines below the header")
    finder, entries, bad = Finder(source), [], []
    for number, fields in rows:
        if len(fields) != len(names):
            bad.append((number, f"expected {len(names)} columns, got {len(fields)}"))
            continue
        value = {name: fields[n] for name, n in at.items()}
        if why := _row_fault(value):
            bad.append((number, why))
            continue
        entries.append(_row_entry(value, f"{source.path}:{number}", finder, source))
    if bad:
        raise bad_rows(source.path, bad, len(rows))
    unused = [name for n, name in enumerate(names) if n not in at.values()]
    notes = [f"columns: {', '.join(f'{name} = {names[n]}' for name, n in at.items())}"]
    notes += [f"columns not used: {shown(unused)}"] if unused else []
    return Listing(entries, [*notes, *finder.notes()], may_lack_labels="split" in at)


def _row_fault(value: dict[str, str]) -> str:
    if not value["path"]:
        return "no path"
    if "://" in value["path"]:
        return "remote paths are not read: download the video"
    label = value.get("label", "")
    if label.startswith("-") and label[1:].isdecimal():
        return f"expected a label of 0 or more, got {label}"
    if "start" in value and "end" in value and (value["start"] or value["end"]):
        start, end = seconds(value["start"]), seconds(value["end"])
        if start is None or end is None or not 0 <= start < end:
            return f"expected 0 <= start < end in seconds, got '{value['start']}', '{value['end']}'"
    return ""


def _row_entry(value: dict[str, str], where: str, finder: Finder, source: Source) -> Entry:
    span = None
    if value.get("start") and value.get("end"):
        span = Span(seconds(value["start"]), seconds(value["end"]))
    label = value.get("label") or None
    split = value.get("split", "")
    return Entry(
        key=_key(value["path"], span),
        path=finder.path(value["path"]),
        label=label if source.options.labels else None,
        where=where,
        split=SPLITS.get(split.lower(), split),
        span=span,
    )


def is_frame_folder_list(source: Source) -> bool:
    return source.path.is_file() and bool(FRAME_FOLDER.fullmatch(first_line(source.path)))


def read_frame_folder_list(source: Source) -> Listing:
    """Lines `/their/frames/CLASS/VIDEO/,NUMBER` of CoCLR and ViCC: the class is the folder, and the
    video is looked for by its name below the root."""
    _check_file(source)
    lines, finder, entries, bad = read_lines(source.path), Finder(source), [], []
    for number, text in lines:
        match = FRAME_FOLDER.fullmatch(text)
        if not match:
            bad.append((number, f"expected /path/of/frames/,number, got '{text}'"))
            continue
        place = PurePosixPath(match["path"])
        label = place.parent.name if source.options.labels else None
        key = f"{place.parent.name}/{place.name}"
        entries.append(
            Entry(key, finder.path(str(place)), label or None, f"{source.path}:{number}")
        )
    if bad:
        raise bad_rows(source.path, bad, len(lines))
    return Listing(entries, finder.notes())
