"""A lane and the runs that it has under way."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from torch import Tensor

from pipeline.errors import DecoderFailed
from pipeline.sample import Sample


class LaneRuns:
    """Counts the runs of a lane (`pipeline.graph.Lane`, `pipeline.host.HostLane`)."""

    def __init__(self, lane):
        self.lane, self.under_way = lane, 0

    def submit(self, samples: Sequence[Sample]) -> None:
        """Start a run; of no samples there is none."""
        if samples:
            self.lane.submit([track for sample in samples for track in sample.tracks])
            self.under_way += 1

    def collect(self) -> tuple[list[Tensor], list[Tensor]]:
        """Views and lumas of the oldest run. After DecoderFailed no run is left."""
        try:
            made = self.lane.collect()
        except DecoderFailed:
            self.rebuild()
            raise
        except Exception:
            self.under_way -= 1
            raise
        self.under_way -= 1
        return made

    def rebuild(self) -> None:
        """A fresh lane without runs."""
        self.under_way = 0
        self.lane.rebuild()

    def drain(self) -> None:
        """Wait for all runs and forget them, and what befell them: nobody takes them any more."""
        while self.under_way:
            with contextlib.suppress(Exception):
                self.collect()

    def culprits(
        self, samples: Sequence[Sample], *, failed: bool = False
    ) -> list[tuple[Sample, str]]:
        """Each sample at which the lane, which has no run, fails by itself, and why.

        By halves: for one of n it takes log2 n + 1 to 2 log2 n runs. failed: that they fail
        together is known.
        """
        if len(samples) == 1 or not failed:
            reason = self._failure(samples)
            if reason is None or len(samples) == 1:
                return [] if reason is None else [(samples[0], reason)]
        half = len(samples) // 2
        first = self.culprits(samples[:half])
        return first + self.culprits(samples[half:], failed=not first)

    def _failure(self, samples: Sequence[Sample]) -> str | None:
        """Why a run of these alone fails; None: it does not."""
        self.submit(samples)
        try:
            self.collect()
        except DecoderFailed as error:
            return error.reason
        return None
