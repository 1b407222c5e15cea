"""WebDataset tars as they are: each video in them becomes a row, a byte range of its tar.

The source is a tar, a folder of tars, or a pattern such as train-{000000..000031}.tar. The label
is what `.cls` holds, else `label` or `class` in `.json`; both a number and a name give the order
of the classes.
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.annotations.listing import (
    MOST_CLASSES,
    SPLITS,
    VIDEO_SUFFIXES,
    Entry,
    Listing,
    Source,
    too_many_classes,
)
from pipeline.annotations.text import parse_json
from pipeline.errors import BadVideo, DataError
from pipeline.shards.tar import BadShard, Member, Sample, group_samples, read_members

BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_LABEL_BYTES = 1 << 20
MAX_TARS = 1_000_000
MOST_DIGITS = 20  # a longer number stays text, of which the labels' numbering says what it is
NAME_KEYS = ("class", "class_name", "label_name", "classname")
NUMBER_KEYS = ("label", "cls", "class_id", "label_id")


@dataclass(frozen=True, slots=True)
class _Label:
    """What a sample says of its class; either may be missing."""

    number: int | None = None
    name: str | None = None
    split: str = ""


def is_webdataset(source: Source) -> bool:
    if source.path.is_dir():
        names = [name.lower() for name in os.listdir(source.path)]
        return any(name.endswith(".tar") for name in names) and not any(
            name.endswith(tuple(VIDEO_SUFFIXES)) for name in names
        )
    return re.search(r"\.(tar|tgz|tar\.\w+)$", source.path.name.lower()) is not None


def read_webdataset(source: Source) -> Listing:
    paths = _tars(source.path)
    if not paths:
        raise DataError(f"error[E-LIST]: 0 tars · {source.path} · pass a tar or a folder of tars")
    found: list[tuple[Entry, _Label]] = []
    notes = []
    for path in paths:
        try:
            samples, remarks = group_samples(read_members(path), path)
        except BadVideo as error:
            code = error.code if isinstance(error, BadShard) else "E-SHARD"
            raise DataError(
                f"error[{code}]: {error.what} · {error.path} · {error.cure}, or leave the tar out"
            ) from error
        notes += [f"{path.name}: {remark}" for remark in remarks]
        found += _entries(path, samples)
    notes.insert(0, f"{len(paths)} tars, {len(found)} videos in them")
    classes = _classes(found)
    entries = [_labelled(entry, label, classes, source) for entry, label in found]
    lacking = any(label.split for _, label in found)
    return Listing(entries, notes, classes, may_lack_labels=lacking)


def _tars(pattern: Path) -> list[Path]:
    text = os.path.abspath(pattern)
    if os.path.isdir(text):
        return sorted(Path(text, name) for name in os.listdir(text) if name.endswith(".tar"))
    names = list(itertools.islice(_expanded(text), MAX_TARS + 1))
    if len(names) > MAX_TARS:
        raise DataError(f"error[E-LIST]: over {MAX_TARS} tars · {pattern} · shorten the range")
    paths = []
    for name in names:
        magic = glob.has_magic(name) and not os.path.exists(name)
        paths += sorted(glob.glob(name)) if magic else [name]
    return [Path(path) for path in paths]


def _expanded(text: str) -> Iterator[str]:
    """All names that a shell makes of {000..012} and {a,b}."""
    match = BRACES.search(text)
    if not match or os.path.exists(text):
        yield text
        return
    limits = RANGE.fullmatch(match[1])
    if limits:
        width = len(limits[1])
        choices = (f"{n:0{width}d}" for n in range(int(limits[1]), int(limits[2]) + 1))
    else:
        choices = iter(match[1].split(","))
    for choice in choices:
        yield from _expanded(text[: match.start()] + choice + text[match.end() :])


def _entries(path: Path, samples: list[Sample]) -> Iterator[tuple[Entry, _Label]]:
    with path.open("rb", buffering=0) as file:
        for sample in samples:
            videos = {
                extension: member
                for extension, member in sample.members.items()
                if os.path.splitext(f"key.{extension}")[1] in VIDEO_SUFFIXES
            }
            label = _label(file.fileno(), sample, path) if videos else _Label()
            for extension, video in videos.items():
                key = sample.key if len(videos) == 1 else f"{sample.key}.{extension}"
                where = f"{path}: {video.name}"
                place = {"offset": video.offset, "size": video.size}
                yield Entry(key, path, None, where, label.split, **place), label


def _label(descriptor: int, sample: Sample, path: Path) -> _Label:
    facts = _json(descriptor, sample.members.get("json"), path)
    split = facts.get("split", "")
    split = SPLITS.get(split.lower(), split) if isinstance(split, str) else ""
    values = [facts.get(key) for key in (*NUMBER_KEYS, *NAME_KEYS)]
    if "cls" in sample.members:
        text = _text(descriptor, sample.members["cls"], path).strip()
        short = text.isdecimal() and len(text) < MOST_DIGITS
        values.insert(0, int(text) if short else text)
    number = next((v for v in values if type(v) is int and v >= 0), None)
    name = next((v for v in values if isinstance(v, str) and v), None)
    return _Label(number, name, split)


def _json(descriptor: int, member: Member | None, path: Path) -> dict:
    if member is None:
        return {}
    try:
        facts = parse_json(_text(descriptor, member, path))
    except ValueError as error:
        raise DataError(
            f"error[E-LIST]: no JSON · {path}: {member.name} · write the shard again"
        ) from error
    return facts if isinstance(facts, dict) else {}


def _text(descriptor: int, member: Member, path: Path) -> str:
    if member.size > MAX_LABEL_BYTES:
        raise DataError(
            f"error[E-LIST]: a label of {member.size} bytes · {path}: {member.name} · at most "
            f"{MAX_LABEL_BYTES} are read"
        )
    return os.pread(descriptor, member.size, member.offset).decode("utf-8-sig", "replace")


def _classes(found: list[tuple[Entry, _Label]]) -> list[str] | None:
    """Names in the order of their numbers, when samples have both; classes never seen: numbers."""
    names: dict[int, str] = {}
    for entry, label in found:
        if label.number is None or label.name is None:
            continue
        if label.number >= MOST_CLASSES:
            raise too_many_classes(str(label.number), entry.where)
        known = names.setdefault(label.number, label.name)
        if known != label.name:
            raise DataError(
                f"error[E-LIST]: class {label.number} is '{known}' and '{label.name}' in different "
                "samples · the tars are of different data sets: index them one by one"
            )
    return [names.get(n, str(n)) for n in range(max(names) + 1)] if names else None


def _labelled(entry: Entry, label: _Label, classes: list[str] | None, source: Source) -> Entry:
    if not source.options.labels or label == _Label(split=label.split):
        return entry
    text = label.name
    if text is None:
        known = classes is not None and label.number < len(classes)
        text = classes[label.number] if known else str(label.number)
    return Entry(
        entry.key, entry.path, text, entry.where, entry.split, None, entry.offset, entry.size
    )
