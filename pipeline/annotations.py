"""What users have on disk (folders, lists) -> which videos there are, and their labels.

Every format is one Format at the end of this file: a rule that recognises a source, and a function
that reads it into a Listing. A new data set's format is one more entry, before the general ones.
Labels become numbers in one place, `read_annotations`, whatever the format.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DataError
from pipeline.path_list import read_path_list

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi"}
    | {".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".flv", ".wmv", ".asf"}
)
SPLIT_NAMES = frozenset(
    {"train", "training", "val", "valid", "validation", "eval", "test", "testing"}
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A video as its source lists it. where: FILE:LINE or the path, for messages."""

    key: str
    path: Path
    label: str | None
    where: str


@dataclass(frozen=True)
class Listing:
    """What a format read from one source. notes: lines for the user about what was left out."""

    entries: list[Entry]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Options:
    """root: folder that the paths of a list start from; None: the list's own folder."""

    labels: bool = True
    one_based: bool = False
    root: Path | None = None


@dataclass(frozen=True)
class Format:
    name: str
    detect: Callable[[Path, Options], bool]
    read: Callable[[Path, Options], Listing]


@dataclass(frozen=True, slots=True)
class Row:
    """A video to index. label: index into the classes, -1 for none."""

    key: str
    path: Path
    label: int


@dataclass(frozen=True)
class Annotations:
    rows: list[Row]
    classes: list[str]
    formats: list[str]
    notes: list[str]


def read_annotations(
    sources: Sequence[str | Path],
    *,
    options: Options = Options(),
    classes: Sequence[str] | None = None,
) -> Annotations:
    """Videos of all sources, in a fixed order, with labels as indices into the classes.

    classes: their order, when it is given from outside (the order of the training data).
    Raises DataError when a source cannot be understood, with its line and the cure.
    """
    entries, formats, notes = [], [], []
    for source in sources:
        form, listing = read_source(Path(source), options)
        if form.name not in formats:
            formats.append(form.name)
        entries += listing.entries
        notes += listing.notes
    if not entries:
        raise _empty(sources[0], notes)
    entries, repeated = _without_repeats(entries)
    if repeated:
        notes.append(f"{repeated} videos are listed more than once: taken once")
    names, numbers = _number_labels(entries, options, classes)
    pairs = zip(_unique_keys(entries), numbers, strict=True)
    rows = [Row(entry.key, entry.path, number) for entry, number in pairs]
    return Annotations(rows, names, formats, notes)


def read_source(source: Path, options: Options) -> tuple[Format, Listing]:
    """The first format that recognises the source, and what it reads."""
    for form in FORMATS:
        if form.detect(source, options):
            return form, form.read(source, options)
    raise DataError(
        f"error: no such file or folder · {source} · give a folder of videos, a video, a pattern "
        "such as 'videos/*.mp4', or a list of lines 'path label'"
    )


def _empty(source: str | Path, notes: list[str]) -> DataError:
    seen = f" ({'; '.join(notes)})" if notes else ""
    suffixes = " ".join(sorted(VIDEO_SUFFIXES))
    return DataError(f"error[E-LIST]: 0 videos{seen} · {source} · videos end in {suffixes}")


def _without_repeats(entries: list[Entry]) -> tuple[list[Entry], int]:
    """Each path once. Raises DataError when a path comes with two labels."""
    first: dict[Path, Entry] = {}
    for entry in entries:
        known = first.setdefault(entry.path, entry)
        if known.label != entry.label:
            raise DataError(
                f"error: {entry.where}: {entry.key} has label '{entry.label}', but '{known.label}' "
                f"at {known.where} · remove one of the two"
            )
    return list(first.values()), len(entries) - len(first)


def _unique_keys(entries: list[Entry]) -> list[Entry]:
    """Entries whose keys differ: where two sources use one key, the whole path is the key."""
    counts = Counter(entry.key for entry in entries)
    return [
        entry
        if counts[entry.key] == 1
        else Entry(entry.path.as_posix().lstrip("/"), entry.path, entry.label, entry.where)
        for entry in entries
    ]


