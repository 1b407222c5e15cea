"""Text lists of videos: one `path label` or `path` a line, as many tools write them.

mmaction2, SlowFast, VideoMAE and V-JEPA lists are of this kind. Three columns mean different things
to different tools, so the user has to say what they are.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from pipeline.annotations.listing import VIDEO_SUFFIXES, Span, bad_rows
from pipeline.annotations.text import read_lines
from pipeline.errors import DataError

SEPARATORS = {"\t": "tab", ",": "comma", "::": "double colon", " ": "space"}
COLUMNS = ("path", "label", "split", "start", "frames", "skip")
HEADER_WORDS = frozenset(
    {"path", "video", "file", "filename", "filepath", "video_path", "label", "class", *COLUMNS}
)
ENDINGS = tuple(VIDEO_SUFFIXES)
WHOLE_VIDEO = -1  # VideoMAEv2 writes `path 0 -1` for videos that are no folder of frames


@dataclass(frozen=True, slots=True)
class Line:
    """at: line number. span: frames of the video, None for all."""

    at: int
    path: str
    label: str | None
    split: str = ""
    span: Span | None = None


def read_path_list(source: Path, columns: Sequence[str] = ()) -> tuple[list[Line], list[str]]:
    """The lines of a list, and notes for the user.

    The separator is tab, comma, `::` or space, whichever splits most lines behind a video's suffix,
    so both paths and text labels may hold spaces. If no line has a label, the list has none.
    columns: names from COLUMNS; only the path may then hold the separator. Raises DataError that
    counts all bad lines and shows the first five.
    """
    lines, comments = _content(source)
    if not lines:
        raise DataError(f"error[E-LIST]: 0 rows · {source} · write lines: path label")
    texts = [text for _, text in lines]
    separator = _widest(texts, len(columns)) if columns else _separator(texts)
    notes = [f"{comments} lines starting with # skipped"] if comments else []
    if separator and _is_header(lines[0][1], separator):
        notes.append(f"header skipped: {lines.pop(0)[1]}")
    if columns:
        found = _by_columns(source, lines, separator, columns)
        kind = f"{', '.join(columns)}, separated by {SEPARATORS[separator]}"
    else:
        found, labelled = _by_suffix(source, lines, separator)
        kind = f"path and label, separated by {SEPARATORS[separator]}" if labelled else "path only"
    return found, [f"{source.name}: {kind}", *notes]


def _content(source: Path) -> tuple[list[tuple[int, str]], int]:
    """(line number, text) of all lines but blank ones and # comments; how many comments."""
    lines = read_lines(source)
    rows = [(number, line) for number, line in lines if not line.startswith("#")]
    return rows, len(lines) - len(rows)


def _separator(texts: list[str]) -> str:
    """The separator that splits most lines behind a video's suffix; '' when none splits any."""
    if all(_is_video(text) for text in texts):
        return ""
    score = {
        separator: sum(_is_video(_split(text, separator)[0]) for text in texts)
        for separator in SEPARATORS
    }
    best = max(score, key=score.get)
    if score[best]:
        return best
    # No known suffix: a folder of frames, perhaps. Take the separator that most lines have.
    counts = Counter({s: sum(s in text for text in texts) for s in SEPARATORS})
    best, lines = counts.most_common(1)[0]
    return best if lines else ""


def _split(text: str, separator: str) -> tuple[str, str | None]:
    """(path, label) at the last separator behind a video's suffix, else at the last one."""
    if not separator or _is_video(text):
        return _unquoted(text), None
    fields = _fields(text, separator)
    for cut in range(len(fields) - 1, 0, -1):
        path = separator.join(fields[:cut]).strip()
        if _is_video(path):
            return path, _label(separator.join(fields[cut:]))
    if len(fields) == 1:
        return _unquoted(text), None
    # A folder of frames. Two numbers behind it leave open which one is the label.
    cut = -2 if len(fields) > 2 and all(_is_number(field) for field in fields[-2:]) else -1
    return separator.join(fields[:cut]).strip(), _label(separator.join(fields[cut:]))


def _fields(text: str, separator: str) -> list[str]:
    if text.startswith('"') and len(separator) == 1:
        return next(csv.reader([text], delimiter=separator))
    return text.split(separator)


