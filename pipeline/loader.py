"""From samples to batches: streams of rendered views, their flow, and their joining in order.

    step numbers -> workers (host stage) -> lanes ( -> flow) -> Batch

Steps k+1, k+2, ... are in the workers, in the lanes and at the flow while step k trains. The
loader has no state: `batches(first, last)` starts anywhere at once.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pipeline.assembly import TrainingParts, build_lanes, host_views
from pipeline.augment import AugmentConfig, of_views
from pipeline.batch import Batch
from pipeline.clip import ClipConfig, check_views, with_next_frame
from pipeline.errors import DataError
from pipeline.flow.beside import with_flow
from pipeline.flow.config import FlowConfig
from pipeline.flow.views import FlowViews, Luma
from pipeline.lanes import AUTO, described, divided, without_measuring
from pipeline.manifest import Manifest
from pipeline.refused import Refused
from pipeline.sample import EvaluationStage, HostBatch, Reader
from pipeline.shards.check import require_shards
from pipeline.stream import Rendered, Stream

NVDEC_CODECS = {"h264", "hevc", "vp9", "vp8", "mpeg4", "mjpeg"}


@dataclass
class DataConfig:
    train: str = ""  # manifest to train on, made by python -m tools.index
    split: str = ""  # use only these rows of it; empty: all
    batch_size: int = 256  # samples of one step over all processes together
    decoder: Literal["auto", "ffmpeg", "nvdec", "both"] = "auto"  # ffmpeg on the host, nvdec on GPU
    lanes: int | str = AUTO  # graphs side by side in each process; on a CPU, threads
    cpu_share: int | float | str = AUTO  # of a batch, where both decode; auto: by measured rates
    # Processes that read and decode, for each training process. 0: none, and then a decoder that
    # hangs is not cut off, and one that crashes ends the training. Where keys are exchanged with
    # another process (key_batch_norm: exchange), queries and keys have half of the workers and half
    # of the lanes each, and at least one.
    workers: int = 2
    prefetch_batches: int = 2  # batches ready ahead in each worker and in each lane
    threads: int = 1  # CPU threads of each graph, and of optical flow by flow.operator: dis
    decode_timeout_seconds: float = 30.0  # longest time for one video
    max_bad_fraction: float = 0.01  # stop when more of the videos turn out damaged


@dataclass(frozen=True)
class Place:
    """Which process this is of how many, and the device its batches go to."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"


def choose_decoder(
    asked: str, device: str, codecs: set[str], capability: tuple[int, int] | None
) -> tuple[str, str]:
    """Decoder kind and the reason in words. capability: of the GPU, where there is one.

    Raises ValueError for a kind that cannot work here.
    """
    if asked in ("nvdec", "both") and device == "cpu":
        raise ValueError(f"data.decoder: {asked} needs a GPU, none is here; use auto or ffmpeg")
    if asked != "auto":
        return asked, "asked for"
    if device == "cpu":
        return "ffmpeg", "no GPU here"
    if foreign := codecs - nvdec_codecs(capability):
        return "ffmpeg", f"the NVDEC of this GPU does not decode {', '.join(sorted(foreign))}"
    return "nvdec", "the GPU decodes every codec of this data set"


def nvdec_codecs(capability: tuple[int, int]) -> set[str]:
    """What the NVDEC of a GPU decodes. AV1 came with GA10x (8.6); the A100 (8.0) and Hopper (9.0)
    have Turing's engine. Source: NVDEC application note of the Video Codec SDK 13.0.
    """
    has_av1 = capability >= (8, 6) and capability != (9, 0)
    return NVDEC_CODECS | {"av1"} if has_av1 else NVDEC_CODECS


