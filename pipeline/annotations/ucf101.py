"""UCF101: trainlist0N.txt and testlist0N.txt, with classInd.txt beside them.

    trainlist01.txt   ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
    testlist01.txt    ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi
    classInd.txt      1 ApplyEyeMakeup

The class is the folder: file names spell one of them otherwise (v_HandStandPushups_g01_c01.avi in
HandstandPushups). Copies of the lists with numbers from 0, and of classInd.txt without numbers,
are read as well, and flat trees, in which the number and then the file name tell the class.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.annotations.listing import Entry, Listing, Source, bad_rows
from pipeline.annotations.locate import VideoIndex, remapped, stem
from pipeline.annotations.text import read_lines
from pipeline.errors import DataError

LIST = re.compile(r"(train|test)list0*([1-9])\.txt", re.IGNORECASE)
CLASS_LIST = re.compile(r"classind\.txt", re.IGNORECASE)
LINE = re.compile(r"(?P<name>.+?)(?:\s+(?P<number>\d{1,9}))?")
VIDEO_NAME = re.compile(r"v_(.+)_g\d+_c\d+")
OFFICIAL_COUNTS = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}


@dataclass(frozen=True, slots=True)
class _Line:
    """folder: name of the video's folder, "" in a flat tree. number: as listed, or None."""

    where: Path
    at: int
    name: str
    folder: str
    number: int | None
    split: str


def is_ucf101(source: Source) -> bool:
    return any(LIST.fullmatch(path.name) for path in source.annotations)


def read_ucf101(source: Source) -> Listing:
    """Both splits of one fold, or the one list that is the source."""
    lists = source.named(LIST, "trainlist01.txt")
    folds = sorted({int(match[2]) for _, match in lists})
    fold = chosen_fold(folds, source)
    lines = [
        line
        for path, match in sorted(lists, key=lambda item: item[1][1].lower() != "train")
        if int(match[2]) == fold
        for line in _lines(path, match[1].lower())
    ]
    classes = _class_list(lists[0][0].parent) or _classes_by_number(lines)
    labels = _labels(lines, classes)
    index = VideoIndex(source.root)
    entries = [
        _entry(line, label, index, source) for line, label in zip(lines, labels, strict=True)
    ]
    notes = [_count_note(entries, fold), *index.notes()]
    if len(folds) > 1 and source.options.fold is None:
        notes.insert(0, f"folds {', '.join(map(str, folds))} are there: --fold picks another")
    return Listing(entries, notes, classes)


def chosen_fold(folds: list[int], source: Source) -> int:
    wanted = source.options.fold
    if wanted is not None and wanted not in folds:
        raise DataError(
            f"error: no lists of fold {wanted} · {source.path} · there are: "
            f"{', '.join(map(str, folds))}"
        )
    return folds[0] if wanted is None else wanted


def _lines(path: Path, split: str) -> Iterator[_Line]:
    lines = read_lines(path)
    if not lines:
        raise DataError(f"error[E-LIST]: 0 rows · {path} · download the list again")
    for at, text in lines:
        match = LINE.fullmatch(text.replace("\\", "/"))
        folder = os.path.basename(os.path.dirname(match["name"]))
        number = None if match["number"] is None else int(match["number"])
        yield _Line(path, at, match["name"], folder, number, split)


def _class_list(folder: Path) -> list[str] | None:
    """Names in the order of classInd.txt: `1 ApplyEyeMakeup` or only the name on each line."""
    files = [path for path in folder.iterdir() if CLASS_LIST.fullmatch(path.name)]
    if not files:
        return None
    numbered = []
    for at, text in read_lines(files[0]):
        number, _, name = text.rpartition(" ")
        known = number.isdecimal() and len(number) < 10
        numbered.append((int(number) if known else at, name.strip()))
    return [name for _, name in sorted(numbered)]


def _classes_by_number(lines: list[_Line]) -> list[str] | None:
    """Folders in the order of their numbers, when those leave no gap."""
    numbers = {line.number: line.folder for line in lines if line.number is not None}
    least = min(numbers, default=0)
    if least > 1 or sorted(numbers) != list(range(least, least + len(numbers))):
        return None
    return [numbers[number] for number in sorted(numbers)]


def _labels(lines: list[_Line], classes: list[str] | None) -> list[str | None]:
    """The class of every line. Raises DataError where folder, number and classInd.txt disagree."""
    first = min((line.number for line in lines if line.number is not None), default=1)
    first = min(first, 1)
    labels, bad = [], []
    for line in lines:
        number = None if line.number is None else line.number - first
        named = classes[number] if classes and number is not None and number < len(classes) else ""
        label = line.folder or named or _class_in_name(line.name, classes)
        labels.append(label or None)
        if classes and label not in classes:
            bad.append((line, f"class '{label}' is not in classInd.txt"))
        elif classes and number is not None and label != named:
            said = f"is '{named}'" if named else "does not exist"
            bad.append((line, f"class {line.number} {said}, but the folder is '{label}'"))
    if bad:
        path = bad[0][0].where  # where both lists are bad, the first tells enough
        shown = [(line.at, why) for line, why in bad if line.where == path]
        rows = sum(line.where == path for line in lines)
        raise bad_rows(path, shown, rows, "take classInd.txt of the same copy")
    return labels


def _class_in_name(name: str, classes: list[str] | None) -> str:
    """For flat trees: the class in v_CLASS_gNN_cNN, in the spelling of the class list."""
    match = VIDEO_NAME.fullmatch(stem(os.path.basename(name)))
    if not match:
        return ""
    spellings = {known.casefold(): known for known in classes or ()}
    return spellings.get(match[1].casefold(), match[1])


def _entry(line: _Line, label: str | None, index: VideoIndex, source: Source) -> Entry:
    name = remapped(line.name, source.options.remap)
    hints = [line.folder]
    path = index.find(stem(os.path.basename(name)), hints=hints, any_case=True)
    label = label if source.options.labels else None
    where = f"{line.where}:{line.at}"
    return Entry(line.name, path or source.root / name, label, where, line.split)


def _count_note(entries: list[Entry], fold: int) -> str:
    splits = ("train", "test")
    counts = [sum(entry.split == split for entry in entries) for split in splits]
    official = OFFICIAL_COUNTS.get(fold, counts)
    note = f"fold {fold}: {counts[0]} train, {counts[1]} test videos"
    if any(count not in (0, full) for count, full in zip(counts, official, strict=True)):
        note += f"; the official lists have {official[0]} and {official[1]}"
    return note
