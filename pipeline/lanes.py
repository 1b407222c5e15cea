"""How many lanes there are, and who decodes which place of a batch: as the recipe says, or by rates
that are measured before a training.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from pipeline.lane_runs import LaneRuns
from pipeline.sample import Sample, TrainingStage
from pipeline.workers import host_batches

if TYPE_CHECKING:
    from pipeline.loader import DataConfig

T = TypeVar("T")
AUTO = "auto"
# A lane keeps one NVDEC engine busy; the largest GPUs have seven, and one may wait for its bytes.
NUMBERS = (1, 2, 4, 7, 8)
ENGINES = 7
WITHIN = 0.05  # of the best rate: for less than this no more memory is spent
SECONDS = 20.0  # after which no further number is tried
BATCHES = 4  # of each number of lanes
CPU_PLACES = 2  # of a batch that is decoded on the CPU to learn its rate


def fewest_lanes(rates: Mapping[int, float]) -> int:
    """The smallest number of lanes whose rate is within 5 % of the best. rates: by number."""
    best = max(rates.values())
    return min(number for number, rate in rates.items() if rate >= (1 - WITHIN) * best)


def share_of_cpu(cpu_rate: float, gpu_rate: float) -> float:
    """The part of a batch, in hundredths, with which the CPU is done when the GPU is."""
    return round(cpu_rate / (cpu_rate + gpu_rate), 2)


def kinds_of(slots: Sequence[int], decoder: str, cpu_share: float) -> tuple[str, ...]:
    """Who decodes each of these places of the global batch, whatever else is in this process.

    The CPU's places are spread evenly, so that all processes have as many, give or take one.
    """
    if decoder != "both":
        return (decoder,) * len(slots)
    # A part that is no sum of powers of two must not miss a whole number by its last bit.
    parts = [[math.floor(n * cpu_share + 1e-9) for n in (slot, slot + 1)] for slot in slots]
    return tuple("ffmpeg" if after > before else "nvdec" for before, after in parts)


def dealt(samples: Sequence[T], lanes: int) -> list[Sequence[T]]:
    """Samples in order over lanes, in parts that differ by one at most."""
    bounds = [len(samples) * n // lanes for n in range(lanes + 1)]
    return [samples[first:end] for first, end in pairwise(bounds)]


def divided(data: DataConfig, streams: int) -> DataConfig:
    """Workers and lanes of one of so many streams: their part, and at least one, but for workers
    where there are none. data.lanes: a number by now.
    """
    workers = data.workers and max(1, data.workers // streams)
    return replace(data, workers=workers, lanes=max(1, int(data.lanes) // streams))


def without_measuring(asked: int | str, decoder: str, device: str) -> tuple[int, str]:
    """Lanes for whoever does not measure, and the reason in words."""
    if asked != AUTO:
        return int(asked), "asked for"
    if device == "cpu":
        return 1, "a CPU has its parallelism in data.workers"
    if decoder == "ffmpeg":
        return 1, "the workers decode"
    return ENGINES, "one for each decoding engine of the largest GPUs"


def described(asked: int | str, decoder: str, device: str) -> str:
    """What a training says of its lanes before it has measured anything."""
    if asked == AUTO and decoder in ("nvdec", "both"):
        return "lanes to be measured"
    lanes, why = without_measuring(asked, decoder, device)
    return f"{lanes} lane{'s' if lanes > 1 else ''} ({why})"


def lane_rates(
    build: Callable[[int], list],
    samples: list[Sample],
    *,
    ahead: int,
    numbers: Sequence[int] = NUMBERS,
    seconds: float = SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """Samples a second by number of lanes, for as many numbers as there are seconds; at least one.

    build: so many lanes, each for its part of `samples`. ahead: batches under way in each. Raises
    DecoderFailed at a sample that does not decode.
    """
    rates: dict[int, float] = {}
    end = clock() + seconds
    for number in numbers:
        if rates and (clock() > end or number > len(samples)):
            break
        lanes = [LaneRuns(lane) for lane in build(number)]
        rates[number] = _rate(lanes, samples, ahead, clock)
        del lanes  # their decoders and memory are for the next ones
    return rates


def _rate(
    lanes: list[LaneRuns], samples: list[Sample], ahead: int, clock: Callable[[], float]
) -> float:
    work = [pair for pair in zip(lanes, dealt(samples, len(lanes)), strict=True) if pair[1]]

    def start() -> None:
        for lane, share in work:
            lane.submit(share)

    def finish() -> None:
        for lane, _ in work:
            views, _ = lane.collect()
            views[0].flatten()[0].item()  # waits for the device

    start()
    finish()  # the first run opens the decoders
    for _ in range(ahead):
        start()
    begun = clock()
    for _ in range(BATCHES):
        finish()
        start()
    seconds = clock() - begun
    for _ in range(ahead):
        finish()
    return BATCHES * len(samples) / seconds


def cpu_rate(
    stages: Sequence[TrainingStage],
    data: DataConfig,
    *,
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Samples a second that all workers together decode by FFmpeg, of one stage after the other,
    watched as in a training. `say` as for `host_batches`, which raises here, too.
    """
    seats, seconds = max(1, data.workers), 0.0
    for stage in stages:
        first = stage.slots[0]
        batches = host_batches(
            replace(
                stage,
                slots=tuple(range(first, first + CPU_PLACES)),
                kinds=("ffmpeg",) * CPU_PLACES,
                # What is too slow now is tried in the training, where it may be another decoder's.
                refused=deepcopy(stage.refused),
            ),
            range((1 + BATCHES) * seats),
            workers=data.workers,
            ahead=1,
            decode_timeout_seconds=data.decode_timeout_seconds,
            say=say,
        )
        with closing(batches):
            for _ in range(seats):
                next(batches)  # the first of each worker: it starts, and opens what is opened once
            begun = clock()
            for _ in batches:
                pass
            seconds += clock() - begun
    return len(stages) * seats * BATCHES * CPU_PLACES / seconds


def measured_line(rates: Mapping[int, float], chosen: int) -> str:
    """The line that says what was measured."""
    measured = ", ".join(f"{number}: {rate:.0f}" for number, rate in rates.items())
    return f"lanes: {chosen} of these, by samples/s: {measured}"
