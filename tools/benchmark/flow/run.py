"""The command: every way to compute flow at one size, with its error; then beside a training."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from pipeline.flow import nvof
from pipeline.flow.config import FlowConfig
from pipeline.flow.operator import Operator, build_operator
from pipeline.flow.tvl1 import plain_tvl1
from tools.benchmark.clocks import captured
from tools.benchmark.flow import beside
from tools.benchmark.flow.rivals import Compiled, opencv_dis, opencv_tvl1, pair_by_pair
from tools.benchmark.flow.scenes import endpoint_error, scenes
from tools.benchmark.measure import Comparison, Limit, Side, compare, rate_of_many
from tools.benchmark.proof import NotProved, require_tests
from tools.benchmark.record import Record
from tools.console import positive
from training import distributed

PROOFS = ("tests/pipeline/flow/test_tvl1.py", "tests/pipeline/flow/test_operator.py")
SIDES, QUICK_SIDES = (112, 128), (40,)  # pixels; what methods train on
# Clips and their frames. A CPU computes few pairs, and on a GPU the slow ways get as few.
FEW = 2, 5
MANY = {"cpu": FEW, "cuda": (16, 16)}

OURS, BY_PAIR, COMPILED = "Kinema, TV-L1", "TV-L1 pair by pair", "TV-L1 by torch.compile"
OPENCV, ENGINE, DIS, PLAIN_DIS = "OpenCV TV-L1", "Kinema, NVOF", "Kinema, DIS", "OpenCV DIS"
GOALS = {"cpu": {OPENCV: 1.0}, "cuda": {BY_PAIR: 20.0, COMPILED: 3.0}}
# Pixels that ours may be off the truth, off the reference in plain torch, and off OpenCV's.
OFF_TRUTH, OFF_REFERENCE, OFF_OPENCV = 0.2, 0.05, 0.1
DIS_SIDE, DIS_MILLISECONDS = 128, 2.0  # goal: of one core, for a pair
WHY_CHARACTERS = 160


@dataclass(frozen=True)
class Way:
    """One way to compute flow, and the clips that it is timed with."""

    flow: Operator
    clips: Tensor

    def compute(self) -> Tensor:
        return self.flow(self.clips)

    def pairs(self) -> int:
        return len(self.clips) * (self.clips.shape[1] - 1)

    def once(self) -> float:
        self.compute()
        return self.pairs()

    def of_few(self) -> Tensor:
        """The flow of what all ways are given: the first scenes' last frames, on the CPU."""
        return self.compute()[: FEW[0], :, 1 - FEW[1] :].cpu()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--sizes", nargs="+", type=positive, default=list(SIDES), metavar="PIXELS")
    sizes.add_argument("--quick", action="store_true", help="tiny, to see that all works")
    parser.add_argument("--threads", type=positive, default=1, help="of every side, on the CPU")
    parser.add_argument("--rounds", type=int, default=7, help="turns of every side")
    parser.add_argument("--seconds", type=float, default=0.2, help="of a turn, at least")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin nothing after that")


def run(arguments: argparse.Namespace, record: Record) -> None:
    """Raises NotProved where the operators' tests fail or our flow is not that of the scenes."""
    begun = time.monotonic()
    process = distributed.start(arguments.device)
    device = process.device.type
    torch.set_num_threads(arguments.threads)
    record.console.print("running the tests of the flow operators")
    require_tests(PROOFS, device=device)
    turns = {"rounds": arguments.rounds, "seconds": arguments.seconds}
    sides = QUICK_SIDES if arguments.quick else arguments.sizes
    tasks = {f"flow of {side} x {side} pixels": partial(measure, side, device) for side in sides}
    if device == "cuda":  # first of all, for time may run out
        beside_training = {
            f"flow of {side} x {side} pixels beside a training": partial(
                beside.measure, process, side=side
            )
            for side in sides
        }
        tasks = {**beside_training, **tasks}
    for what, task in tasks.items():
        if arguments.budget and time.monotonic() - begun > arguments.budget:
            record.skip(what)
            continue
        record.add(*task(**turns))


def measure(side: int, device: str, *, rounds: int, seconds: float) -> list[Comparison]:
    """All ways as the host launches them; on a GPU ours and the compiled also as CUDA graphs."""
    config = FlowConfig()
    found, left_out = ways(side, config, device)
    flows = _flows(found, left_out)
    facts = errors(flows, side, config)
    finish = torch.cuda.synchronize if device == "cuda" else None
    turns = {
        "unit": "pairs",
        "rounds": rounds,
        "rate": partial(rate_of_many, least_seconds=seconds, finish=finish),
    }
    title = _title(side, config, device)
    sides = [Side(name, found[name].once) for name in flows]
    launched = compare(title, sides, **turns)
    launched.left_out, launched.facts = left_out, facts
    launched.goals = {name: goal for name, goal in GOALS[device].items() if name in flows}
    _judge(launched, flows, side)
    if device == "cpu":
        return [launched]
    sides = [Side(name, _graph(found[name]).once) for name in (OURS, COMPILED) if name in flows]
    graphs = compare(f"{title}, as CUDA graphs", sides, **turns)
    graphs.facts = {side.name: facts[side.name] for side in sides}
    return [launched, graphs]


