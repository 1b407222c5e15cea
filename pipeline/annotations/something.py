"""Something-Something v2 (JSON), and v1 and Jester (`id;label` lines).

    something-something-v2-train.json   [{"id": "78687", "label": "putting a cup on a table",
                                          "template": "Putting [something] on [something]", ...}]
    something-something-v2-labels.json  {"Putting something on something": "0", ...}
    jester-v1-train.csv                 9223;Swiping Left
    jester-v1-labels.csv                Swiping Left

Newer copies are called train.json, labels.json and test-answers.csv. Test sets have no labels.
Videos are ID.webm, or .mp4 after someone's conversion. Left and right have a meaning in these
data sets: train on them without horizontal flips.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.annotations.listing import Entry, Listing, Source, bad_rows, shown, split_in
from pipeline.annotations.locate import VideoIndex
from pipeline.annotations.text import first_line, head, read_json, read_lines
from pipeline.errors import DataError

V2_HEAD = re.compile(r'\s*\[\s*\{\s*"id"\s*:\s*"?\d+"?\s*[,}]')
V2_LABELS = re.compile(r".*labels\.json", re.IGNORECASE)
V2_ANSWERS = re.compile(r".*test-answers\.csv", re.IGNORECASE)
V1_LIST = re.compile(r".*?(train|validation|test)\.csv", re.IGNORECASE)
V1_LABELS = re.compile(r".*labels\.(csv|txt)", re.IGNORECASE)
V1_LINE = re.compile(r"(\d+)(?:;(.*))?")
FLIP = "left and right have a meaning here: pretrain without horizontal flips"


def is_something_v2(source: Source) -> bool:
    return any(_is_v2_list(path) for path in source.annotations)


def _is_v2_list(path: Path) -> bool:
    return path.suffix.lower() == ".json" and bool(V2_HEAD.match(head(path)))


def read_something_v2(source: Source) -> Listing:
    files = [path for path in source.annotations if _is_v2_list(path)]
    if not files:
        raise DataError(
            f'error[E-LIST]: no list of {{"id": ...}} · {source.path} · pass train.json'
        )
    classes = _v2_classes(files[0].parent)
    rows = []
    for path in files:
        answers = _answers(path) if split_in(path.stem) == "test" else {}
        rows += [(*row, path) for row in _v2_rows(path, answers)]
    labels = {label for _, label, _ in rows if label is not None}
    names = sorted(labels) if classes is None else classes
    spelled = {_without_commas(name): name for name in names}
    if unknown := sorted(label for label in labels if _without_commas(label) not in spelled):
        raise DataError(
            f"error[E-LIST]: {len(unknown)} templates are not in labels.json: {shown(unknown)} · "
            f"{files[0]} · take labels.json of the same release"
        )
    index = VideoIndex(source.root)
    entries = [
        _entry(index, source, id, label and spelled[_without_commas(label)], path, str(path))
        for id, label, path in rows
    ]
    return Listing(entries, [FLIP, *index.notes()], names, may_lack_labels=True)


def _without_commas(template: str) -> str:
    """Copies of the labels differ in their commas."""
    return " ".join(template.replace(",", " ").split())


def _v2_classes(folder: Path) -> list[str] | None:
    """Class names in the order of their numbers in ...labels.json beside the lists."""
    files = sorted(path for path in folder.iterdir() if V2_LABELS.fullmatch(path.name))
    if not files:
        return None
    numbers = read_json(files[0])
    try:
        ordered = sorted((int(number), name) for name, number in numbers.items())
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f'error[E-LIST]: expected {{"Putting something ...": "0", ...}} · {files[0]} · '
            "download it again"
        ) from error
    if [number for number, _ in ordered] != list(range(len(ordered))):
        raise DataError(
            f"error[E-LIST]: class numbers are not 0...{len(ordered) - 1} · {files[0]} · "
            "download it again"
        )
    return [name for _, name in ordered]


def _v2_rows(path: Path, answers: dict[str, str]) -> list[tuple[str, str | None]]:
    rows = []
    for n, item in enumerate(read_json(path), start=1):
        if not isinstance(item, dict) or not str(item.get("id", "")).isdecimal():
            raise DataError(
                f"error[E-LIST]: item {n} has no numeric id · {path} · download it again"
            )
        template = item.get("template") or ""
        if not isinstance(template, str):
            raise DataError(
                f"error[E-LIST]: item {n} has no text as template · {path} · download it again"
            )
        label = template.replace("[", "").replace("]", "")
        rows.append((str(item["id"]), label or answers.get(str(item["id"]))))
    return rows


def _answers(path: Path) -> dict[str, str]:
    """Labels of the test set, which newer copies have in a file of their own."""
    files = [p for p in path.parent.iterdir() if V2_ANSWERS.fullmatch(p.name)]
    lines = [text.split(";", 1) for _, text in (read_lines(files[0]) if files else [])]
    return {fields[0]: fields[1].strip() for fields in lines if len(fields) == 2}


def is_something_v1(source: Source) -> bool:
    return any(_is_v1_list(path) for path in source.annotations)


def _is_v1_list(path: Path) -> bool:
    answers = V1_LABELS.fullmatch(path.name) or V2_ANSWERS.fullmatch(path.name)
    if answers or path.suffix.lower() != ".csv":
        return False
    line = first_line(path)
    is_test = "test" in path.stem.lower() and bool(V1_LIST.fullmatch(path.name))
    return bool(V1_LINE.fullmatch(line)) and (";" in line or is_test)


def read_something_v1(source: Source) -> Listing:
    files = [path for path in source.annotations if _is_v1_list(path)]
    if not files:
        raise DataError(f"error[E-LIST]: no lines `id;label` · {source.path} · pass ...-train.csv")
    named = [path for path in files[0].parent.iterdir() if V1_LABELS.fullmatch(path.name)]
    classes = [text for _, text in read_lines(sorted(named)[0])] if named else None
    index = VideoIndex(source.root)
    entries = []
    for path in files:
        lines = read_lines(path)
        matches = [(number, text, V1_LINE.fullmatch(text)) for number, text in lines]
        if bad := [(n, f"expected id;label, got '{text}'") for n, text, m in matches if not m]:
            raise bad_rows(path, bad, len(lines))
        entries += [
            _entry(index, source, match[1], match[2] or None, path, f"{path}:{number}")
            for number, _, match in matches
        ]
    return Listing(entries, [FLIP, *index.notes()], classes, may_lack_labels=True)


def _entry(
    index: VideoIndex, source: Source, id: str, label: str | None, listed: Path, where: str
) -> Entry:
    split = split_in(listed.stem)
    path = index.find(id, hints=[split]) or source.root / f"{id}.webm"
    return Entry(id, path, label if source.options.labels else None, where, split)
