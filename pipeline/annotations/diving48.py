"""Diving48: Diving48_V2_train.json and _test.json, with Diving48_vocab.json beside them.

    [{"vid_name": "-mvzCSPSbxo_00019", "label": 8, "start_frame": 0, "end_frame": 114}, ...]

Labels start from 0; those of the first release (Diving48_train.json) are others, so that both
never go into one manifest. Videos are cut to the dive, so all of their frames are taken.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.annotations.listing import Entry, Listing, Source
from pipeline.annotations.locate import VideoIndex
from pipeline.annotations.text import head, read_json
from pipeline.errors import DataError

LIST = re.compile(r"diving48_(v2_)?(train|test)\.json", re.IGNORECASE)
VOCABULARY = "Diving48_vocab.json"
CLASSES = 48
HEAD = re.compile(r'\s*\[\s*\{[^{}]*"vid_name"')


def is_diving48(source: Source) -> bool:
    return any(_is_list(path) for path in source.annotations)


def _is_list(path: Path) -> bool:
    return path.suffix.lower() == ".json" and bool(HEAD.match(head(path)))


def read_diving48(source: Source) -> Listing:
    files = [path for path in source.annotations if _is_list(path)]
    editions = {edition(path): path for path in files}
    if len(editions) > 1:
        raise mixed_editions(editions)
    if not files:
        raise DataError(f'error[E-LIST]: no list of {{"vid_name": ...}} · {source.path} · pass one')
    index = VideoIndex(source.root)
    classes = _classes(files[0].parent)
    entries = [entry for path in files for entry in _read_file(path, classes, index, source)]
    notes = [f"labels of {next(iter(editions))}", *index.notes()]
    return Listing(entries, notes, classes, edition=next(iter(editions)))


def edition(path: Path) -> str:
    return "Diving48 V2" if "v2" in path.stem.lower() else "Diving48 V1"


def mixed_editions(paths: dict[str, Path]) -> DataError:
    places = " and ".join(f"{name} ({path})" for name, path in sorted(paths.items()))
    return DataError(
        f"error[E-LIST]: {places} number their classes differently · pass files of one edition, "
        "best Diving48_V2_train.json and Diving48_V2_test.json"
    )


def _classes(folder: Path) -> list[str]:
    """Dives such as "Back 15som 05Twis FREE"; without the vocabulary, "0" to "47"."""
    if not (folder / VOCABULARY).is_file():
        return [str(number) for number in range(CLASSES)]
    dives = read_json(folder / VOCABULARY)
    if not isinstance(dives, list) or not dives or not all(map(_is_dive, dives)):
        raise DataError(
            f"error[E-LIST]: expected a list of dives · {folder / VOCABULARY} · download it again"
        )
    return [dive if isinstance(dive, str) else " ".join(map(str, dive)) for dive in dives]


def _is_dive(dive: object) -> bool:
    return isinstance(dive, str | list)


def _read_file(path: Path, classes: list[str], index: VideoIndex, source: Source) -> list[Entry]:
    entries = []
    split = "train" if "train" in path.stem.lower() else "test"
    for n, item in enumerate(read_json(path), start=1):
        facts = item if isinstance(item, dict) else {}
        name, label = facts.get("vid_name"), facts.get("label")
        if not isinstance(name, str) or not isinstance(label, int):
            raise DataError(
                f"error[E-LIST]: item {n} has no vid_name or label · {path} · download it again"
            )
        if not 0 <= label < len(classes):
            raise DataError(
                f"error[E-LIST]: item {n} ({name}): label {label}, but there are {len(classes)} "
                f"classes · {path} · take {VOCABULARY} of the same release"
            )
        found = index.find(name) or source.root / f"{name}.mp4"
        text = classes[label] if source.options.labels else None
        entries.append(Entry(name, found, text, f"{path} item {n}", split))
    return entries
