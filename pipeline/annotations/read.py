"""Sources -> rows: formats found, labels numbered, repeats left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.annotations.diving48 import mixed_editions
from pipeline.annotations.formats import FORMAT_NAMES, FORMATS
from pipeline.annotations.labels import check_complete, check_splits, number_labels, own_classes
from pipeline.annotations.listing import (
    VIDEO_SUFFIXES,
    Entry,
    Format,
    Listing,
    Options,
    Source,
    Span,
    shown,
)
from pipeline.errors import DataError

DEFAULT_OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class Row:
    """A video to index: bytes [offset, offset + size) of a file, and of these frames only the span.

    label: index into the classes, -1 for none. size: None for the whole file.
    """

    key: str
    path: Path
    label: int
    split: str = ""
    span: Span | None = None
    offset: int = 0
    size: int | None = None


@dataclass(frozen=True)
class Annotations:
    """roots: folders from which the videos of lists were looked for."""

    rows: list[Row]
    classes: list[str]
    formats: list[str]
    notes: list[str]
    roots: list[Path] = field(default_factory=list)


def read_annotations(
    sources: Sequence[str | Path],
    *,
    options: Options = DEFAULT_OPTIONS,
    classes: Sequence[str] | None = None,
) -> Annotations:
    """Videos of all sources, in a fixed order, with labels as indices into the classes.

    classes: their order, when it is given from outside (the order of the training data). Raises
    DataError when a source cannot be understood, with its line and the cure.
    """
    read = [read_source(Path(source), options) for source in sources]
    listings = [listing for _, listing in read]
    notes = [note for listing in listings for note in listing.notes]
    entries = [entry for listing in listings for entry in listing.entries]
    if not entries:
        raise _empty(sources[0], notes)
    _check_editions(sources, listings)
    check_complete(listings)
    entries, remarks = _without_repeats(entries, strict=options.strict)
    order = classes if classes is not None or not options.labels else own_classes(listings)
    names, numbers, respelled = number_labels(entries, options, order)
    notes += [*remarks, *check_splits(entries, strict=options.strict), *respelled]
    return Annotations(
        rows=[_row(*pair) for pair in zip(_unique_keys(entries), numbers, strict=True)],
        classes=names,
        formats=list(dict.fromkeys(form.title for form, _ in read)),
        notes=notes,
        roots=list(dict.fromkeys(Source(Path(source), options).root for source in sources)),
    )


def read_source(path: Path, options: Options) -> tuple[Format, Listing]:
    """The format that was asked for, or the first that recognises the source; what it reads."""
    source = Source(path, options)
    for form in FORMATS:
        if form.name == options.format or (not options.format and form.detect(source)):
            return form, form.read(source)
    if options.format:
        raise DataError(
            f"error: no format '{options.format}' · there are: {', '.join(FORMAT_NAMES)}"
        )
    raise DataError(
        f"error: no such file or folder · {path} · give a folder of videos, a video, a pattern "
        "such as 'videos/*.mp4', or a list of lines 'path label'"
    )


def _row(entry: Entry, number: int) -> Row:
    return Row(entry.key, entry.path, number, entry.split, entry.span, entry.offset, entry.size)


def _empty(source: str | Path, notes: list[str]) -> DataError:
    seen = f" ({'; '.join(notes)})" if notes else ""
    suffixes = " ".join(sorted(VIDEO_SUFFIXES))
    return DataError(f"error[E-LIST]: 0 videos{seen} · {source} · videos end in {suffixes}")


def _check_editions(sources: Sequence[str | Path], listings: list[Listing]) -> None:
    pairs = zip(sources, listings, strict=True)
    editions = {listing.edition: Path(source) for source, listing in pairs if listing.edition}
    if len(editions) > 1:
        raise mixed_editions(editions)


def _without_repeats(entries: list[Entry], *, strict: bool) -> tuple[list[Entry], list[str]]:
    """Each video or segment once, and notes on the others.

    A video in several splits stays in the one that is not trained on. Raises DataError when a
    video comes with two labels, and with `strict` for every repeat.
    """
    first: dict[tuple, Entry] = {}
    repeated, in_two = [], []
    for entry in entries:
        place = (entry.path, entry.offset, entry.span, entry.span and entry.label)
        known = first.setdefault(place, entry)
        if known is entry:
            continue
        if known.label != entry.label:
            raise DataError(
                f"error: {entry.where}: {entry.key} has label '{entry.label}', but '{known.label}' "
                f"at {known.where} · remove one of the two"
            )
        if known.split == entry.split:
            repeated.append(entry.key)
        else:
            in_two.append(entry.key)
            first[place] = entry if known.split == "train" else known
    notes = []
    if repeated:
        notes.append(
            f"{len(repeated)} videos are listed more than once: taken once ({shown(repeated)})"
        )
    if in_two:
        notes.append(
            f"{len(in_two)} videos are in several splits: left out of train ({shown(in_two)})"
        )
    if notes and strict:
        raise DataError(f"error: {'; '.join(notes)} · mend the list, or leave out --strict")
    return list(first.values()), notes


def _unique_keys(entries: list[Entry]) -> list[Entry]:
    """Entries whose keys differ: where two sources use one key, the whole path is in front."""
    counts = Counter(entry.key for entry in entries)
    return [
        entry if counts[entry.key] == 1 else replace(entry, key=_long_key(entry))
        for entry in entries
    ]


def _long_key(entry: Entry) -> str:
    path = entry.path.as_posix().lstrip("/")
    return path if entry.span is None and entry.size is None else f"{path}#{entry.key}"