def _by_suffix(
    source: Path, lines: list[tuple[int, str]], separator: str
) -> tuple[list[Line], bool]:
    """Lines split behind the video's suffix, and whether they have labels."""
    found = [Line(number, *_split(text, separator)) for number, text in lines]
    labelled = any(line.label is not None for line in found)
    widths = Counter(_width(line.label) for line in found)
    if 2 * widths[3] >= len(found):
        raise DataError(
            f"error[E-LIST]: 3 columns mean different things to different tools · "
            f"{source}:{lines[0][0]}: {lines[0][1]} · say which: --columns path,frames,label "
            "(SlowFast, mmaction2), path,start,frames (VideoMAEv2) or path,label,skip (several "
            "labels: the first)"
        )
    if bad := [(line.at, why) for line in found if (why := _fault(line, labelled))]:
        wide = any("got 3" in why for _, why in bad)
        cure = "correct them, or use --columns path,frames,label" if wide else ""
        raise bad_rows(source, bad, len(found), cure)
    return found, labelled


def _width(label: str | None) -> int:
    """How many columns a line has, when all behind the path are numbers; else 2."""
    if label is None:
        return 1
    words = _words(label)
    return 1 + len(words) if all(_is_number(word) for word in words) else 2


def _words(label: str) -> list[str]:
    return label.replace("\t", " ").replace(",", " ").split()


def _is_number(text: str) -> bool:
    return text.strip().lstrip("+-").isdecimal()


def _fault(line: Line, labelled: bool) -> str:
    """What is wrong with a line; empty when nothing is."""
    if why := _unreadable(line.path):
        return why
    if labelled and line.label is None:
        return "expected 2 columns (path label), got 1"
    if line.label is None:
        return ""
    if (columns := _width(line.label)) > 2:
        return f"expected 2 columns (path label), got {columns}"
    if _is_number(line.label) and not line.label.isdecimal():
        return f"expected a label of 0 or more, got {line.label}"
    return ""


def _unreadable(path: str) -> str:
    if "://" in path:
        return "remote paths are not read: download the video"
    return "the path holds a NUL byte" if "\0" in path else ""


def _widest(texts: list[str], columns: int) -> str:
    """The separator that gives most lines at least so many columns."""
    if columns == 1:
        return "\t"
    score = {s: sum(len(_fields(t, s)) >= columns for t in texts) for s in SEPARATORS}
    return max(score, key=score.get)


def _by_columns(
    source: Path, lines: list[tuple[int, str]], separator: str, columns: Sequence[str]
) -> list[Line]:
    found, bad = [], []
    for number, text in lines:
        try:
            found.append(_line(number, _fields(text, separator), separator, columns))
        except ValueError as error:
            bad.append((number, str(error)))
    if bad:
        raise bad_rows(source, bad, len(lines))
    return found


def _line(at: int, fields: list[str], separator: str, columns: Sequence[str]) -> Line:
    """Raises ValueError when the fields are not what the columns say."""
    if len(fields) < len(columns):
        raise ValueError(
            f"expected {len(columns)} columns ({' '.join(columns)}), got {len(fields)}"
        )
    first = columns.index("path")
    behind = len(columns) - 1 - first
    path = separator.join(fields[first : len(fields) - behind]).strip()
    others = [*fields[:first], path, *fields[len(fields) - behind :]]
    value = {name: _unquoted(text.strip()) for name, text in zip(columns, others, strict=True)}
    if why := _unreadable(value["path"]):
        raise ValueError(why)
    label = value.get("label") or None
    if label and _is_number(label) and not label.isdecimal():
        raise ValueError(f"expected a label of 0 or more, got {label}")
    return Line(at, value["path"], label, value.get("split", ""), _span(value))


def _span(value: dict[str, str]) -> Span | None:
    """Frames [start, start + frames); a list without `start` counts the frames of the whole."""
    for name in ("start", "frames"):
        if name in value and not _is_number(value[name]):
            raise ValueError(f"expected a whole number as {name}, got '{value[name]}'")
    if "start" not in value or "frames" not in value or int(value["frames"]) == WHOLE_VIDEO:
        return None
    start, frames = int(value["start"]), int(value["frames"])
    if start < 0 or frames < 1:
        raise ValueError(f"expected start >= 0 and frames > 0 (or -1), got {start} and {frames}")
    return Span(Fraction(start), Fraction(start + frames), in_frames=True)


def _label(text: str) -> str | None:
    return _unquoted(text.strip()) or None


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('""', '"') if quoted else text


def _is_video(text: str) -> bool:
    return _unquoted(text).lower().endswith(ENDINGS)


def _is_header(text: str, separator: str) -> bool:
    return all(_unquoted(word.strip()).lower() in HEADER_WORDS for word in text.split(separator))
