"""One training by several processes, each with its share of every batch, for `scale`."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import multiprocessing
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.manifest import Manifest
from training import config, distributed, stages
from training.distributed import Process
from training.staging import staged
from training.step import build_step

WARM_UP_STEPS = 3
WEIGHTS, FIGURES = "weights.pt", "figures.json"


@dataclass(frozen=True)
class Job:
    """What all ranks train. steps: that are timed; as many losses come back, with the warm-up's."""

    recipe: str
    overrides: Sequence[str]
    manifest: Path
    device: str
    steps: int
    folder: Path


@dataclass(frozen=True)
class Trained:
    """steps_a_second: of the timed steps, the slowest rank's. losses: one a step, mean of ranks."""

    steps_a_second: float
    losses: list[float]
    weights: dict[str, torch.Tensor]


def trained_by(world: int, job: Job) -> Trained:
    """Starts `world` processes on this machine and waits for them."""
    job.folder.mkdir(parents=True, exist_ok=True)
    multiprocessing.spawn(_work, args=(world, _free_port(), job), nprocs=world)
    figures = json.loads((job.folder / FIGURES).read_text())
    weights = torch.load(job.folder / WEIGHTS, weights_only=True)
    return Trained(figures["steps_a_second"], figures["losses"], weights)


def _work(rank: int, world: int, port: int, job: Job) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    with distributed.joined(job.device) as process:
        seconds, losses = _train(job, process)
        everyone = distributed.of_all_ranks((seconds, losses), process)
    if rank == 0:
        slowest = max(seconds for seconds, _ in everyone)
        means = [sum(of) / world for of in zip(*(own for _, own in everyone), strict=True)]
        figures = {"steps_a_second": job.steps / slowest, "losses": means}
        (job.folder / FIGURES).write_text(json.dumps(figures))


def _train(job: Job, process: Process) -> tuple[float, list[float]]:
    """Seconds of the timed steps, and all losses of this rank."""
    recipe = config.load(job.recipe, [*job.overrides, f"data.train={job.manifest}"])
    torch.set_num_threads(recipe.run.threads or 1)
    manifest = Manifest.read(job.manifest)
    stage = stages.plan(recipe, len(manifest))[0]
    method, optimizer = stages.build(stage, process)
    for module in method.modules():
        if isinstance(module, _BatchNorm):
            module.eval()  # statistics of a share of the batch would be others than of all of it
    step = build_step(method, optimizer, process, recipe.run)
    loader = stages.training_loader(stage, manifest, method, process)
    losses, start = [], 0.0
    with closing(staged(loader.batches(0, WARM_UP_STEPS + job.steps), process.device)) as batches:
        for number, batch in enumerate(batches):
            if number == WARM_UP_STEPS:
                start = _now(process)
            own = {"number": number, "lr": stage.lr(0), "seed": 0, "epoch": 0.0, "samples": 0}
            losses.append(step(batch, **own)["loss"])
        seconds = _now(process) - start
    if process.is_main:
        torch.save(method.state_dict(), job.folder / WEIGHTS)
    return seconds, [float(loss) for loss in losses]


def _now(process: Process) -> float:
    if process.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
