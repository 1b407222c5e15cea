"""Some views of some places of every batch: workers and lanes, joined in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pipeline.crew import HostStage
from pipeline.errors import BadVideo, DecoderFailed
from pipeline.flow.views import Luma
from pipeline.lane_runs import LaneRuns
from pipeline.lanes import dealt
from pipeline.sample import HostBatch, Sample, pack
from pipeline.workers import host_batches

if TYPE_CHECKING:
    from pipeline.loader import DataConfig


class Rendered(NamedTuple):
    """What the lanes make of a step: views [B, C, T, H, W], and the luma of some, in order."""

    views: list[Tensor]
    lumas: list[Luma]
    host: HostBatch


@dataclass
class _Run:
    """A batch in the lanes. shares: the samples of each lane; parts: what lanes have made of them.

    mended: samples are others than the batch has. retried: it failed, and no video was the culprit.
    """

    batch: HostBatch
    shares: list[list[Sample]]
    parts: dict[int, tuple[list[Tensor], list[Tensor]]] = field(default_factory=dict)
    mended: bool = False
    retried: bool = False

    def next_lane(self) -> int | None:
        """The first lane that still has to give its part."""
        missing = (n for n, share in enumerate(self.shares) if share and n not in self.parts)
        return next(missing, None)

    def order(self) -> list[int]:
        """Where each sample of the batch is when the shares are one after the other."""
        numbers = [sample.number for share in self.shares for sample in share]
        return sorted(range(len(numbers)), key=numbers.__getitem__)

    def host(self) -> HostBatch:
        """The batch as it has become."""
        if not self.mended:
            return self.batch
        samples = list(chain(*self.shares))
        return pack([samples[n] for n in self.order()], self.batch.bad)


class Stream:
    """Those views and places of one stage, rendered by one or more lanes side by side.

    lanes: by kind of decoder; each has samples of its kind. A video at which the decoder of a lane
    fails is refused in its sample, as the stage refuses; the lane is built again and goes on at the
    same sample. `say` is told of what befell workers and lanes.
    """

    def __init__(
        self,
        stage: HostStage,
        lanes: Mapping[str, list],
        data: DataConfig,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.stage, self.data, self.say = stage, data, say
        self.lanes = [LaneRuns(lane) for lane in chain(*lanes.values())]
        self._number_of_lanes = {kind: len(some) for kind, some in lanes.items()}
        self._under_way: deque[_Run] = deque()

    def run(self, steps: Sequence[int]) -> Iterator[Rendered]:
        """What there is of every step, in order."""
        batches = host_batches(
            self.stage,
            steps,
            workers=self.data.workers,
            ahead=self.data.prefetch_batches,
            decode_timeout_seconds=self.data.decode_timeout_seconds,
            say=self.say,
        )
        try:
            with closing(batches):
                for batch in batches:
                    self._submit(_Run(batch, self._shared(batch.samples())))
                    if len(self._under_way) == self.data.prefetch_batches:
                        yield self._collect()
                while self._under_way:
                    yield self._collect()
        finally:
            self._abandon()

    def _shared(self, samples: list[Sample]) -> list[list[Sample]]:
        """The samples of each lane: those of its kind, in parts that differ by one at most."""
        shares = []
        for kind, lanes in self._number_of_lanes.items():
            own = [sample for sample in samples if sample.kind == kind]
            shares += dealt(own, lanes)
        return shares

    def _submit(self, run: _Run) -> None:
        self._mend(run)
        self._under_way.append(run)
        for number, lane in enumerate(self.lanes):
            lane.submit(run.shares[number])

    def _collect(self) -> Rendered:
        """The oldest run, whatever has to be done for it."""
        run = self._under_way[0]
        while (number := run.next_lane()) is not None:
            try:
                run.parts[number] = self.lanes[number].collect()
            except DecoderFailed as error:
                self._recover(number, error)
        self._under_way.popleft()
        return self._rendered(run)

    def _rendered(self, run: _Run) -> Rendered:
        batch, order = run.host(), run.order()
        parts = [run.parts[number] for number in sorted(run.parts)]
        if not parts:
            return Rendered([], [], batch)
        views, frames = (_joined(kind, order) for kind in zip(*parts, strict=True))
        with_luma = self.lanes[0].lane.spec.lumas
        draws = [[track.draws[view] for track in batch.tracks] for view in with_luma]
        lumas = [Luma(*pair) for pair in zip(frames, draws, strict=True)]
        return Rendered([_clips(view, len(batch.index)) for view in views], lumas, batch)

    def _recover(self, number: int, error: DecoderFailed) -> None:
        """Refuse the videos at which the lane failed, and start again where it failed.

        What fails in company only has one more try, which may be for want of memory.
        """
        run = self._under_way[0]
        culprits = self.lanes[number].culprits(run.shares[number], failed=True)
        if not culprits and run.retried:
            raise error
        run.retried = run.retried or not culprits
        for sample, reason in culprits:
            what, cure = f"the decoder of the graph failed: {reason}", "re-encode or remove it"
            path = self.stage.manifest[sample.index].path
            self.stage.refuse(sample.number, sample.index, BadVideo("E-CORRUPT", what, path, cure))
        changed = {number}.union(*(self._mend(each) for each in self._under_way))
        for each in sorted(changed):
            self._restart(each)

    def _mend(self, run: _Run) -> set[int]:
        """Put others in the place of refused videos. Returns the numbers of the lanes concerned."""
        changed = set()
        for number, share in enumerate(run.shares):
            if all(map(self._is_fine, share)):
                continue
            changed.add(number)
            run.shares[number] = [
                one
                for sample in share
                for one in (
                    [sample] if self._is_fine(sample) else self.stage.again(sample, run.batch.bad)
                )
            ]
        run.mended = run.mended or bool(changed)
        return changed

    def _is_fine(self, sample: Sample) -> bool:
        return self.stage.refused.line(sample.index, sample.number) is None

    def _restart(self, number: int) -> None:
        """All of a lane's runs that have not been given away, from a fresh graph."""
        lane = self.lanes[number]
        if lane.under_way:
            lane.rebuild()
        for run in self._under_way:
            run.parts.pop(number, None)
            lane.submit(run.shares[number])

    def _abandon(self) -> None:
        """After an early end, too: what is under way must not come out of the next run."""
        for lane in self.lanes:
            lane.drain()
        self._under_way.clear()


def _joined(parts: tuple[list[Tensor], ...], order: list[int]) -> list[Tensor]:
    """Tensors of all lanes in the order of the batch, whose samples have one or more rows each."""
    whole = [torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True)]
    if order == sorted(order) or not whole:
        return whole
    places = torch.tensor(order)
    if (device := whole[0].device).type != "cpu":
        # Indexing by the list itself would copy it from pageable memory: the host would wait.
        places = places.pin_memory().to(device, non_blocking=True)
    by_sample = [tensor.unflatten(0, (len(order), -1)) for tensor in whole]
    return [tensor.index_select(0, places).flatten(0, 1) for tensor in by_sample]


def _clips(tracks: Tensor, samples: int) -> Tensor:
    """[samples x tracks each, C, T, H, W] -> [samples, C, tracks each x T, H, W]."""
    _, c, _, h, w = tracks.shape
    if len(tracks) == samples:
        return tracks
    return tracks.view(samples, -1, c, h, w).transpose(1, 2)
