"""Text lists of videos: one `path label` or `path` a line, as many tools write them."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection
from pathlib import Path

from pipeline.errors import DataError

SEPARATORS = {"\t": "tab", ",": "comma", " ": "space"}
HEADER_WORDS = frozenset(
    {"path", "video", "file", "filename", "filepath", "video_path", "label", "class"}
)
MOST_SHOWN = 5

Line = tuple[int, str, str | None]  # line number, path, label


def read_path_list(source: Path, suffixes: Collection[str]) -> tuple[list[Line], list[str]]:
    """The lines of a list, and notes for the user.

    The separator is tab, comma or space, whichever splits most lines behind a video's suffix, so
    both paths and text labels may hold spaces. If no line has a label, the list has none.
    Raises DataError that counts all bad lines and shows the first five.
    """
    lines, comments = _content(source)
    if not lines:
        raise DataError(f"error[E-LIST]: 0 rows · {source} · write lines: path label")
    endings = tuple(suffixes)
    separator = _separator([text for _, text in lines], endings)
    notes = [f"{comments} lines starting with # skipped"] if comments else []
    if separator and _is_header(lines[0][1], separator):
        notes.append(f"header skipped: {lines.pop(0)[1]}")
    split = [(number, *_split(text, separator, endings)) for number, text in lines]
    labelled = any(label is not None for _, _, label in split)
    if bad := [(n, why) for n, path, label in split if (why := _fault(path, label, labelled))]:
        raise _bad_rows(source, bad, len(split))
    kind = f"path and label, separated by {SEPARATORS[separator]}" if labelled else "path only"
    return split, [f"{source.name}: {kind}", *notes]


def _content(source: Path) -> tuple[list[tuple[int, str]], int]:
    """(line number, text) of all lines but blank ones and # comments; how many comments."""
    try:
        text = source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"error: not UTF-8 text at byte {error.start} · {source} · save the list as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(
            f"error: the list cannot be read ({error.strerror}) · {source} · check its permissions"
        ) from error
    numbered = enumerate((line.strip() for line in text.split("\n")), start=1)
    lines = [(number, line) for number, line in numbered if line]
    rows = [(number, line) for number, line in lines if not line.startswith("#")]
    return rows, len(lines) - len(rows)


def _separator(texts: list[str], endings: tuple[str, ...]) -> str:
    """The separator that splits most lines behind a video's suffix; '' when none splits any."""
    if all(_is_video(text, endings) for text in texts):
        return ""
    score = {
        separator: sum(_is_video(_split(text, separator, endings)[0], endings) for text in texts)
        for separator in SEPARATORS
    }
    best = max(score, key=score.get)
    if score[best]:
        return best
    # No known suffix: a folder of frames, perhaps. Take the separator that most lines have.
    counts = Counter({s: sum(s in text for text in texts) for s in SEPARATORS})
    best, lines = counts.most_common(1)[0]
    return best if lines else ""


def _split(text: str, separator: str, endings: tuple[str, ...]) -> tuple[str, str | None]:
    """(path, label) at the last separator behind a video's suffix, else at the last one."""
    if not separator or _is_video(text, endings):
        return _unquoted(text), None
    if text.startswith('"'):
        fields = next(csv.reader([text], delimiter=separator))
    else:
        fields = text.split(separator)
    for cut in range(len(fields) - 1, 0, -1):
        path = separator.join(fields[:cut]).strip()
        if _is_video(path, endings):
            return path, _label(separator.join(fields[cut:]))
    if len(fields) == 1:
        return _unquoted(text), None
    return separator.join(fields[:-1]).strip(), _label(fields[-1])


def _label(text: str) -> str | None:
    return _unquoted(text.strip()) or None


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text


def _is_video(text: str, endings: tuple[str, ...]) -> bool:
    return _unquoted(text).lower().endswith(endings)


def _is_header(text: str, separator: str) -> bool:
    return all(_unquoted(word.strip()).lower() in HEADER_WORDS for word in text.split(separator))


def _fault(path: str, label: str | None, labelled: bool) -> str:
    """What is wrong with a line; empty when nothing is."""
    if "://" in path:
        return "remote paths are not read: download the video"
    if "\0" in path:
        return "the path holds a NUL byte"
    if labelled and label is None:
        return "expected 2 columns (path label), got 1"
    if label is None:
        return ""
    words = label.replace("\t", " ").replace(",", " ").split()
    numeric = all(word.lstrip("+-").isdecimal() for word in words)
    if numeric and len(words) > 1:
        return f"expected 2 columns (path label), got {len(words) + 1}"
    if numeric and not label.isdecimal():
        return f"expected a label of 0 or more, got {label}"
    return ""


def _bad_rows(source: Path, bad: list[tuple[int, str]], rows: int) -> DataError:
    shown = "\n".join(f"  {source.name}:{number}: {why}" for number, why in bad[:MOST_SHOWN])
    more = f"\n  and {len(bad) - MOST_SHOWN} more" if len(bad) > MOST_SHOWN else ""
    return DataError(
        f"error: {len(bad)} of {rows} rows are bad · {source} · correct them:\n{shown}{more}"
    )
