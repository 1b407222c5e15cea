"""The command: problems in the order of their worth, each checked, timed and weighed."""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from models.ops.reference.info_nce import TILE_KEYS
from tools.benchmark import memory
from tools.benchmark.clocks import GpuRate, captured
from tools.benchmark.measure import Comparison, Limit, Side, compare, rate_of_many
from tools.benchmark.ops.in_batch import nt_xent_problem, sinkhorn_problem, swapped_problem
from tools.benchmark.ops.info_nce import GOAL_SIZE
from tools.benchmark.ops.info_nce import problem as info_nce_problem
from tools.benchmark.ops.problem import EAGER, OURS, Problem, Work, check, in_words
from tools.benchmark.ops.upkeep import ema_problem, enqueue_problem
from tools.benchmark.proof import require_tests
from tools.benchmark.record import Record
from training import distributed

K = 1024
QUERIES, KEYS = (64, 256, 1024, 4096), (16 * K, 64 * K, 256 * K, K * K)
ON_CPU = (64, 256, 1024), (16 * K, 64 * K)  # what minutes are enough for
QUICK = [(8, 256), (8, 1024)]
# Every op: the test file that proves it, how to build its problems, their sizes, and those of
# --quick. info_nce has its sizes above.
OPS = {
    "info_nce": ("info_nce", info_nce_problem, [], []),
    "nt_xent": ("nt_xent", nt_xent_problem, [(256,), (2048,)], [(8,)]),
    "swapped_prediction": ("swapped_prediction", swapped_problem, [(256, 3000)], [(8, 20)]),
    # SwAV's prototypes, and ViCC's with its queue.
    "sinkhorn": ("sinkhorn", sinkhorn_problem, [(256, 3000, 0), (64, 300, 1920)], [(8, 20, 16)]),
    "enqueue": ("enqueue", enqueue_problem, [(256, 64 * K)], [(8, 32)]),
    "ema_": ("multi_tensor", ema_problem, [("r3d_18", 64)], [("r3d_18", 2)]),
}
HALF = ("info_nce", "nt_xent", "swapped_prediction")  # the others' numbers are float32 always
MEMORY_OF_EAGER = 0.01  # goal on a GPU
FLATNESS = 1.25  # goal on a CPU: of the memory at the most keys over that at the fewest


@dataclass(frozen=True)
class Task:
    """A problem that is not built yet; `build` can be sent to another process."""

    op: str
    size: tuple
    dtype: torch.dtype
    build: Callable[[], Problem]

    def __str__(self) -> str:
        return f"{self.op} {' x '.join(map(str, self.size))} {in_words(self.dtype)}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--ops", nargs="+", choices=list(OPS), default=list(OPS))
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--sizes", nargs="+", type=_size, metavar="NxK", help="of info_nce")
    sizes.add_argument("--all", action="store_true", help="sizes that take a CPU an hour as well")
    sizes.add_argument("--quick", action="store_true", help="tiny, to see that all works")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=["float32", "bfloat16"],
        help="of the vectors; on a GPU both, else float32",
    )
    parser.add_argument("--rounds", type=int, default=7, help="turns of every side")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin nothing after that")


def run(arguments: argparse.Namespace, record: Record) -> None:
    """Raises NotProved before any figure of an op that is not known to be right."""
    begun = time.monotonic()
    device = distributed.start(arguments.device).device.type
    record.console.print(f"running the tests of {', '.join(arguments.ops)}")
    require_tests([f"tests/models/test_{OPS[op][0]}.py" for op in arguments.ops], device=device)
    done = []
    for task in tasks(arguments, device):
        if arguments.budget and time.monotonic() - begun > arguments.budget:
            record.skip(str(task))
            continue
        found = measure(task, device, rounds=arguments.rounds)
        record.add(*found)
        done.append((task, found[0]))
    for limit in judge_flatness(done) if device == "cpu" else ():
        record.console.print(str(limit))
    record.write()


def tasks(arguments: argparse.Namespace, device: str) -> list[Task]:
    """The size that the goals are of first; other sizes by their work."""
    dtypes = arguments.dtypes or (["bfloat16", "float32"] if device == "cuda" else ["float32"])
    found = []
    for op in arguments.ops:
        _, build, sizes, tiny = OPS[op]
        sizes = tiny if arguments.quick else sizes
        if op == "info_nce":
            sizes = _info_nce_sizes(arguments, device)
        for dtype in dtypes if op in HALF else ["float32"]:
            dtype = getattr(torch, dtype)
            found += [
                Task(op, size, dtype, partial(build, *size, device=device, dtype=dtype))
                for size in sizes
            ]
    return sorted(found, key=_worth)


