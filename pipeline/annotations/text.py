"""Annotation files as text, CSV and JSON; every trouble is a DataError that names the place."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from pipeline.errors import DataError

HEAD_BYTES = 4096
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # half of a character, in JSON's spelling
# An exponent of three digits or more is no time, and to compute 1e999999999 takes for ever.
NUMBER = re.compile(r"[+-]?[\d.]{1,40}(e[+-]?\d{1,2})?", re.IGNORECASE)


def read_text(path: Path) -> str:
    """UTF-8 with or without byte order mark."""
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in data and not data.startswith(UTF16):
            raise DataError(
                f"error[E-LIST]: a binary file, no list · {path} · give a folder of videos, a "
                "video, a tar, or a list as text"
            ) from error
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
        return parse_json(read_text(path))
    except ValueError as error:
        where = f"{path}:{getattr(error, 'lineno', 1)}"
        what = getattr(error, "msg", str(error))
        raise DataError(f"error[E-LIST]: no JSON ({what}) · {where} · download it again") from error


def parse_json(text: str) -> Any:
    """Raises ValueError for what is no JSON, or could be neither held nor written again."""
    try:
        data = json.loads(text)
        if SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except json.JSONDecodeError:
        raise
    except UnicodeEncodeError as error:
        raise ValueError("text with half a character") from error
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    except ValueError as error:  # of a number beyond sys.get_int_max_str_digits()
        raise ValueError("a number without end") from error
    return data


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
    if isinstance(value, bool) or not NUMBER.fullmatch(str(value)):
        return None
    try:
        return Fraction(str(value))
    except ValueError:
        return None
