"""Our lanes beside DALI's own video reader, one pipeline and several, on one list of clips.

All read, decode, scale to the view's size and normalise: what `fn.experimental.readers.video` can
do without being told more. On a GPU NVDEC decodes; on a CPU DALI's wheels have decoders for MJPEG,
so that the same code runs there, and says nothing about a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline.augment import WHOLE, AugmentConfig, Draw
from pipeline.decode import read_bytes
from pipeline.manifest import Manifest, Video
from pipeline.track import Track
from tools.benchmark.clips import CLIP_FRAMES, STRIDE, clip_list
from tools.benchmark.measure import Comparison, NotInstalled, Side, compare
from tools.benchmark.meter import Meter
from tools.benchmark.readers import (
    PYNV,
    TORCHCODEC,
    WHY_CHARACTERS,
    ReaderPipeline,
    lacking,
    pynv_view,
    torchcodec_view,
)
from tools.benchmark.sources import files_of

AUGMENT = AugmentConfig(
    size=112, scale=[1.0, 1.0], flip=0.0, jitter=0.0, grayscale=0.0, blur=0.0
)  # nothing that the reader has not
# A GPU has up to seven decoders, and a session keeps one busy.
COUNTS = {"cpu": (1, 2), "cuda": (1, 7, 14)}
PRESET = {"cpu": "mjpeg", "cuda": "nvdec"}
CLIPS_EACH = {"cpu": 2, "cuda": 8}  # of a lane or pipeline in a run
LEAST_SECONDS = 1.0  # of a turn
GOALS = {  # on a GPU, for those that are there
    "DALI's reader, pipelines: 1": 5.0,
    "DALI's reader, pipelines: 7": 1.0,
    PYNV: 1.0,
    TORCHCODEC: 1.0,
}
Clip = tuple[int, np.ndarray]
View = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Source:
    """The clips, as videos with byte ranges and as files."""

    videos: list[Video]
    files: list[Path]
    clips: list[Clip]
    device: str

    @property
    def kind(self) -> str:
        return "cpu" if self.device == "cpu" else "cuda"

    def shares(self, count: int) -> list[list[Clip]]:
        """The clips of each of `count` lanes or pipelines."""
        each = CLIPS_EACH[self.kind]
        picked = (self.clips * -(-count * each // len(self.clips)))[: count * each]
        return [picked[n * each : (n + 1) * each] for n in range(count)]


def lanes_beside_readers(
    manifest: Manifest, folder: Path, *, device: str, rounds: int
) -> Comparison:
    """Clips a second of our lanes, the most first, and of DALI's reader; what fails of the rivals
    is left out with its reason.
    """
    kind = "cpu" if device == "cpu" else "cuda"
    counts = COUNTS[kind]
    wanted = clip_list(manifest, counts[-1] * CLIPS_EACH[kind])
    source = Source(list(manifest), files_of(manifest, folder / "reader-files"), wanted, device)
    sides = [Side(f"Kinema, lanes: {n}", our_lanes(source, n)) for n in reversed(counts)]
    left_out = {}
    for name, build in _rivals(source, folder).items():
        run, why = _tried(build)
        if run:
            sides.append(Side(name, run))
        else:
            left_out[name] = why
    finish = torch.cuda.synchronize if kind == "cuda" else None
    meter = Meter("clip", least_seconds=LEAST_SECONDS, finish=finish)
    title = (
        f"Lanes and DALI's reader: clips of {CLIP_FRAMES} frames, stride {STRIDE}, to 112×112, "
        f"{PRESET[kind]} shards"
    )
    comparison = compare(title, sides, unit="clips", rounds=rounds, rate=meter)
    comparison.facts, comparison.left_out = meter.facts(sides), left_out
    goals = GOALS if kind == "cuda" else {}
    comparison.goals = {name: goal for name, goal in goals.items() if name in comparison.rates}
    return comparison


def _rivals(source: Source, folder: Path) -> dict[str, Callable[[], Callable[[], int]]]:
    counts = COUNTS[source.kind][:2]
    found = {f"DALI's reader, pipelines: {n}": partial(readers, source, n, folder) for n in counts}
    return found | {
        PYNV: partial(clip_by_clip, source, PYNV, pynv_view),
        TORCHCODEC: partial(clip_by_clip, source, TORCHCODEC, torchcodec_view),
    }


def our_lanes(source: Source, count: int) -> Callable[[], int]:
    """A run: every lane reads and has its clips at once, and all are waited for."""
    from pipeline.graph import GraphSpec, Lane

    spec = GraphSpec(
        kind="nvdec", device=source.device, augments=(AUGMENT,), training=False, rotated=False,
        batch=CLIPS_EACH[source.kind], threads=1, depth=2,
    )  # fmt: skip
    lanes = [Lane(spec) for _ in range(count)]
    pairs = list(zip(lanes, source.shares(count), strict=True))

    def submit(lane: Lane, share: list[Clip]) -> None:
        lane.submit([_track(source, clip) for clip in share])

    for pair in pairs:
        submit(*pair)

    def run() -> int:
        for lane, share in pairs:
            lane.collect()
            submit(lane, share)  # the next run is under way while the others are waited for
        return sum(len(share) for _, share in pairs)

    return run


def readers(source: Source, count: int, folder: Path) -> Callable[[], int]:
    pipes = [
        ReaderPipeline(
            [(source.files[video], int(frames[0])) for video, frames in share],
            folder / f"reader-{count}-{n}.txt", AUGMENT,
            frames=CLIP_FRAMES, stride=STRIDE, batch=len(share), device=source.device,
        )
        for n, share in enumerate(source.shares(count))
    ]  # fmt: skip

    def run() -> int:
        return sum(len(pipe.views()) for pipe in pipes)

    return run


def clip_by_clip(source: Source, module: str, view: View) -> Callable[[], int]:
    """A run of a rival that opens the video for every clip."""
    if why := lacking(module):
        raise NotInstalled(why)

    def run() -> int:
        for video, frames in source.clips:
            view(source.files[video], frames.tolist(), AUGMENT, device=source.device)
        return len(source.clips)

    return run


def _tried(build: Callable[[], Callable[[], int]]) -> tuple[Callable[[], int] | None, str]:
    """The rival after a first run, or why it is left out."""
    try:
        run = build()
        run()
    except NotInstalled as error:
        return None, str(error)
    except Exception as error:  # somebody else's code may raise anything
        return None, f"it fails: {' '.join(str(error).split())[:WHY_CHARACTERS]}"
    return run, ""


def _track(source: Source, clip: Clip) -> Track:
    number, frames = clip
    video = source.videos[number]
    rows = np.arange(len(frames), dtype=np.int32)[None]
    return Track(read_bytes(video), video.first_frame + frames, rows, (Draw(WHOLE),), 0)
