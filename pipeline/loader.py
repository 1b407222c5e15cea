"""From samples to batches: worker processes, lanes, and their joining in order.

    sampler (step numbers) -> workers (host stage) -> lanes (graphs) -> Batch

Steps k+1, k+2, ... are in the workers and in the lanes while step k trains. The loader has no
state: `batches(first, last)` starts anywhere at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.augment import AugmentConfig, of_views
from pipeline.batch import Batch
from pipeline.clip import ClipConfig, check_views
from pipeline.errors import DataError
from pipeline.manifest import Manifest
from pipeline.sample import EvaluationStage, HostBatch, Reader, TrainingStage
from pipeline.shards.check import require_shards
from pipeline.workers import host_batches

NVDEC_CODECS = {"h264", "hevc", "vp9", "vp8", "mpeg4", "av1", "mjpeg"}


@dataclass
class DataConfig:
    train: str = ""  # manifest to train on, made by python -m tools.index
    split: str = ""  # use only these rows of it; empty: all
    batch_size: int = 256  # samples of one step over all processes together
    decoder: Literal["auto", "ffmpeg", "nvdec"] = "auto"  # ffmpeg on the host, nvdec on the GPU
    lanes: int = 1  # graphs working side by side in each process
    workers: int = 2  # processes that read and decode, for each training process; 0: in line
    prefetch_batches: int = 2  # batches ready ahead in each worker and in each lane
    threads: int = 1  # CPU threads of each lane
    decode_timeout_seconds: float = 30.0  # longest time for one video
    max_bad_fraction: float = 0.01  # stop when more of the videos turn out damaged


@dataclass(frozen=True)
class Place:
    """Which process this is of how many, and the device its batches go to."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"


def choose_decoder(asked: str, device: str, codecs: set[str]) -> tuple[str, str]:
    """Decoder kind and the reason in words. Raises ValueError for one that cannot work here."""
    if asked == "nvdec" and device == "cpu":
        raise ValueError("data.decoder: nvdec needs a GPU, none is here; use auto or ffmpeg")
    if asked != "auto":
        return asked, "asked for"
    if device == "cpu":
        return "ffmpeg", "no GPU here"
    if foreign := codecs - NVDEC_CODECS:
        return "ffmpeg", f"NVDEC does not decode {', '.join(sorted(foreign))}"
    return "nvdec", "the GPU decodes every codec of this data set"


class Stream:
    """Some views of some places of the batch, rendered by one or more lanes side by side."""

    def __init__(self, stage: torch.utils.data.Dataset, lanes: list, data: DataConfig):
        self.stage, self.lanes, self.data = stage, lanes, data

    def run(self, steps: range) -> Iterator[tuple[list[Tensor], HostBatch]]:
        """Views (each [B, C, T, H, W]) and host batch of every step, in order."""
        waiting: deque[HostBatch] = deque()
        batches = host_batches(
            self.stage,
            steps,
            workers=self.data.workers,
            ahead=self.data.prefetch_batches,
            decode_timeout_seconds=self.data.decode_timeout_seconds,
        )
        try:
            for batch in batches:
                self._submit(batch)
                waiting.append(batch)
                if len(waiting) == self.data.prefetch_batches:
                    yield self._collect(waiting.popleft())
            while waiting:
                yield self._collect(waiting.popleft())
        except GeneratorExit:
            # The caller stopped early: what is under way must not come out of the next run.
            while waiting:
                self._collect(waiting.popleft())
            raise

    def _submit(self, batch: HostBatch) -> None:
        for lane, share in self._shares(batch, batch.unpacked()):
            lane.submit(share)

    def _collect(self, batch: HostBatch) -> tuple[list[Tensor], HostBatch]:
        parts = [lane.collect() for lane, _ in self._shares(batch, batch.tracks)]
        views = [torch.cat(view) if len(view) > 1 else view[0] for view in zip(*parts, strict=True)]
        return [_clips(view, len(batch.index)) for view in views], batch

    def _shares(self, batch: HostBatch, tracks: list) -> list[tuple]:
        """The tracks of each lane; a lane without work gets no run."""
        size = len(batch.index)
        if not size:
            return []
        per_sample = len(tracks) // size
        bounds = [
            (part[0] * per_sample, (part[-1] + 1) * per_sample) if len(part) else (0, 0)
            for part in np.array_split(np.arange(size), len(self.lanes))
        ]
        shares = zip(self.lanes, bounds, strict=True)
        return [(lane, tracks[start:end]) for lane, (start, end) in shares if end > start]