def ways(side: int, config: FlowConfig, device: str) -> tuple[dict[str, Way], dict[str, str]]:
    """Every way by its name, ours first, and why others are not here."""
    threads, tvl1 = torch.get_num_threads(), config.tvl1
    few, _ = scenes(FEW[0], frames=FEW[1], size=side)
    number, frames = MANY[device]
    many = scenes(number, frames=frames, size=side)[0].to(device)
    found, left_out = {OURS: Way(build_operator("tvl1", config, device=device), many)}, {}
    found[BY_PAIR] = Way(partial(pair_by_pair, config=tvl1), few.to(device))
    found[COMPILED] = Way(Compiled(tvl1, device=device), many)
    if find_spec("cv2"):
        dis = build_operator("dis", config, device="cpu", threads=threads)
        found[OPENCV] = Way(partial(opencv_tvl1, config=tvl1, threads=threads), few)
        found[DIS] = Way(dis, few)
        found[PLAIN_DIS] = Way(partial(opencv_dis, config=config.dis, threads=threads), few)
    else:
        left_out |= dict.fromkeys((OPENCV, DIS, PLAIN_DIS), "not here, OpenCV is not installed")
    if lacking := nvof.lacking(device):
        left_out[ENGINE] = f"not here, it needs {lacking}"
    else:
        found[ENGINE] = Way(build_operator("nvof", config, device=device), many)
    return found, left_out


def _flows(found: dict[str, Way], left_out: dict[str, str]) -> dict[str, Tensor]:
    """What each way gives for the same few pairs; ways that fail are left out instead."""
    flows = {}
    for name, way in found.items():
        try:
            flows[name] = way.of_few()
        except Exception as error:  # somebody else's code may raise anything
            if name == OURS:
                raise
            left_out[name] = f"it fails: {' '.join(str(error).split())[:WHY_CHARACTERS]}"
    return flows


def errors(flows: dict[str, Tensor], side: int, config: FlowConfig) -> dict[str, dict[str, float]]:
    """Mean end-point errors, pixels. Raises NotProved where ours is not the scenes' flow."""
    few, truth = scenes(FEW[0], frames=FEW[1], size=side)
    reference = plain_tvl1(few, config.tvl1, threads=torch.get_num_threads())
    facts = {
        name: {
            "error px": endpoint_error(flow, truth),
            "off reference px": endpoint_error(flow, reference),
        }
        for name, flow in flows.items()
    }
    if not (error := facts[OURS]["error px"]) <= OFF_TRUTH:
        raise NotProved(
            f"error: no figure is printed, for TV-L1 is wrong · {side} x {side} pixels · "
            f"it is off by {error:.2g} pixels, allowed is {OFF_TRUTH:g}"
        )
    return facts


def _judge(comparison: Comparison, flows: dict[str, Tensor], side: int) -> None:
    """Goals beside the ratios of speeds."""
    off = comparison.facts[OURS]["off reference px"]
    limits = [Limit("TV-L1 off the reference, px", off, OFF_REFERENCE)]
    if OPENCV in flows:
        apart = endpoint_error(flows[OURS], flows[OPENCV])
        limits.append(Limit("TV-L1 off OpenCV's, px", apart, OFF_OPENCV))
    if DIS in flows and side == DIS_SIDE:
        milliseconds = torch.get_num_threads() * comparison.milliseconds(DIS).p50
        limits.append(Limit("DIS, ms of a core for a pair", milliseconds, DIS_MILLISECONDS))
    comparison.limits = limits


def _graph(way: Way) -> Way:
    replay = captured(way.compute)
    return replace(way, flow=lambda clips: replay())


def _title(side: int, config: FlowConfig, device: str) -> str:
    clips, frames = MANY[device]
    tvl1, threads = config.tvl1, torch.get_num_threads()
    return (
        f"Flow of {side} x {side} pixels, {clips * (frames - 1)} pairs at once: {tvl1.scales} "
        f"scales by {tvl1.scale_step:g}, {tvl1.warps} warps of {tvl1.iterations} iterations, "
        f"lambda {tvl1.attachment:g}, theta {tvl1.tightness:g}, tau {tvl1.time_step:g}, "
        f"DIS {config.dis.preset}, {threads} {'thread' if threads == 1 else 'threads'}"
    )
