"""Small data sets and recipes for the tests of tools.preview."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

import train
from pipeline import Manifest
from pipeline.manifest import Video, write_manifest
from pipeline.probe import probe
from tests.videos import write_video
from tools.preview.samples import Shown, Strip, read_samples
from training import config, stages

ROOT = Path(train.__file__).parent
SMOKE = ROOT / "configs" / "smoke.yaml"
SIDE = 64
PLAIN = (
    "augment.scale=[1,1]", "augment.ratio=[1,1]", "augment.flip=0", "augment.jitter=0",
    "augment.grayscale=0", "augment.blur=0",
)  # fmt: skip


def ramps(n: int) -> np.ndarray:
    """Red tells the column, green the row: value 4 c at column c."""
    across, down = np.meshgrid(np.arange(SIDE) * 4, np.arange(SIDE) * 4)
    return np.stack([across, down, np.full_like(down, 128)], axis=2).astype(np.uint8)


def grey_ramp(n: int) -> np.ndarray:
    return np.repeat(ramps(n)[:, :, :1], 3, axis=2)


def data_set(folder: Path, *, videos: int = 8, pixels=None, labels: bool = True) -> Path:
    """A manifest of square videos, numbered frames unless `pixels` draws others."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(videos):
        path = folder / f"v{number}.mp4"
        write_video(path, frames=20 + number, size=(SIDE, SIDE), gop=8, pixels=pixels)
        rows.append(Video.of(probe(path), key=path.stem, path=path, label=number % 2))
    rows = rows if labels else [replace(row, label=-1) for row in rows]
    classes = ["even", "odd"] if labels else []
    write_manifest(folder / "data.parquet", rows, classes=classes, options={})
    return folder / "data.parquet"


@cache
def planned(data: Path, *overrides: str, path: Path = SMOKE) -> tuple[list[stages.Stage], Manifest]:
    recipe = config.load(path, [f"data.train={data}", *overrides])
    manifest = Manifest.read(data)
    return stages.plan(recipe, len(manifest)), manifest


def shown(
    data: Path,
    *overrides: str,
    count: int = 4,
    stage: int = 0,
    step: int = 0,
    path: Path = SMOKE,
):
    schedule, manifest = planned(data, *overrides, path=path)
    return list(read_samples(schedule[stage], manifest, step=step, count=count))


def views(sample: Shown) -> list[Strip]:
    return [strip for strip in sample.strips if strip.view is not None]
