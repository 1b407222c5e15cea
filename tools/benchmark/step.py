"""`tools.benchmark step`: a whole step of VideoMoCo beside the loop it was published with.

Both take the same backbone, weights, batches on the device, precision and equations, so that they
agree on the loss; what differs is how the step is written. Batch statistics are plain in both, and
no negative is left out for its video. Neither side writes its log here.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, product
from pathlib import Path

import torch
from torch import nn

from pipeline import Batch
from pipeline.manifest import Manifest
from tools.benchmark import starvation
from tools.benchmark.cost import flops_of, most_flops
from tools.benchmark.dispatches import count_dispatches, count_launches, count_syncs
from tools.benchmark.measure import Comparison, Limit, Side, compare, rate_of_many
from tools.benchmark.memory import extra_bytes_in_fresh_process, extra_bytes_on_gpu
from tools.benchmark.moco_style import MocoStyle, Queue
from tools.benchmark.proof import NotProved, require_tests
from tools.benchmark.record import Record
from training import config, distributed, stages
from training.distributed import Process
from training.stages import Stage
from training.step import build_step, networks

PARTS = ("loops", "starvation")
PROOFS = ("tests/models/test_videomoco.py", "tests/training/test_step.py")
# The papers' network on a GPU; what a CPU can do, with the papers' queue.
RECIPES = {
    "cpu": ("configs/demo.yaml", ["run.precision=fp32"]),
    "cuda": ("configs/videomoco_k400.yaml", ["run.precision=bf16"]),
}
SAME_WORK = [
    "method.key_batch_norm=plain",
    "method.exclude_same_video=false",
    "method.decay_unit=step",
    "method.generator_sees_loss=true",
    "method.queue_size=65536",
    "optim.name=sgd",
]
VIDEOS = 240_000  # of the data set, which no step sees; Kinetics-400 has about as many
LR = 0.01
BATCHES = 2  # that take turns

OURS, RIVAL = "Kinema", "MoCo-style loop"
WAITS = "waits, no loader"  # of the host for a GPU; `starvation` counts them with the loader
# Options of `run` that are compared at once, the most wanted first. A captured step keeps its
# memory for itself, so no two of them.
NONE: list[str] = []
TOGETHER = {
    "cpu": [[NONE]],
    "cuda": [[NONE], [NONE, ["cuda_graph"]], [NONE, ["compile"], ["compile", "cuda_graph"]]],
}
WARM_UP_STEPS = 5  # a captured step is an ordinary one three times, and recorded in the fourth
CHECKED_STEPS = 3
AGREE = 0.01  # the losses, relatively
SPEED = {"cpu": 1.0, "cuda": 2.5}  # goals: of our steps a second over the rival's
OUTSIDE = 0.5  # goal on a CPU: of our operations outside the networks over the rival's


@dataclass(frozen=True)
class Loop:
    """One way to train. step: takes one and returns its loss. networks: counted apart."""

    step: Callable[[], float | torch.Tensor]
    networks: list[nn.Module]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for train.py")
    parser.add_argument("--recipe", help="of VideoMoCo; by default one that fits the device")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--compile", action="store_true", help="compare run.compile, and nothing else"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--data", type=Path, metavar="MANIFEST", help="to wait for; else made here")
    parser.add_argument("--rounds", type=int, default=7, help="turns of every side")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn, at least")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin nothing after that")


def run(arguments: argparse.Namespace, record: Record) -> None:
    """Raises NotProved where the tests of the step fail or the two loops' losses differ."""
    begun = time.monotonic()
    process = distributed.start(arguments.device)
    tasks: dict[str, Callable[[], Comparison]] = {}
    if "loops" in arguments.parts:
        record.console.print("running the tests of VideoMoCo and of the step")
        require_tests(PROOFS, device=process.device.type)
        tasks |= _loops(arguments, process)
    if "starvation" in arguments.parts:
        tasks |= _starvation(arguments, process)
    for title, task in tasks.items():
        if arguments.budget and time.monotonic() - begun > arguments.budget:
            record.skip(title)
        else:
            record.add(task())


def _loops(arguments: argparse.Namespace, process: Process) -> dict[str, Callable[[], Comparison]]:
    """By their titles."""
    device = process.device.type
    schedule = stages.plan(_recipe(arguments, device), VIDEOS)
    together = [[NONE, ["compile"]]] if arguments.compile else TOGETHER[device]
    turns = {"rounds": arguments.rounds, "seconds": arguments.seconds}
    return {
        _title(stage, variants): partial(measure, stage, process, variants, **turns)
        for variants, stage in product(together, schedule)
    }


