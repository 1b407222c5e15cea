"""Which video a worker is at, told through shared memory: it can be read when the worker hangs in
a decoder, and after its death. And how it ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import NamedTuple


class Reading(NamedTuple):
    """A video (row of the manifest) and the number of the sample that it is read for."""

    number: int
    index: int


class Note:
    """What one worker writes and the trainer reads.

    turn: goes up when a video is begun and when it is done with, so it is odd within one.
    """

    def __init__(self, context: BaseContext):
        self._cells = context.RawArray(ctypes.c_int64, 3)

    @property
    def turn(self) -> int:
        return self._cells[0]

    @property
    def reading(self) -> Reading | None:
        """Where the worker is, or was when it died; None between two videos."""
        turn, *reading = self._cells
        return Reading(*reading) if turn % 2 else None

    @contextlib.contextmanager
    def at(self, reading: Reading) -> Iterator[None]:
        self._cells[1:] = reading
        self._cells[0] += 1
        try:
            yield
        finally:
            self._cells[0] += 1

    def leave(self) -> None:
        """For another worker, in the place of one that died within a video."""
        self._cells[0] += self._cells[0] % 2


own: Note | None = None  # of this process, where it is a worker


def watched(number: int, index: int) -> contextlib.AbstractContextManager[None]:
    """While the video `index` is read for sample `number`, whoever watches this process knows."""
    return own.at(Reading(number, index)) if own else contextlib.nullcontext()


def ending(process: BaseProcess, timeout_seconds: float | None = None) -> str | None:
    """How a process ended, waiting as long as that takes, or for a time; None: it has not in that.
    One that waits for a disk cannot be killed.
    """
    process.join(timeout_seconds)
    code = process.exitcode
    if code is None:
        return None
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
