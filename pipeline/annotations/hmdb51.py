"""HMDB51: for every class and fold a file CLASS_test_splitN.txt with lines `name.avi CODE`.

Code 1 is train, 2 is test, and 0 means that this fold does not use the video.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path

from pipeline.annotations.listing import Entry, Listing, Source, bad_rows
from pipeline.annotations.locate import VideoIndex, stem
from pipeline.annotations.text import read_lines
from pipeline.annotations.ucf101 import chosen_fold

LIST = re.compile(r"(.+)_test_split([1-9])\.txt")
SPLIT_OF_CODE = {"0": None, "1": "train", "2": "test"}
OFFICIAL_COUNTS = {"train": 3570, "test": 1530}


def is_hmdb51(source: Source) -> bool:
    return any(LIST.fullmatch(path.name) for path in source.annotations)


def read_hmdb51(source: Source) -> Listing:
    """Both splits of one fold."""
    lists = source.named(LIST, "brush_hair_test_split1.txt")
    folds = sorted({int(match[2]) for _, match in lists})
    fold = chosen_fold(folds, source)
    index = VideoIndex(source.root)
    classes, entries, unused = [], [], 0
    for path, match in lists:
        if int(match[2]) == fold:
            classes.append(match[1])
            of_class, left_out = _read_class(path, match[1], index, source)
            entries += of_class
            unused += left_out
    entries.sort(key=lambda entry: entry.split != "train")
    notes = [_count_note(entries, fold, unused), *index.notes()]
    if len(folds) > 1 and source.options.fold is None:
        notes.insert(0, f"folds {', '.join(map(str, folds))} are there: --fold picks another")
    return Listing(entries, notes, sorted(classes))


def _read_class(
    path: Path, label: str, index: VideoIndex, source: Source
) -> tuple[list[Entry], int]:
    """Entries of one class, and how many videos the fold does not use."""
    lines = read_lines(path)
    entries, bad, unused = [], [], 0
    for number, text in lines:
        name, _, code = text.rpartition(" ")
        name = name.strip()
        if not name or code not in SPLIT_OF_CODE:
            bad.append((number, f"expected `name.avi` and 0, 1 or 2, got '{text}'"))
        elif (split := SPLIT_OF_CODE[code]) is None:
            unused += 1
        else:
            found = index.find(stem(name), hints=[label])
            expected = Path(os.path.normpath(source.root / label / name))
            shown = label if source.options.labels else None
            where = f"{path}:{number}"
            entries.append(Entry(f"{label}/{name}", found or expected, shown, where, split))
    if bad:
        raise bad_rows(path, bad, len(lines))
    return entries, unused


def _count_note(entries: list[Entry], fold: int, unused: int) -> str:
    counts = Counter(entry.split for entry in entries)
    note = f"fold {fold}: {counts['train']} train, {counts['test']} test, {unused} unused videos"
    if counts != OFFICIAL_COUNTS:
        note += "; the official lists have 3570 and 1530"
    return note