def _starvation(
    arguments: argparse.Namespace, process: Process
) -> dict[str, Callable[[], Comparison]]:
    kind, tasks = process.device.type, {}
    recipes = starvation.cases(kind, arguments.recipe, arguments.overrides)
    largest = max(recipe.data.batch_size for recipe in recipes.values())
    own = arguments.data
    manifest = Manifest.read(own) if own else starvation.videos_for(kind, arguments.folder, largest)
    for name, recipe in recipes.items():
        if recipe.run.threads:
            torch.set_num_threads(recipe.run.threads)
        for stage in stages.plan(recipe, len(manifest)):
            turns = {"name": name, "rounds": arguments.rounds, "seconds": arguments.seconds}
            title = f"waiting for data: {name}, stage {stage.name}"
            tasks[title] = partial(starvation.measure, stage, manifest, process, **turns)
    return tasks


def _recipe(arguments: argparse.Namespace, device: str) -> config.Recipe:
    path, options = RECIPES[device]
    return config.load(arguments.recipe or path, [*SAME_WORK, *options, *arguments.overrides])


def measure(
    stage: Stage,
    process: Process,
    variants: Sequence[Sequence[str]],
    *,
    rounds: int,
    seconds: float,
) -> Comparison:
    """Steps a second of a stage by each loop; the fastest of our variants is the one compared."""
    on_gpu = process.device.type == "cuda"
    batches = _batches(stage, process)
    check(stage, process, batches)
    loops = {" + ".join([OURS, *v]): our_loop(stage, process, batches, v) for v in variants}
    loops[RIVAL] = their_loop(stage, process, batches)
    for loop in loops.values():
        for _ in range(WARM_UP_STEPS):
            loop.step()
    rate = partial(
        rate_of_many, least_seconds=seconds, finish=torch.cuda.synchronize if on_gpu else None
    )
    sides = [Side(name, partial(_once, loop)) for name, loop in loops.items()]
    comparison = compare(_title(stage, variants), sides, unit="steps", rounds=rounds, rate=rate)
    _fastest_first(comparison)
    comparison.goals = {RIVAL: SPEED[process.device.type]}
    for name, loop in loops.items():
        comparison.facts[name] = _facts(loop, plain=name in (OURS, RIVAL), on_gpu=on_gpu)
    _add_use(comparison, loops[OURS], stage, most_flops(process.device.type))
    if on_gpu:
        waits = comparison.facts[comparison.ours][WAITS]
        comparison.limits.append(Limit("waits of the host for the GPU, no loader", waits, most=0))
    else:
        _judge_dispatches(comparison)
    del loops, sides
    gc.collect()
    if not on_gpu:
        works = partial(_plain_steps, stage.recipe.plain(), process)
        _add_peaks(comparison, extra_bytes_in_fresh_process(works))
    return comparison


def our_loop(
    stage: Stage, process: Process, batches: Sequence[Batch], variant: Sequence[str]
) -> Loop:
    method, optimizer = stages.build(stage, process)
    options = replace(stage.recipe.run, **dict.fromkeys(variant, True))
    step, numbered, coming = build_step(method, optimizer, process, options), [0], cycle(batches)

    def run() -> torch.Tensor:
        numbered[0] += 1
        own = {"number": numbered[0], "lr": LR, "seed": 0, "epoch": 0.0, "samples": 0}
        return step(next(coming), **own)["loss"]

    return Loop(run, list(networks(method)))


def published_loop(process: Process) -> Loop:
    """Our loop of the recipe that fits the device, to have a training go on beside something."""
    path, options = RECIPES[process.device.type]
    stage = stages.plan(config.load(path, options), VIDEOS)[0]
    return our_loop(stage, process, _batches(stage, process), NONE)


def their_loop(stage: Stage, process: Process, batches: Sequence[Batch]) -> Loop:
    """Its weights and first queue are those of ours, its memory format is NCDHW."""
    method, _ = stages.build(stage, process)
    options, coming = method.config, cycle(batches)
    loop = MocoStyle(
        method.query.to(memory_format=torch.contiguous_format),
        method.generator,
        Queue(method.queue.keys, method.queue.ids),
        temperature=options.temperature,
        momentum=options.momentum,
        decay=options.decay,
        dropped_frames=method.dropped_frames,
        lr=LR,
        autocast=distributed.precision(stage.recipe.run.precision, process),
    )

    def run() -> float:
        batch = next(coming)
        with _algorithms_by_trial():  # as MoCo's program sets it
            return loop.step(*batch.views, batch.index)

    return Loop(run, loop.networks())


@contextmanager
def _algorithms_by_trial() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark = cudnn.benchmark, True
    try:
        yield
    finally:
        cudnn.benchmark = before