def _info_nce_sizes(arguments: argparse.Namespace, device: str) -> list[tuple[int, int]]:
    if arguments.quick:
        return QUICK
    if arguments.sizes:
        return arguments.sizes
    queries, keys = ON_CPU if device == "cpu" and not arguments.all else (QUERIES, KEYS)
    return [(n, k) for n in queries for k in keys]


def _worth(task: Task) -> tuple[int, int]:
    """For sorting: on a GPU bfloat16 queues are what one uses, and float32 the check beside."""
    if task.op != "info_nce":
        return 2, 0
    queries, keys = task.size
    if task.size == GOAL_SIZE:
        return 0, 0
    return (1 if task.dtype == torch.bfloat16 else 3), queries * keys


def measure(task: Task, device: str, *, rounds: int) -> list[Comparison]:
    """Time as the host launches it, on a GPU also as one CUDA graph; memory and errors beside."""
    problem = task.build()
    errors = check(problem, task.dtype)
    extra = _memory(task, problem, device)
    ways = [("", rate_of_many, None)]
    if device == "cuda":
        rate = GpuRate()
        ways = [(", as launched", rate, None), (", as a CUDA graph", rate, captured)]
    found = []
    for words, rate, recorded in ways:
        sides, left_out = _sides(problem, recorded)
        comparison = compare(problem.title + words, sides, unit="calls", rounds=rounds, rate=rate)
        comparison.timed, comparison.left_out = True, {**problem.left_out, **left_out}
        comparison.goals = {n: g for n, g in problem.goals.items() if n in comparison.rates}
        _add_facts(comparison, problem, errors, extra)
        if device == "cuda":
            _judge_memory(comparison, problem, extra)
        found.append(comparison)
        del sides
        gc.collect()
    return found


def _sides(
    problem: Problem, recorded: Callable[[Work], Callable] | None
) -> tuple[list[Side], dict[str, str]]:
    sides, left_out = [], {}
    for name, work in problem.works.items():
        try:
            call = recorded(work) if recorded else work
        except RuntimeError as error:  # of torch, where something in it cannot be in a graph
            if name == OURS:
                raise
            left_out[name] = f"it cannot be captured: {' '.join(str(error).split())[:120]}"
            continue
        sides.append(Side(name, partial(_once, call)))
    return sides, left_out


def _once(call: Callable[[], object]) -> float:
    call()
    return 1.0


def _memory(task: Task, problem: Problem, device: str) -> dict[str, int]:
    if device == "cuda":
        return {name: memory.extra_bytes_on_gpu(work) for name, work in problem.works.items()}
    return memory.extra_bytes_in_fresh_process(partial(_works, task.build, list(problem.works)))


def _works(build: Callable[[], Problem], names: Sequence[str]) -> dict[str, Work]:
    problem = build()
    return {name: problem.works[name] for name in names}


def _add_facts(
    comparison: Comparison, problem: Problem, errors: dict[str, float], extra: dict[str, int]
) -> None:
    for name in comparison.rates:
        facts = comparison.facts[name] = {}
        if name in extra:
            facts["extra MB"] = extra[name] / 1e6
        facts["error"] = errors[name]
        if problem.floor_seconds:
            median = comparison.milliseconds(name).p50 / 1e3
            facts["% of the floor's speed"] = 100 * problem.floor_seconds / median


def _judge_memory(comparison: Comparison, problem: Problem, extra: dict[str, int]) -> None:
    if problem.op == "info_nce" and EAGER in extra:
        share = extra[OURS] / extra[EAGER]
        comparison.limits.append(Limit("extra memory over eager's", share, MEMORY_OF_EAGER))


def judge_flatness(done: Sequence[tuple[Task, Comparison]]) -> list[Limit]:
    """Our memory at the most keys over that at the fewest, for every number of queries.

    Each limit also joins the comparison with the most keys. Queues of less than a tile do not
    count: up to there memory grows.
    """
    by_queries: dict[tuple, dict[int, Comparison]] = {}
    for task, comparison in done:
        if task.op == "info_nce" and task.size[1] >= TILE_KEYS:
            queries, keys = task.size
            by_queries.setdefault((queries, task.dtype), {})[keys] = comparison
    limits = []
    for (queries, _), by_keys in by_queries.items():
        fewest, most = min(by_keys), max(by_keys)
        if fewest == most:
            continue
        least, extra = (by_keys[keys].facts[OURS]["extra MB"] for keys in (fewest, most))
        what = f"extra memory at N = {queries:,}, {most:,} keys over {fewest:,}"
        limits.append(Limit(what, extra / least, FLATNESS))
        by_keys[most].limits.append(limits[-1])
    return limits


def _size(text: str) -> tuple[int, int]:
    numbers = text.split("x")
    if len(numbers) != 2 or not all(n.isdecimal() and int(n) for n in numbers):
        raise argparse.ArgumentTypeError(f"expected queries x keys as 256x65536, got '{text}'")
    return int(numbers[0]), int(numbers[1])
