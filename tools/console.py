"""What the command line tools say and accept alike."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import DataError
from pipeline.whole import FULL_DISK
from training.errors import EXIT_INTERRUPTED, ConfigError


def exit_code_of(
    program: Callable[[argparse.Namespace], int],
    arguments: argparse.Namespace,
    *,
    output: str | Path,
    interrupted: str,
    errors: tuple[type[Exception], ...] = (),
    continues: bool = False,
) -> int:
    """Run a tool. DataError, OSError and `errors` become a line on the terminal and an exit code.

    output: what is to be written, for errors that name no file. interrupted: what Ctrl-C leaves,
    for its line. continues: the same command goes on where a full disk has ended it.
    arguments.debug: let errors through instead, with their tracebacks.
    """
    try:
        return program(arguments)
    except (DataError, OSError, *errors) as error:
        if arguments.debug:
            raise
        print(printable(_one_line(error, output, continues)), file=sys.stderr)
        return getattr(error, "exit_code", ConfigError.exit_code)
    except KeyboardInterrupt:
        print(f"interrupted: {interrupted}", file=sys.stderr)
        return EXIT_INTERRUPTED


def _one_line(error: Exception, output: str | Path, continues: bool) -> str:
    if isinstance(error, OSError):
        what, where = error.strerror or error, error.filename or output
        if error.errno not in FULL_DISK:
            return f"error: {what} · {where} · check path and permissions"
        again = "free some space and give the same command again" + ": it continues" * continues
        return f"error[E-DISK]: {what} · {where} · {again}"
    if isinstance(error, ImportError):
        return f"error: {error} · a library is missing or broken · python -m tools.doctor"
    if isinstance(error, ValueError):  # what every part raises for a value that makes no sense
        return f"error: {error} · --debug shows where"
    return str(error)


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a foreign file name become escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Text without control characters: a file name must not steer the terminal."""
    kept = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in encodable(text))
    return "".join(kept)


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
