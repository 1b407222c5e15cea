"""What the command line tools say and accept alike."""

from __future__ import annotations

import argparse
import errno
import math
from pathlib import Path

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a foreign file name become escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Text without control characters: a file name must not steer the terminal."""
    kept = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in encodable(text))
    return "".join(kept)


def one_line(error: OSError, place: str | Path = "-") -> str:
    """place: what was to be written, for errors that name no file."""
    what, where = error.strerror or error, error.filename or place
    if error.errno in FULL_DISK:
        return f"error[E-DISK]: {what} · {where} · free some space and give the same command again"
    return f"error: {what} · {where} · check path and permissions"


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got '{text}'")
    return int(text)


def seconds(text: str) -> float:
    if not 0 < _number(text) < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got '{text}'")
    return float(text)


def fraction(text: str) -> float:
    if not 0 <= _number(text) <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got '{text}'")
    return float(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
