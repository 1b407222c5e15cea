"""Videos that ended what read them, a worker or a lane, and the samples they are refused in."""

from __future__ import annotations


class Refused:
    """Pairs of a row of the manifest and the number of a sample of the run.

    In other samples a video is tried again, however much time that costs: its other frames may
    decode, and all processes, and whoever resumes the run, have to find the same. A worker is
    not told while it runs: what is refused then are samples of other workers, or of batches that
    were handed over.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], dict] = {}

    def add(self, index: int, number: int, line: dict) -> None:
        """Refuse a video in sample `number`; line: what the list of bad videos says of it."""
        self._known.setdefault((index, number), line)

    def line(self, index: int, number: int) -> dict | None:
        """What is known against the video in sample `number`, or None."""
        return self._known.get((index, number))
