"""Samples of a run as named strips of pictures, taken from the loader that trains on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pipeline import AugmentConfig, Manifest
from pipeline.manifest import Video
from pipeline.sample import HostBatch, Track
from tools.preview.draws import Facts, describe
from training import stages
from training.distributed import Process

Box = tuple[int, tuple[float, float, float, float]]  # view, (top, left, bottom, right) in [0, 1]


@dataclass(frozen=True)
class Strip:
    """One row of pictures.

    frames: [n, h, w, 3] uint8. numbers: the frame of the file that each shows. facts: what was
    done to them. view: the number of the view; None for the source. boxes: for each picture what
    the views cut out of it.
    """

    name: str
    frames: np.ndarray
    numbers: list[int]
    facts: Facts
    view: int | None = None
    boxes: list[list[Box]] = field(default_factory=list)


@dataclass(frozen=True)
class Shown:
    """A sample. number: of the run; step, place: which batch and where in it."""

    number: int
    epoch: int
    position: int
    step: int
    place: int
    video: Video
    label: str
    strips: list[Strip]
    replaced: list[str]

    @property
    def facts(self) -> Facts:
        """Where the sample stands in the run."""
        return {
            "sample": f"{self.number:,}",
            "epoch": str(self.epoch),
            "position": f"{self.position:,}",
            "step": f"{self.step:,}",
            "place": str(self.place),
        }


def read_samples(
    stage: stages.Stage, manifest: Manifest, *, step: int, count: int
) -> Iterator[Shown]:
    """The first `count` samples from the run's step `step` on, on the CPU, in order.

    A sample follows from its number, so they are read one by one and come out as in a batch.
    Fewer come where the stage ends. Raises as the loader does, and ValueError for a step that the
    stage does not have.
    """
    if not stage.first_step <= step < stage.last_step:
        raise ValueError(
            f"--step: stage '{stage.name}' has the steps {stage.first_step} to "
            f"{stage.last_step - 1}, got {step}"
        )
    process = Process(0, 1, torch.device("cpu"))
    method, _ = stages.build(stage, process)
    batch = stage.recipe.data.batch_size
    first = stage.first_sample + (step - stage.first_step) * batch
    loader = stages.training_loader(_one_by_one(stage, first), manifest, method, process)
    (stream,) = loader.streams
    some = min(count, (stage.last_step - step) * batch)
    for nth, (views, host) in enumerate(stream.run(range(some))):
        where = {"step": step + nth // batch, "place": nth % batch}
        yield _shown(first + nth, where, views, host, manifest, stage.recipe.augment)


def _one_by_one(stage: stages.Stage, first_sample: int) -> stages.Stage:
    """The stage as batches of one sample, decoded in this process."""
    data = replace(
        stage.recipe.data, batch_size=1, decoder="ffmpeg", lanes=1, workers=0, prefetch_batches=1
    )
    return replace(stage, recipe=replace(stage.recipe, data=data), first_sample=first_sample)


def _shown(
    number: int,
    where: dict[str, int],
    views: Sequence[Tensor],
    host: HostBatch,
    manifest: Manifest,
    augment: AugmentConfig,
) -> Shown:
    epoch, position = divmod(number, len(manifest))
    video, label = manifest[int(host.index[0])], int(host.label[0])
    tracks = host.unpacked()
    return Shown(
        number=number,
        epoch=epoch,
        position=position,
        **where,
        video=video,
        label=manifest.classes[label] if label >= 0 else "no label",
        strips=[_source(tracks, video), *_views(tracks, views, video, augment)],
        replaced=[f"{bad['path']}: {bad['code']} {bad['detail']}" for bad in host.bad],
    )


def _source(tracks: list[Track], video: Video) -> Strip:
    """The decoded frames, each once, with what every view cuts out of them."""
    pictures: dict[int, np.ndarray] = {}
    boxes: dict[int, list[Box]] = {}
    for track in tracks:
        numbers = track.frames.tolist()
        pictures |= dict(zip(numbers, track.pictures, strict=True))
        for view, (rows, draw) in enumerate(zip(track.rows, track.draws, strict=True)):
            for row in np.unique(rows):
                boxes.setdefault(numbers[row], []).append((view, draw.roi))
    numbers = sorted(pictures)
    rate = f"{float(video.fps):g} frames/s" if video.fps else "unknown rate"
    facts = {
        "picture": f"{video.width} × {video.height}, {video.codec}",
        "video": f"{video.frames:,} frames, {rate}",
        "decoded": f"{len(numbers)} frames, {numbers[0]} to {numbers[-1]}",
    }
    frames = np.stack([pictures[n] for n in numbers])
    return Strip("source", frames, numbers, facts, boxes=[boxes[n] for n in numbers])


def _views(
    tracks: list[Track], views: Sequence[Tensor], video: Video, augment: AugmentConfig
) -> Iterator[Strip]:
    for number, view in enumerate(views):
        frames = [track.frames[row] for track in tracks for row in track.rows[number]]
        facts = describe(
            [track.draws[number] for track in tracks], width=video.width, height=video.height
        )
        pixels = denormalised(view[0], augment)
        yield Strip(f"view {number}", pixels, [int(n) for n in frames], facts, view=number)


def denormalised(view: Tensor, augment: AugmentConfig) -> np.ndarray:
    """[3, T, H, W] as the network gets it -> [T, H, W, 3] uint8."""
    std, mean = (torch.tensor(value).view(3, 1, 1, 1) for value in (augment.std, augment.mean))
    levels = (255 * (view * std + mean)).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 3, 0).contiguous().numpy()