class Loader:
    """Batches of a training run, as a pure function of the step.

    noted: called with the list of damaged videos of a batch, when there are any.
    """

    def __init__(self, streams: list[Stream], device: str, noted: Callable[[list[dict]], None]):
        self.streams, self.device, self.noted = streams, device, noted

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches of the steps in [first, last), counted from the start of the stage."""
        runs = [stream.run(range(first, last)) for stream in self.streams]
        for parts in zip(*runs, strict=True):
            host = parts[0][1]
            if bad := [entry for _, batch in parts for entry in batch.bad]:
                self.noted(bad)
            views = {
                v: view
                for (part, _), s in zip(parts, self.streams, strict=True)
                for v, view in zip(s.stage.views, part, strict=True)
            }
            yield _batch(tuple(views[v] for v in sorted(views)), host, self.device)


class EvaluationLoader:
    """Every video once, in the manifest's order, its uniform clips as views; none is replaced.

    Of several processes each has its own groups of videos: `rank`, `rank + world`, and so on.
    """

    def __init__(self, stream: Stream, place: Place):
        self.stream, self.device = stream, place.device
        self.groups = range(place.rank, len(stream.stage), place.world)
        self.failed: list[dict] = []

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Batch]:
        """Batches of the videos that decode; the others are listed in `failed`."""
        self.failed = []
        for views, host in self.stream.run(self.groups):
            self.failed += host.bad
            if len(host.index):
                yield _batch(tuple(views), host, self.device)


def build_loader(
    manifest: Manifest,
    *,
    clip: ClipConfig,
    augment: AugmentConfig,
    data: DataConfig,
    seed: int,
    views: int = 2,
    exchanged: tuple[int, ...] = (),
    first_sample: int = 0,
    place: Place = Place(),
    noted: Callable[[list[dict]], None] = lambda entries: None,
) -> Loader:
    """Loader of a training stage whose step 0 begins with sample `first_sample` of the run.

    exchanged: views that this process takes from the next process's samples (for key encoders
    whose batch statistics must not see the query's neighbours). Raises ValueError for a batch
    that does not divide and for recipes of another number of views, DataError for a data set
    smaller than a batch or without its tars.
    """
    check(data)
    check_views(clip, views)
    augments = of_views(augment, views)
    _check_batch(manifest, data, place)
    require_shards(manifest)
    local = data.batch_size // place.world
    shares = {0: tuple(v for v in range(views) if v not in exchanged), 1: tuple(exchanged)}
    streams = []
    for shift, numbers in shares.items():
        if not numbers:
            continue
        first = (place.rank + shift) % place.world * local
        stage = TrainingStage(
            manifest=manifest,
            clip=clip,
            augments=augments,
            reader=Reader(data.decode_timeout_seconds),
            seed=seed,
            global_batch=data.batch_size,
            first_sample=first_sample,
            views=numbers,
            slots=tuple(range(first, first + local)),
            kinds=(decoder_of(manifest, data, place.device)[0],) * local,
        )
        lanes = _lanes(
            manifest, data, place,
            augments=tuple(augments[view] for view in numbers),
            samples=local,
            tracks_per_sample=1 if augment.consistent else clip.frames,
            training=True,
        )  # fmt: skip
        streams.append(Stream(stage, lanes, data))
    return Loader(streams, place.device, noted)


def build_evaluation_loader(
    manifest: Manifest,
    *,
    clip: ClipConfig,
    augment: AugmentConfig,
    data: DataConfig,
    clips: int,
    place: Place = Place(),
) -> EvaluationLoader:
    """Loader of `clips` uniform clips of every video, `data.batch_size` videos at a time, in each
    process.

    A batch has clips x `augment.eval_crops` views: the crops of the first clip, then those of the
    second, and so on. Raises DataError for a data set without its tars.
    """
    check(data)
    require_shards(manifest)
    kind, _ = decoder_of(manifest, data, place.device)
    reader = Reader(data.decode_timeout_seconds)
    stage = EvaluationStage(manifest, clip, augment, reader, clips, data.batch_size, kind)
    lanes = _lanes(
        manifest, data, place,
        augments=(augment,) * (clips * augment.eval_crops),
        samples=data.batch_size,
        tracks_per_sample=1,
        training=False,
    )  # fmt: skip
    return EvaluationLoader(Stream(stage, lanes, data), place)


def decoder_of(manifest: Manifest, data: DataConfig, device: str) -> tuple[str, str]:
    """`choose_decoder` for a manifest."""
    return choose_decoder(data.decoder, device, manifest.codecs)


def _lanes(
    manifest: Manifest,
    data: DataConfig,
    place: Place,
    *,
    augments: tuple[AugmentConfig, ...],
    samples: int,
    tracks_per_sample: int,
    training: bool,
) -> list:
    # DALI is imported here so that `import pipeline` works where DALI is missing.
    from pipeline.graph import GraphSpec, Lane

    spec = GraphSpec(
        kind=decoder_of(manifest, data, place.device)[0],
        device=place.device,
        augments=augments,
        training=training,
        rotated=manifest.rotated,
        # A sample's tracks stay together, and no lane gets more than its share of samples.
        batch=-(-samples // data.lanes) * tracks_per_sample,
        threads=data.threads,
        depth=data.prefetch_batches,
    )
    return [Lane(spec) for _ in range(data.lanes)]


def check(config: DataConfig) -> None:
    """Raise ValueError naming the field when a value makes no loader."""
    least = {"batch_size": 1, "lanes": 1, "prefetch_batches": 1, "threads": 1, "workers": 0}
    for name, low in least.items():
        if (value := getattr(config, name)) < low:
            raise ValueError(f"data.{name}: expected at least {low}, got {value}")
    if not config.decode_timeout_seconds > 0:
        seconds = config.decode_timeout_seconds
        raise ValueError(f"data.decode_timeout_seconds: expected more than 0, got {seconds}")


def _check_batch(manifest: Manifest, data: DataConfig, place: Place) -> None:
    if data.batch_size % place.world:
        raise ValueError(
            f"data.batch_size: {data.batch_size} is the batch over all processes and must be a "
            f"multiple of their number, {place.world}"
        )
    if len(manifest) < data.batch_size:
        raise DataError(
            f"error: a batch needs {data.batch_size} videos, the data set has {len(manifest)} · "
            f"{manifest.path} · lower data.batch_size or add videos"
        )


def _batch(views: tuple[Tensor, ...], host: HostBatch, device: str) -> Batch:
    numbers = [torch.from_numpy(array) for array in (host.label, host.index, host.starts)]
    if device != "cpu":
        numbers = [t.pin_memory().to(device, non_blocking=True) for t in numbers]
    label, index, starts = numbers
    return Batch(views=views, label=label, index=index, start_frames=starts)


def _clips(tracks: Tensor, samples: int) -> Tensor:
    """[samples x tracks each, C, T, H, W] -> [samples, C, tracks each x T, H, W]."""
    _, c, _, h, w = tracks.shape
    if len(tracks) == samples:
        return tracks
    return tracks.view(samples, -1, c, h, w).transpose(1, 2)
