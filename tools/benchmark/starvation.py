"""Training on real data beside training on one batch that is always there: what waiting costs.

Both sides take the same steps of the same recipe by train.py's own parts; one has the loader with
its workers beside it, the other a batch that the loader made before.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
import torch

from pipeline import Batch
from pipeline.manifest import Manifest
from tools.benchmark.cost import flops_of, most_flops
from tools.benchmark.dispatches import count_syncs
from tools.benchmark.measure import Comparison, Limit, Side, compare
from tools.benchmark.sources import originals, repeated, sharded, tool
from training import config, stages
from training.config import Recipe
from training.distributed import Process
from training.stages import Stage
from training.staging import staged
from training.step import build_step
from training.timing import Stopwatch

LOADED, CACHED = "real data", "one cached batch"
USE = "use of the arithmetic, %"
MOST = {"cpu": 1.15, "cuda": 1.05}  # goals: step time on real data over that on a cached batch
LEAST_USE = 30.0  # goal on a GPU: percent of its arithmetic, of
USED = {"name": "r3d_18", "frames": 16, "size": 112, "batch": 32}  # or a larger batch
COUNTED_STEPS = 10  # in which waits for a GPU are looked for
STEPS = 10**9  # of the loader: more than any turn takes
LR = 1e-4
SMALL_VIDEOS = ["--classes", "4", "--videos-per-class", "6", "--size", "32", "--frames", "16"]
# The videos of a GPU's recipes: originals as they come, made into shards of this preset.
ORIGINALS = {"videos": 8, "seconds": 10.0}
PRESET = "nvdec"
ON_GPU = ["data.batch_size=32", "data.workers=8", "data.lanes=7", "run.precision=bf16"]
CLIP_16_112 = ["clip.frames=16", "augment.size=112", "method.key_batch_norm=split"]
BESIDE = ["data.workers=1", "data.prefetch_batches=2"]  # the recipe itself reads in the trainer
CASES = {
    "cpu": {"smoke": ("configs/smoke.yaml", BESIDE)},
    "cuda": {
        "R(2+1)D-18, 16x112": ("configs/videomoco_k400.yaml", [*ON_GPU, *CLIP_16_112]),
        "R3D-18, 16x112": (
            "configs/videomoco_k400.yaml", [*ON_GPU, *CLIP_16_112, "backbone.name=r3d_18"],
        ),
        "R3D-50, 16x224": ("configs/cvrl_k400.yaml", ON_GPU),
    },
}  # fmt: skip


@dataclass
class Fed:
    """A training whose batches come from `batches`; a run of it is a step."""

    stage: Stage
    manifest: Manifest
    process: Process

    def __post_init__(self) -> None:
        method, optimizer = stages.build(self.stage, self.process)
        self.loader = stages.training_loader(self.stage, self.manifest, method, self.process)
        self.take = build_step(method, optimizer, self.process, self.stage.recipe.run)
        with closing(self.loader.batches(0, 1)) as batches:
            self.cached: Batch = next(staged(batches, self.process.device))
        self.number, self.watch = 0, Stopwatch()
        self.batches: Iterator[Batch] = repeat(self.cached)

    def step(self) -> float:
        """Clips of the step, of all views."""
        batch = next(self.batches)
        own = {"number": self.number, "lr": LR, "seed": 0, "epoch": 0.0, "samples": 0}
        self.take(batch, **own)
        self.number += 1
        return len(batch.index) * len(batch.views)

    def coming(self) -> Iterator[Batch]:
        """The loader's batches as a training gets them, without end."""
        return self.watch.watched(staged(self.loader.batches(0, STEPS), self.process.device))


def measure(
    stage: Stage, manifest: Manifest, process: Process, *, name: str, rounds: int, seconds: float
) -> Comparison:
    """Steps a second on real data and on a cached batch, and the ratio of their times."""
    kind, fed = process.device.type, Fed(stage, manifest, process)
    flops = flops_of(fed.step)
    turn = _Turns(fed, seconds)
    sides = [Side(LOADED, turn.loaded), Side(CACHED, turn.cached)]
    comparison = compare(
        f"Waiting for data: {name}, stage {stage.name}, {_work(stage.recipe)}", sides,
        unit="steps", rounds=rounds, warm_up=True, rate=lambda run: run(),
    )  # fmt: skip
    clips = stage.recipe.data.batch_size * len(fed.cached.views)
    most = most_flops(kind)
    for side in (LOADED, CACHED):
        rate = comparison.rate(side).p50
        use = 100 * flops * rate / most
        comparison.facts[side] = {"clips/s": rate * clips, USE: use}
        comparison.facts[side]["trainer's CPU, ms/step"] = float(np.median(turn.cpu_ms[side]))
    comparison.facts[LOADED]["data wait, ms/step"] = 1e3 * turn.waited_seconds / turn.steps
    comparison.apart = True
    times = replace(comparison, rates=dict(reversed(comparison.rates.items())))
    # Cached steps a second over those on real data.
    comparison.limits = [Limit.of_ratio("starvation ratio", times.ratio(LOADED), MOST[kind])]
    if kind == "cuda":
        comparison.limits += _on_gpu(comparison, stage.recipe, turn.waits())
    return comparison


