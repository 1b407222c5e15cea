"""How fast a run is and how long it waits for its data, by the host's clock: timing.jsonl.

These figures differ from run to run, so they are in no line of metrics.jsonl, whose lines are the
same in a run that was stopped and resumed as in one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from pipeline import Batch

TIMING = "timing.jsonl"


class Stopwatch:
    """Measures the steps of a loop over batches. world: processes, each with batches of one size.

    Nothing waits for a device. The host runs some steps ahead of a GPU and never more, so that its
    times are the GPU's but for those steps.
    """

    def __init__(self, world: int = 1):
        self.world = world
        self._last_seconds = time.perf_counter()
        self._waited_seconds, self._clips = 0.0, 0

    def watched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; the time until each is there is noted."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited_seconds += time.perf_counter() - asked
            if batch is None:
                return
            self._clips += len(batch.index) * len(batch.views) * self.world
            yield batch

    def lap(self) -> dict[str, float]:
        """Of the step that ends now: `seconds` since the last one ended, `data_wait_seconds` of
        them, and `clips_per_second`, views of all processes.
        """
        now = time.perf_counter()
        seconds = now - self._last_seconds
        entry = {
            "seconds": seconds,
            "data_wait_seconds": self._waited_seconds,
            "clips_per_second": self._clips / seconds,
        }
        self._last_seconds, self._waited_seconds, self._clips = now, 0.0, 0
        return entry
