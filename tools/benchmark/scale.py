"""`tools.benchmark scale`: one training by 1, 2, 4 and 8 processes, and a model of many nodes.

The global batch stays, so that every number of ranks trains the same: losses and weights agree
with one process, or no figure is worth anything. Batch norms use their running statistics, because
those of a share of the batch are others than of the whole.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from models import build_backbone
from tools.benchmark.cost import flops_of
from tools.benchmark.measure import Comparison, Limit, Side, compare
from tools.benchmark.nodes import INDEX_BYTES, Load, Machine, model
from tools.benchmark.ranks import Job, Trained, trained_by
from tools.benchmark.record import Record
from tools.benchmark.starvation import videos_for
from tools.console import positive
from training import config, distributed, stages
from training.config import Recipe

RANKS = (1, 2, 4, 8)
# Momentum SGD, for its steps are proportional to gradients: AdamW divides the smallest by
# themselves, and their rounding with them. A batch that eight ranks can share.
SAME = [
    "method.key_batch_norm=plain", "optim.name=sgd", "optim.lr=0.01", "data.batch_size=8",
    "method.queue_size=64", "run.precision=fp32",
]  # fmt: skip
RECIPES = {
    "cpu": ("configs/smoke.yaml", SAME),
    "cuda": (
        "configs/videomoco_k400.yaml",
        [*SAME, "data.batch_size=32", "clip.frames=16", "run.stages={}"],
    ),
}
AGREE = 1e-4  # losses and weights of several ranks with one process's, relatively
# passes: a query's forward and backward, and a key's forward; for CVRL both views forward and
# backward. For each of CVRL's rows the backward pass also exchanges two numbers.
MODELLED = {
    "configs/videomoco_k400.yaml": {"passes": 4, "vectors": 1, "extra_bytes": INDEX_BYTES},
    "configs/cvrl_k400.yaml": {"passes": 6, "vectors": 2, "extra_bytes": 2 * 2 * 4},
}
GPU_BATCH = 32
VIDEO_BYTES = 1.3e6  # of ten seconds in a `fast` shard


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--ranks", nargs="+", type=positive, help="by default what fits, up to 8")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every number of ranks")
    parser.add_argument("--steps", type=positive, default=30, help="of a turn")
    parser.add_argument("--video-bytes", type=float, default=VIDEO_BYTES, help="read for a sample")


def run(arguments: argparse.Namespace, record: Record) -> None:
    device = distributed.start(arguments.device).device.type
    recipe, overrides = RECIPES[device]
    overrides = [*overrides, f"run.device={device}"]
    batch = config.load(recipe, overrides).data.batch_size
    folder = arguments.folder
    manifest = videos_for(device, folder, batch).path
    job = Job(recipe, overrides, manifest, device, arguments.steps, folder / "ranks")
    record.add(measure(job, arguments.ranks or fitting(device), batch, rounds=arguments.rounds))
    for path, exchanged in MODELLED.items():
        load = load_of(path, config.load(path, []), video_bytes=arguments.video_bytes, **exchanged)
        record.explain(model(load, Machine()))


def fitting(device: str) -> list[int]:
    """Numbers of ranks that this machine has a GPU each for, or a core; at least one and two on a
    CPU, where agreement is what counts.
    """
    most = torch.cuda.device_count() if device == "cuda" else max(2, len(os.sched_getaffinity(0)))
    return [ranks for ranks in RANKS if ranks <= most]


def measure(job: Job, numbers: list[int], batch: int, *, rounds: int) -> Comparison:
    """Steps of one global batch a second by each number of ranks, and how far all agree."""
    last: dict[int, Trained] = {}

    def turn(world: int) -> float:
        last[world] = trained_by(world, job)
        return last[world].steps_a_second

    sides = [Side(_named(number), partial(turn, number)) for number in numbers]
    what = f"{batch} samples a step over all of them, {Path(job.recipe).stem}"
    comparison = compare(
        f"Ranks on one machine, {what}", sides,
        unit="steps", rounds=rounds, warm_up=False, rate=lambda run: run(),
    )  # fmt: skip
    comparison.apart = True
    for number, side in zip(numbers, sides, strict=True):
        rate = comparison.rate(side.name).p50
        speed_up = rate / comparison.rate(sides[0].name).p50
        comparison.facts[side.name] = {"ms/step": 1e3 / rate, f"times {sides[0].name}": speed_up}
        if number != numbers[0]:
            comparison.limits += disagreement(last[numbers[0]], last[number], _named(number))
    return comparison


def disagreement(one: Trained, other: Trained, name: str) -> list[Limit]:
    """Largest differences, relative to the loss and to the largest weight of a tensor."""
    losses = max(abs(a - b) / abs(a) for a, b in zip(one.losses, other.losses, strict=True))
    floats = [name for name, tensor in one.weights.items() if tensor.is_floating_point()]
    weights = max(_apart(one.weights[name], other.weights[name]) for name in floats)
    return [
        Limit(f"{name}: losses off one process, relatively", losses, AGREE),
        Limit(f"{name}: weights off one process, relatively", weights, AGREE),
    ]


def _apart(one: Tensor, other: Tensor) -> float:
    largest = float(one.abs().max())
    return float((one - other).abs().max()) / largest if largest else float(other.abs().max())


def load_of(path: str, recipe: Recipe, *, video_bytes: float, **exchanged: int) -> Load:
    """The recipe in numbers: parameters counted, operations counted without computing them."""
    stage = stages.plan(recipe, 10**6)[0]
    method = stages.first_method(stage)
    with torch.device("meta"):
        network = build_backbone(**recipe.backbone.network()).eval()  # one sample has no spread
        clip = torch.empty(1, 3, recipe.clip.frames, recipe.augment.size, recipe.augment.size)
    return Load(
        name=Path(path).stem,
        parameters=sum(p.numel() for p in method.parameters() if p.requires_grad),
        forward_flops=flops_of(lambda: network(clip)),
        dim=recipe.method_options()["dim"],
        batch=GPU_BATCH,
        video_bytes=video_bytes,
        **exchanged,
    )


def _named(number: int) -> str:
    return "1 process" if number == 1 else f"{number} ranks"
