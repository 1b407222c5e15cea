"""The videos of a seed: made, listed, and written anew so that a clip costs its own frames only."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tools.demo import Record, Scale, Step, data_steps
from tools.methods.calls import call
from tools.methods.trials import Plan

SPLITS = ("train", "test")
# Every picture by itself: of a video with a key frame in 250 a clip of 4 frames decodes 24, which
# is a fifth of what a step costs on one core.
PRESET = "mjpeg"


def manifest(root: Path, name: str, split: str) -> Path:
    """The list of a data set's shards. root: the seed's folder."""
    return _folder(root, name) / split / "manifest.parquet"


def make(folder: Path, plan: Plan, seeds: Iterable[int]) -> None:
    """Shards and manifests of every seed; those that are there are left as they are.

    Raises StepFailed, and ConfigError for a folder with data of another scale.
    """
    for seed in seeds:
        root = folder / f"seed{seed}"
        for name, scale in plan.data.items():
            _make(_folder(root, name), scale, seed)


def _make(folder: Path, scale: Scale, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"seed": seed, "preset": PRESET, **json.loads(json.dumps(asdict(scale)))}
    record = Record(folder / "data.json", settings)
    for step in [*data_steps(folder, scale, seed), *_shard_steps(folder)]:
        if record.is_done(step):
            continue
        start = time.perf_counter()
        call(step, folder)
        record.note(step, time.perf_counter() - start, done=True)


def _shard_steps(folder: Path) -> list[Step]:
    return [
        Step(
            f"shards {split}",
            ["-m", "tools.shard", f"{folder}/{split}.parquet", "-o", f"{folder}/{split}",
             "--preset", PRESET, "--shards", "1"],
        )
        for split in SPLITS
    ]  # fmt: skip


def _folder(root: Path, name: str) -> Path:
    return root / "data" / name
