"""Samples of a run as named strips of pictures, taken from the loader that trains on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pipeline import AugmentConfig, Manifest
from pipeline.decode import decode_frames
from pipeline.flow.encoding import flow_of_image
from pipeline.flow.views import FlowViews
from pipeline.manifest import Video
from pipeline.sample import HostBatch
from pipeline.track import Track
from tools.preview.draws import Facts, describe
from tools.preview.wheel import LEAST_RIM_PIXELS, colored
from training import stages
from training.config import Recipe
from training.distributed import Process

Box = tuple[int, tuple[float, float, float, float]]  # view, (top, left, bottom, right) in [0, 1]


@dataclass(frozen=True)
class Strip:
    """One row of pictures.

    frames: [n, h, w, 3] uint8. numbers: the frame of the file that each shows. facts: what was
    done to them. view: the number of the view; None for the source. boxes: for each picture what
    the views cut out of it. in_wheel_colors: the pictures are the view's motion, each from its
    frame to the next, see tools.preview.wheel.
    """

    name: str
    frames: np.ndarray
    numbers: list[int]
    facts: Facts
    view: int | None = None
    boxes: list[list[Box]] = field(default_factory=list)
    in_wheel_colors: bool = False


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
    method = stages.first_method(stage)
    batch = stage.recipe.data.batch_size
    first = stage.first_sample + (step - stage.first_step) * batch
    loader = stages.training_loader(_one_by_one(stage, first), manifest, method, process)
    (stream,) = loader.streams
    flow_views = [view for view in stream.stage.views if view in loader.flow_views]
    some = min(count, (stage.last_step - step) * batch)
    for nth, (views, lumas, host) in enumerate(stream.run(range(some))):
        where = {"step": step + nth // batch, "place": nth % batch}
        shown = _shown(first + nth, where, views, host, manifest, stage.recipe)
        if loader.flow:
            flows = dict(zip(flow_views, loader.flow(lumas), strict=True))
            shown = _with_flow(shown, flows, loader.flow)
        yield shown


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
    recipe: Recipe,
) -> Shown:
    epoch, position = divmod(number, len(manifest))
    video, label = manifest[int(host.index[0])], int(host.label[0])
    tracks, seconds = host.unpacked(), recipe.data.decode_timeout_seconds
    return Shown(
        number=number,
        epoch=epoch,
        position=position,
        **where,
        video=video,
        label=manifest.classes[label] if label >= 0 else "no label",
        strips=[
            _source(tracks, video, seconds),
            *_views(tracks, views, video, recipe.augment),
        ],
        replaced=[f"{bad['path']}: {bad['code']} {bad['detail']}" for bad in host.bad],
    )


def _source(tracks: list[Track], video: Video, timeout_seconds: float) -> Strip:
    """The frames that were decoded, each once, with what every view cuts out of them."""
    boxes: dict[int, list[Box]] = {}
    for track in tracks:
        for view, (rows, draw) in enumerate(zip(track.rows, track.draws, strict=True)):
            for number in np.unique(track.frames[rows]).tolist():
                boxes.setdefault(number, []).append((view, draw.roi))
    numbers = sorted(boxes)
    rate = f"{float(video.fps):g} frames/s" if video.fps else "unknown rate"
    facts = {
        "picture": f"{video.width} × {video.height}, {video.codec}",
        "video": f"{video.frames:,} frames, {rate}",
        "decoded": f"{len(numbers)} frames, {numbers[0]} to {numbers[-1]}",
    }
    of_video = np.array(numbers) - video.first_frame
    frames = decode_frames(video, of_video, timeout_seconds=timeout_seconds)
    return Strip("source", frames, numbers, facts, boxes=[boxes[n] for n in numbers])


def _views(
    tracks: list[Track], views: Sequence[Tensor], video: Video, augment: AugmentConfig
) -> Iterator[Strip]:
    for number, view in enumerate(views):
        # Where flow is made a clip has one frame more than its view.
        each = view.shape[2] // len(tracks)
        frames = [track.frames[row] for track in tracks for row in track.rows[number][:each]]
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


def _with_flow(shown: Shown, flows: Mapping[int, Tensor], maker: FlowViews) -> Shown:
    """The sample with a strip of flow below each view that has one."""
    strips = []
    for strip in shown.strips:
        strips.append(strip)
        if strip.view in flows:
            strips.append(_flow(strip, flows[strip.view], maker))
    return replace(shown, strips=strips)


def _flow(view: Strip, flow: Tensor, maker: FlowViews) -> Strip:
    """flow: [1, C, T, H, W] as the network gets it."""
    facts = {"flow": f"{maker.operator}, encoding {maker.config.encoding}"}
    readable = not maker.config.official  # else its colours are mixed as the clip's are
    if readable:
        motion = in_pixels(flow, maker)[0].numpy()
        length = np.hypot(*motion)
        rim = max(LEAST_RIM_PIXELS, length.max())
        pictures = colored(motion, longest=rim)
        facts |= {"motion": f"{length.mean():.2f} px in the mean", "rim": f"{rim:.2f} px"}
    else:
        pictures = denormalised(flow[0], maker.augment)
        facts["official"] = "a picture, as the network gets it"
    name = f"flow of {view.name}"
    return Strip(name, pictures, view.numbers, facts, view.view, in_wheel_colors=readable)


def in_pixels(flow: Tensor, maker: FlowViews) -> Tensor:
    """Flow as a network gets it, but not as `official` has it -> [B, 2, T, H, W] in pixels."""
    if maker.config.encoding == "raw":
        return flow
    std, mean = (torch.tensor(s).view(3, 1, 1, 1) for s in (maker.augment.std, maker.augment.mean))
    return flow_of_image(255 * (flow * std + mean))
