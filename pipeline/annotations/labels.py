"""Labels of all formats -> numbers, in one place. The class order is part of a trained model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pipeline.annotations.listing import (
    MOST_CLASSES,
    Entry,
    Listing,
    Options,
    class_key,
    shown,
    too_many_classes,
)
from pipeline.errors import DataError


def number_labels(
    entries: list[Entry], options: Options, classes: Sequence[str] | None
) -> tuple[list[str], list[int], list[str]]:
    """Class names, for every entry its class number (-1: none), and notes.

    classes: their order, when it is known.
    """
    if classes is not None:
        _check_classes(classes)
    labelled = [entry for entry in entries if entry.label is not None]
    if not labelled:
        return list(classes or []), [-1] * len(entries), []
    integers = [entry.label.isdecimal() for entry in labelled]
    named = classes is not None and {entry.label for entry in labelled} <= set(classes)
    if all(integers) and not named:
        names, numbers = _integer_labels(labelled, options, classes)
        notes = []
    elif any(integers) and not named:
        raise _mixed_kinds(labelled, integers)
    else:
        names, numbers, notes = _text_labels(labelled, classes)
    known = iter(numbers)
    return names, [-1 if entry.label is None else next(known) for entry in entries], notes


def check_complete(listings: Sequence[Listing]) -> None:
    """Raises DataError when some videos have labels, and others lack them without a reason."""
    labelled = next((e for one in listings for e in one.entries if e.label is not None), None)
    strict = [listing for listing in listings if not listing.may_lack_labels]
    bare = next((e for one in strict for e in one.entries if e.label is None), None)
    if labelled and bare:
        raise DataError(
            f"error: {bare.where}: no label, but {labelled.where} has one · index the sources "
            "one by one, or pass --no-labels"
        )


def own_classes(listings: Sequence[Listing]) -> list[str] | None:
    """The class order that the data set itself defines, if one does and no other differs."""
    orders = [listing.classes for listing in listings if listing.classes]
    for other in orders[1:]:
        if other != orders[0]:
            differing = sorted(set(orders[0]) ^ set(other))
            what = f"only one has: {shown(differing)}" if differing else "same names, other order"
            raise DataError(
                f"error: the sources define different class lists ({what}) · pass the one to use "
                "with --classes"
            )
    return orders[0] if orders else None


def check_splits(entries: Sequence[Entry], *, strict: bool) -> list[str]:
    """Notes on classes that only the training split has.

    Raises DataError for classes that only another split has: nobody could have learned them. With
    `strict`, also for the former.
    """
    seen: dict[str, set[str]] = {}
    for entry in entries:
        if entry.label is not None:
            seen.setdefault(entry.split, set()).add(entry.label)
    train = seen.pop("train", None)
    notes = []
    for split, labels in sorted(seen.items()) if train else ():
        if unknown := sorted(labels - train):
            raise DataError(
                f"error: {len(unknown)} classes are in split '{split}', but not in 'train': "
                f"{shown(unknown)} · correct the lists, or pass --no-labels"
            )
        if absent := sorted(train - labels):
            notes.append(
                f"{len(absent)} classes are in split 'train', but not in '{split}': {shown(absent)}"
            )
    if notes and strict:
        raise DataError(f"error: {notes[0]} · correct the lists, or leave out --strict")
    return notes


def _check_classes(classes: Sequence[str]) -> None:
    if not classes:
        raise DataError("error: the given class list is empty · write one class on each line")
    name, count = Counter(classes).most_common(1)[0]
    if count > 1:
        raise DataError(f"error: the class '{name}' is listed {count} times · list it once")


def _mixed_kinds(entries: list[Entry], integers: list[bool]) -> DataError:
    odd = integers.index(2 * sum(integers) < len(integers))
    kinds = ("an integer", "text") if integers[odd] else ("text", "an integer")
    return DataError(
        f"error: {entries[odd].where}: label '{entries[odd].label}' is {kinds[0]}, most others "
        f"are {kinds[1]} · use one kind, or name all classes with --classes"
    )


def _text_labels(
    entries: list[Entry], classes: Sequence[str] | None
) -> tuple[list[str], list[int], list[str]]:
    labels = sorted({entry.label for entry in entries})
    names = _without_respellings(labels) if classes is None else list(classes)
    number = {name: n for n, name in enumerate(names)}
    by_key = {class_key(name): n for n, name in enumerate(names)}
    if len(by_key) < len(names):
        by_key = {}
    respelled = {
        label: by_key[class_key(label)]
        for label in labels
        if label not in number and class_key(label) in by_key
    }
    number |= respelled
    if unknown := [label for label in labels if label not in number]:
        first = next(entry for entry in entries if entry.label == unknown[0])
        raise DataError(
            f"error: {len(unknown)} classes are not among the {len(names)} given: "
            f"{', '.join(unknown)} · {first.where} · add them to the class list, or leave their "
            "videos out"
        )
    pairs = [f"{label} = {names[n]}" for label, n in respelled.items()]
    notes = [f"{len(pairs)} classes in another spelling: {shown(pairs)}"] if pairs else []
    return names, [number[entry.label] for entry in entries], notes


def _without_respellings(labels: list[str]) -> list[str]:
    """Of classes that differ only as spellings of a folder do, the first."""
    first: dict[str, str] = {}
    for label in labels:
        first.setdefault(class_key(label), label)
    return sorted(first.values())


def _integer_labels(
    entries: list[Entry], options: Options, classes: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    numbers = [_number(entry) for entry in entries]
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


def _number(entry: Entry) -> int:
    """Raises DataError for a number that would make a list of classes without end."""
    if len(entry.label.lstrip("0")) > len(str(MOST_CLASSES)) or int(entry.label) >= MOST_CLASSES:
        raise too_many_classes(entry.label, entry.where)
    return int(entry.label)