class _Turns:
    """A turn of either side is as many steps as take `seconds`, after some that are not timed."""

    def __init__(self, fed: Fed, seconds: float):
        self.fed, self.seconds = fed, seconds
        self.waited_seconds, self.steps = 0.0, 0
        # Processor time of this process, workers apart: what no other core can take off it.
        self.cpu_ms: dict[str, list[float]] = {LOADED: [], CACHED: []}
        data = fed.stage.recipe.data
        # Until the queues between workers, lanes and training are as full as they ever are.
        self.warm_up = 2 + data.prefetch_batches * (data.workers + 2)

    def loaded(self) -> float:
        """Steps a second. The workers end with the turn, at no cost to the other side's."""
        with closing(self.fed.coming()) as self.fed.batches:
            rate, steps = self._rate(LOADED)
        self.steps += steps
        return rate

    def cached(self) -> float:
        self.fed.batches = repeat(self.fed.cached)
        return self._rate(CACHED)[0]

    def waits(self) -> int:
        """How often the host waits for the GPU, of steps with the loader beside them."""

        def steps() -> None:
            for _ in range(COUNTED_STEPS):
                self.fed.step()

        with closing(self.fed.coming()) as self.fed.batches:
            for _ in range(self.warm_up):
                self.fed.step()
            return count_syncs(steps)

    def _rate(self, side: str) -> tuple[float, int]:
        for _ in range(self.warm_up):
            self.fed.step()
        self._finish()
        self.fed.watch.lap()
        start, cpu, steps = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < self.seconds:
            self.fed.step()
            steps += 1
        self._finish()
        elapsed = time.perf_counter() - start
        self.cpu_ms[side].append(1e3 * (time.process_time() - cpu) / steps)
        self.waited_seconds += self.fed.watch.lap()["data_wait_seconds"]
        return steps / elapsed, steps

    def _finish(self) -> None:
        if self.fed.process.device.type == "cuda":
            torch.cuda.synchronize()


def _on_gpu(comparison: Comparison, recipe: Recipe, waits: int) -> list[Limit]:
    what = (
        f"waits of the host for the GPU in {COUNTED_STEPS} steps, loader included, that torch sees"
    )
    limits = [Limit(what, waits, most=0)]
    own = {"name": recipe.backbone.name, "frames": recipe.clip.frames, "size": recipe.augment.size}
    if own | {"batch": USED["batch"]} == USED and recipe.data.batch_size >= USED["batch"]:
        use = comparison.facts[LOADED][USE]
        limits.append(Limit("use of the arithmetic on real data, %", use, least=LEAST_USE))
    return limits


def _work(recipe: Recipe) -> str:
    clip = f"{recipe.data.batch_size} x {recipe.clip.frames} x {recipe.augment.size} pixels"
    return f"{recipe.backbone.name}, {clip}, {recipe.data.workers} workers"


def cases(kind: str, recipe: str | None, overrides: list[str]) -> dict[str, Recipe]:
    """Recipes by their names: those of the goals, or the one that is asked for."""
    wanted = {Path(recipe).stem: (recipe, [])} if recipe else CASES[kind]
    return {
        name: config.load(path, [*options, f"run.device={kind}", *overrides])
        for name, (path, options) in wanted.items()
    }


def videos_for(kind: str, folder: Path, batch_size: int) -> Manifest:
    """What the recipes of the goals train on: small synthetic videos, or shards for NVDEC."""
    if kind == "cpu":
        videos, manifest = folder / "synthetic", folder / "synthetic.parquet"
        tool("tools.synth", str(videos), *SMALL_VIDEOS)
        tool("tools.index", str(videos), "-o", str(manifest))
        return Manifest.read(manifest)
    made = sharded(folder, originals(folder, **ORIGINALS), PRESET, jobs=8)
    path = made.path.with_name(f"repeated-{batch_size}.parquet")
    return repeated(made, path, videos=max(batch_size, len(made)))