class Loader:
    """Batches of a training run, as a pure function of the step.

    data: with the numbers of lanes and their shares that were chosen. noted: called with the list
    of damaged videos of a batch, when there are any. flow: makes the flow of `flow_views`, in this
    order.
    """

    def __init__(
        self,
        streams: list[Stream],
        data: DataConfig,
        device: str,
        noted: Callable[[list[dict]], None],
        flow: FlowViews | None = None,
        flow_views: tuple[int, ...] = (),
    ):
        self.streams, self.data, self.device, self.noted = streams, data, device, noted
        self.flow, self.flow_views = flow, flow_views
        self._numbers = [view for stream in streams for view in stream.stage.views]

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Batches of the steps in [first, last), counted from the start of the stage."""
        with ExitStack() as stack:
            runs = [stack.enter_context(closing(s.run(range(first, last)))) for s in self.streams]
            steps = with_flow(zip(*runs, strict=True), self._lumas, self.flow, self.device)
            for parts, flow in stack.enter_context(closing(steps)):
                if bad := [entry for part in parts for entry in part.host.bad]:
                    self.noted(bad)
                found = [view for part in parts for view in part.views]
                views = dict(zip(self._numbers, found, strict=True))
                in_order = tuple(views[number] for number in sorted(views))
                yield _batch(in_order, parts[0].host, self.device, flow)

    def _lumas(self, parts: tuple[Rendered, ...]) -> list[Luma]:
        """Of the views whose flow is wanted, whichever stream has them."""
        numbers = [number for number in self._numbers if number in self.flow_views]
        found = [luma for part in parts for luma in part.lumas]
        lumas = dict(zip(numbers, found, strict=True))
        return [lumas[number] for number in self.flow_views]


class EvaluationLoader:
    """Every video once, in the manifest's order, its uniform clips as views; none is replaced.

    Of several processes each has its own groups of videos: of those that are not in `skip` the one
    at `rank`, at `rank + world`, and so on. flow: makes the flow of every view.
    """

    def __init__(
        self,
        stream: Stream,
        place: Place,
        flow: FlowViews | None = None,
        skip: Container[int] = (),
    ):
        self.stream, self.device, self.flow = stream, place.device, flow
        wanted = [group for group in range(len(stream.stage)) if group not in skip]
        self.groups = wanted[place.rank :: place.world]
        self.failed: list[dict] = []

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Batch]:
        """Batches of the videos that decode; the others are listed in `failed`."""
        self.failed = []
        with ExitStack() as stack:
            run = stack.enter_context(closing(self.stream.run(self.groups)))
            groups = with_flow(run, lambda part: part.lumas, self.flow, self.device)
            for (views, _, host), flow in stack.enter_context(closing(groups)):
                self.failed += host.bad
                if len(host.index):
                    yield _batch(tuple(views), host, self.device, flow)


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
    flow: FlowConfig | None = None,
    flow_views: tuple[int, ...] = (),
    refused: Refused | None = None,
    agreed: Callable[[Any], Any] = lambda choice: choice,
    say: Callable[[str], None] = lambda line: None,
) -> Loader:
    """Loader of a training stage whose step 0 begins with sample `first_sample` of the run.

    exchanged: views that this process takes from the next process's samples (for key encoders
    whose batch statistics must not see the query's neighbours). flow_views: those whose flow a
    batch has, too, made as `flow` says; `say` is told by what and why. All views are then planned
    one frame longer. refused: videos that ended a worker or a lane of this run before. agreed: of
    several processes, gives each what rank 0 passes to it. Raises ValueError for a batch that does
    not divide, for recipes of another number of views and for flow that cannot be made, DataError
    for a data set smaller than a batch or without its tars.
    """
    check(data)
    check_views(clip, views)
    _check_batch(manifest, data, place)
    require_shards(manifest)
    augments = of_views(augment, views)
    maker = _flow_of(flow, flow_views, augment, data, place, say)
    kept = tuple(view for view in range(views) if view not in exchanged)
    parts = TrainingParts(
        manifest=manifest,
        clip=with_next_frame(clip) if maker else clip,
        augment=augment,
        augments=augments,
        tracks_per_sample=1 if augment.consistent else clip.frames,
        place=place,
        decoder=decoder_of(manifest, data, place.device)[0],
        seed=seed,
        first_sample=first_sample,
        luma_views=flow_views if maker else None,
        refused=refused or Refused(),
    )
    shown = [(numbers, shift) for shift, numbers in enumerate((kept, exchanged)) if numbers]
    data = parts.settled(data, shown, say=say, agreed=agreed)
    each = divided(data, len(shown))
    streams = [parts.stream(each, *stream, say) for stream in shown]
    return Loader(streams, data, place.device, noted, maker, flow_views)


def build_evaluation_loader(
    manifest: Manifest,
    *,
    clip: ClipConfig,
    augment: AugmentConfig,
    data: DataConfig,
    clips: int,
    place: Place = Place(),
    flow: FlowConfig | None = None,
    skip: Container[int] = (),
    say: Callable[[str], None] = lambda line: None,
) -> EvaluationLoader:
    """Loader of `clips` uniform clips of every video, a group of `data.batch_size` videos at a
    time, in each process; groups in `skip` are left out.

    A batch has clips x `augment.eval_crops` views: the crops of the first clip, then those of the
    second, and so on; and the flow of each of them where `flow` says how, of which `say` is told.
    Raises DataError for a data set without its tars, ValueError for flow that cannot be made.
    """
    check(data)
    require_shards(manifest)
    kind, _ = decoder_of(manifest, data, place.device)
    kind = "nvdec" if kind == "both" else kind  # a video's pixels must not depend on its group
    data = replace(data, lanes=without_measuring(data.lanes, kind, place.device)[0])
    views = tuple(range(clips * augment.eval_crops))
    maker = _flow_of(flow, views if flow else (), augment, data, place, say)
    host = host_views(augment, place.device, views if maker else None)
    reader = Reader(data.decode_timeout_seconds, host)
    planned = with_next_frame(clip) if maker else clip
    stage = EvaluationStage(manifest, planned, augment, reader, clips, data.batch_size, kind)
    lanes = build_lanes(
        manifest, data, place.device, host,
        augments=(augment,) * len(views),
        kinds=(kind,) * data.batch_size,
        tracks_per_sample=1,
        training=False,
    )  # fmt: skip
    return EvaluationLoader(Stream(stage, lanes, data, say), place, maker, skip)


def _flow_of(
    flow: FlowConfig | None,
    views: tuple[int, ...],
    augment: AugmentConfig,
    data: DataConfig,
    place: Place,
    say: Callable[[str], None],
) -> FlowViews | None:
    """What makes the flow of the views, or None where there is nothing to make."""
    if not views:
        return None
    if flow is None:
        numbers = ", ".join(map(str, views))
        raise ValueError(f"flow: asked for of views {numbers}, and no settings for it are given")
    maker = FlowViews(flow, augment, device=place.device, threads=data.threads)
    say(f"flow: {maker}")
    return maker


def decoder_of(manifest: Manifest, data: DataConfig, device: str) -> tuple[str, str]:
    """`choose_decoder` for a manifest."""
    capability = None if device == "cpu" else torch.cuda.get_device_capability(device)
    return choose_decoder(data.decoder, device, manifest.codecs, capability)


def decoding_of(manifest: Manifest, data: DataConfig, device: str) -> str:
    """Decoder and lanes, and why these, in words. Raises as `choose_decoder` does."""
    kind, why = decoder_of(manifest, data, device)
    return f"{kind} decoder ({why}), {described(data.lanes, kind, device)}"


def check(config: DataConfig) -> None:
    """Raise ValueError naming the field when a value makes no loader."""
    least = {"batch_size": 1, "prefetch_batches": 1, "threads": 1, "workers": 0}
    if isinstance(config.lanes, int):
        least["lanes"] = 1
    elif config.lanes != AUTO:
        raise ValueError(f"data.lanes: expected {AUTO} or a number, got {config.lanes}")
    for name, low in least.items():
        if (value := getattr(config, name)) < low:
            raise ValueError(f"data.{name}: expected at least {low}, got {value}")
    share = config.cpu_share
    if share != AUTO and (isinstance(share, str) or not 0 <= share <= 1):
        raise ValueError(f"data.cpu_share: expected {AUTO} or 0 to 1, got {share}")
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


def _batch(
    views: tuple[Tensor, ...], host: HostBatch, device: str, flow: tuple[Tensor, ...] | None
) -> Batch:
    numbers = [torch.from_numpy(array) for array in (host.label, host.index, host.starts)]
    if device != "cpu":
        numbers = [t.pin_memory().to(device, non_blocking=True) for t in numbers]
    label, index, starts = numbers
    return Batch(views=views, label=label, index=index, flow=flow, start_frames=starts)
