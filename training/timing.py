"""How fast a run is and how long it waits for its data, by the host's clock: timing.jsonl.

These figures differ from run to run, so they are in no line of metrics.jsonl, whose lines are the
same in a run that was stopped and resumed as in one that was not.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from datetime import timedelta

from pipeline import Batch

TIMING = "timing.jsonl"
RATE_STEPS = 50  # the last ones, that rates are means of
LONG_STEPS, LONG_SECONDS = 3, 2.0  # a step that takes more mean steps, and more time, is a long one


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


class Pace:
    """How fast the last steps were, in words. total: steps of the run; done: of an earlier attempt.

    Times are those of `Stopwatch.lap`.
    """

    def __init__(self, *, done: int, total: int):
        self.done, self.total = done, total
        self._times: deque[dict[str, float]] = deque(maxlen=RATE_STEPS)
        self._stepped_seconds = time.monotonic()

    def step(self, step: int, times: dict[str, float]) -> None:
        self.done = step
        self._times.append(times)
        self._stepped_seconds = time.monotonic()

    @property
    def step_seconds(self) -> float:
        """The mean; 0 before the first step."""
        times = list(self._times)  # of one moment: a display asks from a thread of its own
        return sum(entry["seconds"] for entry in times) / max(1, len(times))

    def left(self) -> str:
        """Time to the end at this pace, less what the step under way has taken."""
        if not self._times:
            return "-:--:--"
        seconds = self.step_seconds * (self.total - self.done)
        return _clock(max(0.0, seconds - self._waited_seconds))

    def under_way(self) -> str:
        """How long the step under way takes, where that is long: the first one, one in which
        retrieval is measured, or one whose data do not come. Else empty.
        """
        waited = self._waited_seconds
        is_long = waited > max(LONG_SECONDS, LONG_STEPS * self.step_seconds)
        return _clock(waited) if is_long and self.done < self.total else ""

    def rates(self) -> dict[str, str]:
        """Clips a second and the share of the time that the data took."""
        times = list(self._times)
        seconds = sum(entry["seconds"] for entry in times)
        if not seconds:
            return {}
        clips = sum(entry["clips_per_second"] * entry["seconds"] for entry in times)
        waited = sum(entry["data_wait_seconds"] for entry in times)
        return {"clips/s": f"{clips / seconds:.1f}", "data wait": f"{100 * waited / seconds:.0f} %"}

    @property
    def _waited_seconds(self) -> float:
        return time.monotonic() - self._stepped_seconds


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
