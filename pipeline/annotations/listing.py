"""What every format reads from a source: entries, with what the data set says of them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from pipeline.errors import DataError

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi"}
    | {".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv", ".asf"}
)
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
ANNOTATION_SUFFIXES = (".txt", ".csv", ".json")
MOST_SHOWN = 5
MOST_CLASSES = 1_000_000  # numbers above are of another column: bytes, times, ids of videos
MOST_ANNOTATIONS = 400  # in one folder; HMDB51 has 153. More are notes on single videos.
DROPPED = re.compile(r"""['"()]""")


@dataclass(frozen=True, slots=True)
class Span:
    """The part of a video from `start` to `end`, in seconds or, with `in_frames`, in frames."""

    start: Fraction
    end: Fraction
    in_frames: bool = False

    def frames(self, total: int, fps: Fraction) -> tuple[int, int]:
        """(number of the first frame, how many): all frames that the span touches.

        That is floor(start * fps) up to, but without, ceil(end * fps), clipped to the `total`
        frames that there are; (0, 0) when none is left.
        """
        rate = 1 if self.in_frames else fps
        first = max(0, math.floor(self.start * rate))
        behind = min(total, math.ceil(self.end * rate))
        return (first, behind - first) if first < behind else (0, 0)

    def __str__(self) -> str:
        unit = "frames" if self.in_frames else "s"
        return f"{float(self.start):g}-{float(self.end):g} {unit}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A video as its source lists it: bytes [offset, offset + size) of a file, all when size is
    None, and of these frames only the span. where: FILE:LINE or the path, for messages."""

    key: str
    path: Path
    label: str | None
    where: str
    split: str = ""
    span: Span | None = None
    offset: int = 0
    size: int | None = None


@dataclass(frozen=True)
class Listing:
    """What a format read from one source.

    notes: lines for the user about what was found or left out. classes: the data set's own class
    order; None when it defines none. may_lack_labels: entries without a label are as they should
    be (test splits). edition: of annotations whose editions must not be mixed.
    """

    entries: list[Entry]
    notes: list[str] = field(default_factory=list)
    classes: list[str] | None = None
    may_lack_labels: bool = False
    edition: str = ""


@dataclass(frozen=True)
class Options:
    """How sources are to be read.

    root: folder below which the videos of a list are; None: the list's own folder. format: name of
    a format; "" detects it. fold: of the official ones; None takes the first. columns: names of a
    list's columns. remap: (old, new) beginnings of listed paths.
    """

    labels: bool = True
    one_based: bool = False
    root: Path | None = None
    format: str = ""
    fold: int | None = None
    columns: tuple[str, ...] = ()
    remap: tuple[tuple[str, str], ...] = ()
    strict: bool = False


@dataclass(frozen=True)
class Source:
    """One SOURCE of the command line."""

    path: Path
    options: Options

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def root(self) -> Path:
        """Folder from which listed videos are looked for."""
        return Path(os.path.abspath(self.options.root or self.folder))

    @cached_property
    def annotations(self) -> list[Path]:
        """Annotation files: the source itself, or those in it and its direct sub-folders."""
        if not self.path.is_dir():
            return [self.path] if self.path.is_file() and _is_annotation(self.path.name) else []
        return sorted(_annotations_in(self.path, deeper=True))

    def named(self, pattern: re.Pattern, example: str) -> list[tuple[Path, re.Match]]:
        """Annotation files whose names match, from one folder: the source before those in it."""
        matches = [(p, m) for p in self.annotations if (m := pattern.fullmatch(p.name))]
        if not matches:
            raise DataError(
                f"error[E-LIST]: no list is named like {example} · {self.path} · pass the list or "
                "its folder"
            )
        folders = sorted({path.parent for path, _ in matches}, key=lambda f: (f != self.path, f))
        if len(folders) > 1 and folders[0] != self.path:
            shown = ", ".join(str(folder) for folder in folders[:MOST_SHOWN])
            raise DataError(
                f"error: annotations are in several folders: {shown} · {self.path} · pass the one "
                "to take as the source, and the videos' folder with --root"
            )
        return [(path, match) for path, match in matches if path.parent == folders[0]]


@dataclass(frozen=True)
class Format:
    """name: for --format. detect: is the source one of this format? It must not raise for files
    that are not."""

    name: str
    title: str
    detect: Callable[[Source], bool]
    read: Callable[[Source], Listing]


def is_video_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def class_key(name: str) -> str:
    """Equal for the spellings of a class as folder name: spaces or `_`, with or without '()"."""
    return DROPPED.sub("", name).replace("_", " ").strip()


def split_in(name: str) -> str:
    """The split that the words of a file name tell; "" when none or several do."""
    words = re.split(r"[^a-z]+", name.lower())
    found = {SPLITS[word] for word in words if word in SPLITS}
    return found.pop() if len(found) == 1 else ""


def shown(names: list[str]) -> str:
    """The first few of many names."""
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more


def too_many_classes(label: str, where: str) -> DataError:
    shown_label = label if len(label) < 20 else f"{label[:19]}…"
    return DataError(
        f"error: {where}: label {shown_label}, but at most {MOST_CLASSES} classes are numbered · "
        "check that this column is the label (--columns), or pass --no-labels"
    )


def bad_rows(source: Path, bad: list[tuple[int, str]], rows: int, cure: str = "") -> DataError:
    """The error that counts all bad lines (number, why) of a file and shows the first."""
    lines = "\n".join(f"  {source.name}:{number}: {why}" for number, why in bad[:MOST_SHOWN])
    more = f"\n  and {len(bad) - MOST_SHOWN} more" if len(bad) > MOST_SHOWN else ""
    return DataError(
        f"error[E-LIST]: {len(bad)} of {rows} rows are bad · {source} · "
        f"{cure or 'correct them'}:\n{lines}{more}"
    )


def _annotations_in(folder: Path, *, deeper: bool) -> list[Path]:
    """Annotation files in a folder and, with `deeper`, in its sub-folders without videos."""
    entries = [entry for entry in _scanned(folder) if not entry.name.startswith(".")]
    if not deeper and any(is_video_name(entry.name) for entry in entries):
        return []
    found = [Path(entry.path) for entry in entries if _is_annotation(entry.name)]
    found = [path for path in found if path.is_file()] if len(found) <= MOST_ANNOTATIONS else []
    if deeper:
        for entry in entries:
            if not is_video_name(entry.name) and entry.is_dir():
                found += _annotations_in(Path(entry.path), deeper=False)
    return found


def _scanned(folder: Path) -> list[os.DirEntry]:
    """Entries of a folder; none of one that cannot be read, which reading its videos reports."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _is_annotation(name: str) -> bool:
    return name.lower().endswith(ANNOTATION_SUFFIXES)
