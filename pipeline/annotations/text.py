"""Annotation files as text, CSV and JSON; every trouble is a DataError that names the place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

HEAD_BYTES = 4096


def read_text(path: Path) -> str:
    """UTF-8 with or without byte order mark."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"error[E-LIST]: not UTF-8 text at byte {error.start} · {path} · save it as UTF-8"
        ) from error
    except OSError as error:
        raise DataError(
            f"error[E-LIST]: cannot be read ({error.strerror}) · {path} · check its permissions"
        ) from error


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(line number, text without outer spaces) of all lines that are not blank."""
    lines = enumerate((line.strip() for line in read_text(path).split("\n")), start=1)
    return [(number, line) for number, line in lines if line]


def read_table(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line number, fields without outer spaces) of all rows of a CSV file that are not blank."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    try:
        for row in reader:
            if fields := [field.strip() for field in row]:
                yield reader.line_num, fields
    except csv.Error as error:
        where = f"{path}:{reader.line_num}"
        raise DataError(f"error[E-LIST]: no CSV ({error}) · {where} · correct the line") from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        where = f"{path}:{getattr(error, 'lineno', 1)}"
        what = getattr(error, "msg", "nested too deep")
        raise DataError(f"error[E-LIST]: no JSON ({what}) · {where} · download it again") from error


def head(path: Path) -> str:
    """The first characters of a file, for a look at its kind; "" when it is no text."""
    try:
        with path.open("rb") as file:
            data = file.read(HEAD_BYTES)
    except OSError:
        return ""
    return "" if b"\0" in data else data.decode("utf-8-sig", "ignore")


def first_line(path: Path) -> str:
    return next((line.strip() for line in head(path).splitlines() if line.strip()), "")


def seconds(value: Any) -> Fraction | None:
    """A time as written: 0.28 s are 7 frames at 25 fps, which a binary 0.28 exceeds.

    None for what is no number.
    """
    if isinstance(value, bool):
        return None
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        return None
