"""Some views of some places of every batch: workers and lanes, joined in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.flow.views import Luma
from pipeline.sample import HostBatch
from pipeline.workers import host_batches

if TYPE_CHECKING:
    from pipeline.loader import DataConfig


class Rendered(NamedTuple):
    """What the lanes make of a step: views [B, C, T, H, W], and the luma of some, in order."""

    views: list[Tensor]
    lumas: list[Luma]
    host: HostBatch


class Stream:
    """Those views and places of one stage, rendered by one or more lanes side by side."""

    def __init__(self, stage: torch.utils.data.Dataset, lanes: list, data: DataConfig):
        self.stage, self.lanes, self.data = stage, lanes, data

    def run(self, steps: range) -> Iterator[Rendered]:
        """What there is of every step, in order."""
        waiting: deque[HostBatch] = deque()
        batches = host_batches(
            self.stage,
            steps,
            workers=self.data.workers,
            ahead=self.data.prefetch_batches,
            decode_timeout_seconds=self.data.decode_timeout_seconds,
        )
        try:
            for batch in batches:
                self._submit(batch)
                waiting.append(batch)
                if len(waiting) == self.data.prefetch_batches:
                    yield self._collect(waiting.popleft())
            while waiting:
                yield self._collect(waiting.popleft())
        finally:
            # After an early end, too: what is under way must not come out of the next run.
            while waiting:
                self._collect(waiting.popleft())

    def _submit(self, batch: HostBatch) -> None:
        for lane, share in self._shares(batch, batch.unpacked()):
            lane.submit(share)

    def _collect(self, batch: HostBatch) -> Rendered:
        parts = [lane.collect() for lane, _ in self._shares(batch, batch.tracks)]
        if not parts:
            return Rendered([], [], batch)
        views, frames = (_joined(kind) for kind in zip(*parts, strict=True))
        draws = [[track.draws[view] for track in batch.tracks] for view in self.lanes[0].spec.lumas]
        lumas = [Luma(*pair) for pair in zip(frames, draws, strict=True)]
        return Rendered([_clips(view, len(batch.index)) for view in views], lumas, batch)

    def _shares(self, batch: HostBatch, tracks: list) -> list[tuple]:
        """The tracks of each lane; a lane without work gets no run."""
        size = len(batch.index)
        if not size:
            return []
        per_sample = len(tracks) // size
        bounds = [
            (part[0] * per_sample, (part[-1] + 1) * per_sample) if len(part) else (0, 0)
            for part in np.array_split(np.arange(size), len(self.lanes))
        ]
        shares = zip(self.lanes, bounds, strict=True)
        return [(lane, tracks[start:end]) for lane, (start, end) in shares if end > start]


def _joined(parts: tuple[list[Tensor], ...]) -> list[Tensor]:
    """Tensors of all lanes, one after the other."""
    return [torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True)]


def _clips(tracks: Tensor, samples: int) -> Tensor:
    """[samples x tracks each, C, T, H, W] -> [samples, C, tracks each x T, H, W]."""
    _, c, _, h, w = tracks.shape
    if len(tracks) == samples:
        return tracks
    return tracks.view(samples, -1, c, h, w).transpose(1, 2)