def _number_labels(
    entries: list[Entry], options: Options, classes: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """Class names, and for every entry its class number (-1: none)."""
    if classes is not None:
        _check_classes(classes)
    labelled = [entry for entry in entries if entry.label is not None]
    if not labelled:
        return list(classes or []), [-1] * len(entries)
    if len(labelled) < len(entries):
        bare = next(entry for entry in entries if entry.label is None)
        raise DataError(
            f"error: {bare.where}: no label, but {labelled[0].where} has one · index the sources "
            "one by one, or pass --no-labels"
        )
    integers = [entry.label.isdecimal() for entry in entries]
    named = classes is not None and {entry.label for entry in entries} <= set(classes)
    if all(integers) and not named:
        return _integer_labels(entries, options, classes)
    if any(integers) and not named:
        odd = integers.index(2 * sum(integers) < len(integers))
        kinds = ("an integer", "text") if integers[odd] else ("text", "an integer")
        raise DataError(
            f"error: {entries[odd].where}: label '{entries[odd].label}' is {kinds[0]}, most others "
            f"are {kinds[1]} · use one kind, or name all classes with --classes"
        )
    return _text_labels(entries, classes)


def _check_classes(classes: Sequence[str]) -> None:
    if not classes:
        raise DataError("error: the given class list is empty · write one class on each line")
    name, count = Counter(classes).most_common(1)[0]
    if count > 1:
        raise DataError(f"error: the class '{name}' is listed {count} times · list it once")


def _text_labels(
    entries: list[Entry], classes: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    names = sorted({entry.label for entry in entries}) if classes is None else list(classes)
    number = {name: n for n, name in enumerate(names)}
    if unknown := sorted({entry.label for entry in entries} - number.keys()):
        first = next(entry for entry in entries if entry.label == unknown[0])
        shown = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DataError(
            f"error: {len(unknown)} classes are not among the {len(names)} given: {shown} · "
            f"{first.where} · add them to the class list, or leave their videos out"
        )
    return names, [number[entry.label] for entry in entries]


def _integer_labels(
    entries: list[Entry], options: Options, classes: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    numbers = [int(entry.label) for entry in entries]
    least, most = min(numbers), max(numbers)
    gapless = len(set(numbers)) == most - least + 1
    zero_based = classes is not None and most < len(classes)
    if least == 1 and gapless and not options.one_based and not zero_based:
        raise DataError(
            f"error: labels look 1-based (1...{most}) · {entries[0].where} · pass --one-based to "
            "take 1 as the first class, or give all names, from class 0 on, with --classes"
        )
    if options.one_based:
        if least == 0:
            where = entries[numbers.index(0)].where
            raise DataError(f"error: {where}: label 0 · leave out --one-based")
        numbers = [number - 1 for number in numbers]
    names = [str(n) for n in range(max(numbers) + 1)] if classes is None else list(classes)
    if max(numbers) >= len(names):
        where = entries[numbers.index(max(numbers))].where
        raise DataError(
            f"error: {where}: label {most}, but there are {len(names)} classes · give all classes, "
            "or correct the label"
        )
    return names, numbers


def is_video_name(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES


def _is_class_tree(source: Path, options: Options) -> bool:
    """A folder with no video directly in it; its sub-folders are the classes."""
    if not (source.is_dir() and options.labels):
        return False
    return not any(is_video_name(entry.name) and not entry.is_dir() for entry in os.scandir(source))


def _read_class_tree(source: Path, options: Options) -> Listing:
    """root/class/**/video: the first folder below the root is the class."""
    listing = _walk(source)
    classes = {path.parts[0] for path in map(Path, (entry.key for entry in listing.entries))}
    if classes and classes <= SPLIT_NAMES:
        raise DataError(
            f"error: the folders {', '.join(sorted(classes))} look like splits, not classes · "
            f"{source} · index each of them: python -m tools.index {source / min(classes)} ..."
        )
    entries = [
        Entry(entry.key, entry.path, Path(entry.key).parts[0], entry.where)
        for entry in listing.entries
    ]
    return Listing(entries, listing.notes)


def _read_folder(source: Path, options: Options) -> Listing:
    """All videos below a folder, without labels."""
    listing = _walk(source)
    direct = sum("/" not in entry.key for entry in listing.entries)
    if options.labels and direct < len(listing.entries):
        raise DataError(
            f"error: {direct} videos lie beside folders with videos, so it is not clear whether "
            f"the folders are classes · {source} · pass --no-labels, or move them into folders"
        )
    return listing


def _walk(root: Path) -> Listing:
    """Videos below `root`, sorted by their path; every folder once, so links cannot go in circles.

    Hidden files and folders and files without a video's suffix are left out.
    """
    entries: list[Entry] = []
    ignored: Counter[str] = Counter()
    root = Path(os.path.abspath(root))
    for folder, name in _files(root):
        if is_video_name(name):
            path = Path(folder, name)
            entries.append(Entry(path.relative_to(root).as_posix(), path, None, str(path)))
        elif not name.startswith("."):
            ignored[os.path.splitext(name)[1].lower() or "no suffix"] += 1
    entries.sort(key=lambda entry: entry.key)
    most = sorted(ignored.items(), key=lambda item: (-item[1], item[0]))[:5]
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in most)
    notes = [f"ignored in {root}: {kinds}"] if ignored else []
    return Listing(entries, notes)


def _files(root: Path) -> Iterator[tuple[str, str]]:
    seen = {_identity(root)}
    for folder, folders, names in os.walk(root, followlinks=True, onerror=_unreadable):
        followed = []
        for name in sorted(folders):
            identity = _identity(Path(folder, name))
            if not name.startswith(".") and identity not in seen:
                seen.add(identity)
                followed.append(name)
        folders[:] = followed
        for name in names:
            yield folder, name


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _unreadable(error: OSError) -> None:
    raise DataError(
        f"error: the folder cannot be read ({error.strerror}) · {error.filename} · mend its "
        "permissions or leave it out"
    ) from error


def _is_pattern(source: Path, options: Options) -> bool:
    return glob.has_magic(str(source)) and not source.exists()


def _read_pattern(source: Path, options: Options) -> Listing:
    """All videos that a shell pattern matches (** for any folders), without labels."""
    found = sorted(glob.glob(str(source), recursive=True))
    paths = [Path(os.path.abspath(name)) for name in found if is_video_name(Path(name).name)]
    shared = os.path.commonpath([path.parent for path in paths]) if paths else ""
    keys = [path.relative_to(shared).as_posix() for path in paths]
    return Listing([Entry(k, p, None, str(p)) for k, p in zip(keys, paths, strict=True)])


def _read_video(source: Path, options: Options) -> Listing:
    path = Path(os.path.abspath(source))
    return Listing([Entry(path.name, path, None, str(path))])


def _read_list(source: Path, options: Options) -> Listing:
    """Lines `path label` or `path`, see pipeline/path_list.py."""
    if not source.is_file():
        raise DataError(f"error: neither a file nor a folder · {source} · give a list of videos")
    root = Path(os.path.abspath(options.root or source.parent))
    lines, notes = read_path_list(source, VIDEO_SUFFIXES)
    entries = []
    for number, name, label in lines:
        path = Path(os.path.normpath(root / name))
        label = label if options.labels else None
        entries.append(Entry(name, path, label, f"{source}:{number}"))
    return Listing(entries, notes)


FORMATS = (
    Format("class folders (root/class/**/video)", _is_class_tree, _read_class_tree),
    Format("folder without labels", lambda source, _: source.is_dir(), _read_folder),
    Format("pattern without labels", _is_pattern, _read_pattern),
    Format("video files", lambda source, _: is_video_name(source.name), _read_video),
    Format("list of paths", lambda source, _: source.exists(), _read_list),
)
