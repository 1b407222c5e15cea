"""Flow on one stream of a GPU while a training goes on on another, and what it costs the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from pipeline.flow import nvof
from pipeline.flow.config import FlowConfig
from pipeline.flow.operator import build_operator
from tools.benchmark.clocks import captured
from tools.benchmark.flow.scenes import scenes
from tools.benchmark.measure import Comparison, Limit, Side, compare, rate_of_many
from tools.benchmark.step import WARM_UP_STEPS, Loop, published_loop
from training.distributed import Process

CLIPS, FRAMES = 16, 16
PAIRS = CLIPS * (FRAMES - 1)
TURN_SECONDS = 1.0  # at least: some steps, each of which may take a tenth of it
WANTED = 3000.0  # pairs a second: what a step is given to do beside it
BESIDE_TVL1, BESIDE_ENGINE, ALONE = "step, TV-L1 beside it", "step, NVOF beside it", "step alone"


def measure(process: Process, *, side: int, rounds: int, seconds: float) -> list[Comparison]:
    """Steps a second with and without flow. As much flow is launched with each step as would be
    `WANTED` pairs a second if the step took no longer for it.
    """
    loop = published_loop(process)
    for _ in range(WARM_UP_STEPS):
        loop.step()
    turn = max(seconds, TURN_SECONDS)
    rate = partial(rate_of_many, least_seconds=turn, finish=torch.cuda.synchronize)
    runs = math.ceil(WANTED / PAIRS / rate(partial(_step, loop)))
    clips = scenes(CLIPS, frames=FRAMES, size=side)[0].to(process.device)
    works, left_out = _works(clips, process)
    stream = torch.cuda.Stream()
    sides = [Side(name, partial(_beside, work, runs, stream, loop)) for name, work in works.items()]
    title = f"A training step, {runs * PAIRS:,} pairs of {side} x {side} pixels beside it"
    comparison = compare(
        title, [*sides, Side(ALONE, partial(_step, loop))], unit="steps", rounds=rounds, rate=rate
    )
    comparison.left_out = left_out
    for name in works:
        comparison.facts[name] = {"pairs/s": runs * PAIRS * comparison.rate(name).p50}
    pair = comparison.milliseconds(BESIDE_TVL1).p50 / (runs * PAIRS)
    comparison.limits.append(Limit("TV-L1 beside a step, ms a pair", pair, 1e3 / WANTED))
    return [comparison]


def _works(
    clips: torch.Tensor, process: Process
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    device, config = str(process.device), FlowConfig()
    tvl1 = build_operator("tvl1", config, device=device)
    # As one graph: launching hundreds of kernels would take the host's time, which is the step's.
    works = {BESIDE_TVL1: captured(partial(tvl1, clips))}
    if lacking := nvof.lacking(device):
        return works, {BESIDE_ENGINE: f"not here, it needs {lacking}"}
    engine = build_operator("nvof", config, device=device)
    return works | {BESIDE_ENGINE: partial(engine, clips)}, {}


def _beside(work: Callable[[], object], runs: int, stream: torch.cuda.Stream, loop: Loop) -> float:
    with torch.cuda.stream(stream):
        for _ in range(runs):
            work()
    return _step(loop)


def _step(loop: Loop) -> float:
    loop.step()
    return 1.0
