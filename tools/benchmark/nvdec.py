"""`tools.benchmark nvdec`: frames a second by picture size, codec and number of sessions.

Every session is a lane of ours that decodes all frames of its video and scales some of them down.
One session keeps one decoder of a GPU busy, so that many tell what the GPU can do. On a CPU the
same runs with MJPEG, the one codec of the encoders here that DALI's wheels decode there: a
rehearsal.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pipeline.augment import WHOLE, Draw
from pipeline.decode import read_bytes
from pipeline.manifest import Video
from pipeline.probe import probe
from pipeline.track import Track
from tools.benchmark.footage import write_footage
from tools.benchmark.measure import Comparison, Side, compare
from tools.benchmark.meter import Meter
from tools.benchmark.pipelines import AUGMENT
from tools.benchmark.record import Record
from training import distributed

SHORT_SIDES = (128, 256, 480, 1080)
GOP_FRAMES = 16  # as the `nvdec` preset's
VIEW_FRAMES = 16
LEAST_SECONDS = 0.3  # of a turn


@dataclass(frozen=True)
class Plan:
    """codecs: FFmpeg's encoders by what decodes them. seconds: of footage in a video."""

    codecs: dict[str, str]
    sessions: tuple[int, ...]
    short_sides: tuple[int, ...]
    seconds: float


# 2 s of 1080p are 60 pictures of 6 MB: fourteen sessions hold 5 GB of them.
PLANS = {
    "cuda": Plan({"H.264": "libx264", "HEVC": "libx265"}, (1, 7, 14), SHORT_SIDES, 2.0),
    "cpu": Plan({"MJPEG": "mjpeg"}, (1, 2), (128, 256), 1.0),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin nothing after that")


def run(arguments: argparse.Namespace, record: Record) -> None:
    """The smallest pictures first: nobody has published their rates."""
    begun = time.monotonic()
    device = distributed.start(arguments.device).device
    plan = PLANS[device.type]
    videos = footage(arguments.folder, plan)
    record.console.print(f"made {len(videos)} videos in {time.monotonic() - begun:.0f} s")
    for (codec, _), video in videos.items():
        title = f"{codec}, {video.width}×{video.height}"
        if arguments.budget and time.monotonic() - begun > arguments.budget:
            record.skip(f"nvdec {title}")
            continue
        record.add(measure(title, video, plan.sessions, str(device), rounds=arguments.rounds))


def footage(folder: Path, plan: Plan) -> dict[tuple[str, int], Video]:
    """A video of every size and codec, encoded side by side; made once."""
    wanted = [(codec, side) for side in plan.short_sides for codec in plan.codecs]
    folder = folder / f"nvdec-{plan.seconds:g}s"
    folder.mkdir(parents=True, exist_ok=True)

    def made(codec: str, side: int) -> Video:
        path = folder / f"{plan.codecs[codec]}-{side}.mp4"
        size = {"width": _even(side * 16 / 9), "height": side}
        how = {"codec": plan.codecs[codec], "gop": GOP_FRAMES}
        write_footage(path, seconds=plan.seconds, seed=side, **size, **how)
        return Video.of(probe(path), key=path.stem, path=path)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(wanted, pool.map(lambda one: made(*one), wanted), strict=True))


def measure(
    title: str, video: Video, sessions: tuple[int, ...], device: str, *, rounds: int
) -> Comparison:
    """All frames of the video, decoded by so many lanes at once."""
    on_gpu = device != "cpu"
    sides = [
        Side("1 session" if n == 1 else f"{n} sessions", partial(_turn, lanes, video.frames))
        for n, lanes in _lanes(video, sessions, device).items()
    ]
    meter = Meter(
        "frame", least_seconds=LEAST_SECONDS, finish=torch.cuda.synchronize if on_gpu else None
    )
    what = "NVDEC" if on_gpu else "DALI on a CPU"
    comparison = compare(f"{what}: {title}", sides, unit="frames", rounds=rounds, rate=meter)
    comparison.facts, comparison.apart = meter.facts(sides), True
    return comparison


def _lanes(video: Video, sessions: tuple[int, ...], device: str) -> dict[int, list]:
    """By the number of sessions; fewer are the first of more."""
    from pipeline.graph import GraphSpec, Lane

    spec = GraphSpec(
        kind="nvdec", device=device, augments=(AUGMENT,), training=False, rotated=False,
        batch=1, threads=1, depth=2,
    )  # fmt: skip
    track = _track(video)
    pairs = [(Lane(spec), track) for _ in range(max(sessions))]
    return {n: pairs[:n] for n in sessions}


def _turn(pairs: list, frames: int) -> int:
    """Every lane twice over: the second run waits in the lane while the first decodes."""
    for _ in range(2):
        for lane, track in pairs:
            lane.submit([track])
    for _ in range(2):
        for lane, _track in pairs:
            lane.collect()
    return 2 * frames * len(pairs)


def _track(video: Video) -> Track:
    rows = np.linspace(0, video.frames - 1, VIEW_FRAMES).round().astype(np.int32)[None]
    return Track(read_bytes(video), np.arange(video.frames), rows, (Draw(WHOLE),), 0)


def _even(value: float) -> int:
    return 2 * round(value / 2)