def check(stage: Stage, process: Process, batches: Sequence[Batch]) -> None:
    """Raises NotProved unless both loops have the same losses while they take the same steps.

    In float32: rounding would have the generator choose other frames.
    """
    recipe = replace(stage.recipe, run=replace(stage.recipe.run, precision="fp32"))
    stage = replace(stage, recipe=recipe)
    ours, theirs = our_loop(stage, process, batches, NONE), their_loop(stage, process, batches)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for number in range(1, CHECKED_STEPS + 1):
            own, other = float(ours.step()), float(theirs.step())
            if not abs(own - other) <= AGREE * abs(other):
                raise NotProved(
                    f"error: no figure is printed, for the loops do different work · {stage.name}, "
                    f"step {number}: our loss is {own:.6g}, the rival's {other:.6g}"
                )


def _batches(stage: Stage, process: Process) -> list[Batch]:
    """Random clips, the two views of a video alike."""
    recipe = stage.recipe
    generator = torch.Generator().manual_seed(0)
    side = recipe.augment.size
    shape = recipe.data.batch_size, 3, recipe.clip.frames, side, side

    def batch(number: int) -> Batch:
        video = torch.randn(shape, generator=generator)
        views = [video + 0.3 * torch.randn(shape, generator=generator) for _ in range(2)]
        index = torch.arange(shape[0]) + number * shape[0]
        return Batch(
            views=tuple(view.to(process.device) for view in views),
            label=torch.full_like(index, -1).to(process.device),
            index=index.to(process.device),
        )

    return [batch(number) for number in range(BATCHES)]


def _once(loop: Loop) -> float:
    loop.step()
    return 1.0


def _fastest_first(comparison: Comparison) -> None:
    ours = [name for name in comparison.rates if name != RIVAL]
    best = max(ours, key=lambda name: comparison.rate(name).p50)
    order = [best, *(name for name in comparison.rates if name != best)]
    comparison.rates = {name: comparison.rates[name] for name in order}


def _facts(loop: Loop, *, plain: bool, on_gpu: bool) -> dict[str, float]:
    """What a step asks of the host. plain: whether operations reach torch's dispatcher at all."""
    facts = {}
    if plain:
        found = count_dispatches(loop.step, loop.networks)
        facts["dispatches outside"] = found.outside.total()
        facts["in networks"] = found.inside.total()
    if on_gpu:
        facts |= {"launches": count_launches(loop.step), WAITS: count_syncs(loop.step)}
        facts["peak MB"] = extra_bytes_on_gpu(loop.step) / 1e6
    return facts


def _add_use(comparison: Comparison, ours: Loop, stage: Stage, most: float) -> None:
    """Clips a second, and what share of the best arithmetic the step's own makes up. The rival's
    step is counted as ours: what it computes beyond that is no model's work.
    """
    flops, clips = flops_of(ours.step), 2 * stage.recipe.data.batch_size
    for name in comparison.rates:
        rate = comparison.rate(name).p50
        own = {"clips/s": rate * clips, "model FLOP use %": 100 * flops * rate / most}
        comparison.facts[name] |= own


def _plain_steps(plain: dict, process: Process) -> dict[str, Callable[[], object]]:
    """Our plain step and the rival's, in whichever process measures their memory. plain: a stage's
    recipe as plain values, for the class of a method's options is made as the recipe is read.
    """
    stage = stages.plan(config.resolve(plain, where="the stage"), VIDEOS)[0]
    batches = _batches(stage, process)
    loops = {OURS: our_loop(stage, process, batches, NONE)}
    loops[RIVAL] = their_loop(stage, process, batches)
    return {name: loop.step for name, loop in loops.items()}


def _add_peaks(comparison: Comparison, peaks: dict[str, int]) -> None:
    for name, peak in peaks.items():
        comparison.facts[name]["peak MB"] = peak / 1e6


def _judge_dispatches(comparison: Comparison) -> None:
    ours, theirs = (comparison.facts[name]["dispatches outside"] for name in (OURS, RIVAL))
    what = "operations outside the networks over the rival's"
    comparison.limits.append(Limit(what, ours / theirs, OUTSIDE))


def _title(stage: Stage, variants: Sequence[Sequence[str]]) -> str:
    recipe = stage.recipe
    clip = f"{recipe.data.batch_size} x {recipe.clip.frames} x {recipe.augment.size} pixels"
    return (
        f"A step of VideoMoCo, generator {recipe.method.generator}: {recipe.backbone.name}, width "
        f"{recipe.backbone.width}, {clip}, K = {recipe.method.queue_size:,}, {recipe.run.precision}"
        + "".join(f", run.{' + '.join(options)}" for options in variants if options)
    )
