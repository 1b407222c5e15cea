"""Random clips, decoded to RGB: ours beside other decoders, and from the shards of every preset."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pipeline.decode import decode_frames
from pipeline.manifest import Manifest, Video
from pipeline.shards.transcode import PRESETS
from tools.benchmark.counting import decoding
from tools.benchmark.measure import Comparison, Side, compare
from tools.benchmark.meter import Meter
from tools.benchmark.readers import PYNV, TORCHCODEC, lacking, torchcodec_clip
from tools.benchmark.rivals import decord_clip, pyav_clip
from tools.benchmark.sources import sharded

CLIP_FRAMES, STRIDE = 16, 2
TIMEOUT_SECONDS = 60.0
OURS = "Kinema, fast shards"

Decode = Callable[[Video, np.ndarray], np.ndarray]


def random_clips(source: Manifest, fast: Manifest, *, clips: int, rounds: int) -> Comparison:
    """Clips of 16 frames, every second one, at random places: open, seek, decode, RGB."""
    wanted = clip_list(fast, clips)
    sides = [
        Side(OURS, _reading(_ours, fast, wanted)),
        Side("decord2, 720p originals", _reading(decord_clip, source, wanted)),
        Side("decord2, fast shards", _reading(decord_clip, fast, wanted)),
        Side("PyAV by hand, fast shards", _reading(pyav_clip, fast, wanted)),
    ]
    goals = dict(zip([side.name for side in sides[1:]], (20.0, 1.0, 1.0), strict=True))
    left_out = {name: why for name in (TORCHCODEC, PYNV) if (why := lacking(name))}
    if TORCHCODEC not in left_out:
        sides.append(Side("torchcodec, fast shards", _reading(torchcodec_clip, fast, wanted)))
        goals[sides[-1].name] = 1.0
    title = f"Random clips of {CLIP_FRAMES} frames, stride {STRIDE}, one thread each"
    comparison = _metered(title, sides, rounds=rounds)
    comparison.goals, comparison.left_out = goals, left_out
    comparison.facts[OURS] |= decoding(sides[0].run, comparison.rate(OURS).p50)
    return comparison


def every_preset(folder: Path, source: Manifest, *, clips: int, rounds: int) -> Comparison:
    """What each preset costs and gives: seconds to make, bytes, random clips from its shards."""
    sides, facts = [], {}
    for preset in PRESETS:
        start = time.perf_counter()
        made = sharded(folder, source, preset, jobs=1)
        seconds = time.perf_counter() - start
        size = sum(made[n].size for n in range(len(made)))
        sides.append(Side(preset, _reading(_ours, made, clip_list(made, clips))))
        facts[preset] = {"MB/video": size / len(made) / 1e6, "s/video to make": seconds / len(made)}
    title = f"The presets: random clips of {CLIP_FRAMES} frames, stride {STRIDE}, one thread"
    comparison = _metered(title, sides, rounds=rounds)
    comparison.apart = True
    for side in sides:
        found = decoding(side.run, comparison.rate(side.name).p50)
        comparison.facts[side.name] |= found | facts[side.name]
    return comparison


def _metered(title: str, sides: Sequence[Side], *, rounds: int) -> Comparison:
    meter = Meter("clip")
    comparison = compare(title, sides, unit="clips", rounds=rounds, rate=meter)
    comparison.facts = meter.facts(sides)
    return comparison


def clip_list(manifest: Manifest, clips: int) -> list[tuple[int, np.ndarray]]:
    """(video, frame numbers) of every clip; every side reads the same ones.

    A clip ends a frame before the video does: DALI's reader wants the step behind the last frame.
    """
    rng = np.random.default_rng(0)
    span = CLIP_FRAMES * STRIDE
    wanted = []
    for n in range(clips):
        video = n % len(manifest)
        start = rng.integers(manifest[video].frames - span + 1)
        wanted.append((video, start + STRIDE * np.arange(CLIP_FRAMES)))
    return wanted


def _reading(
    decode: Decode, manifest: Manifest, wanted: list[tuple[int, np.ndarray]]
) -> Callable[[], int]:
    videos = [manifest[n] for n in range(len(manifest))]

    def run() -> int:
        for video, frames in wanted:
            clip = decode(videos[video], frames)
            assert len(clip) == CLIP_FRAMES
        return len(wanted)

    return run


def _ours(video: Video, frames: np.ndarray) -> np.ndarray:
    return decode_frames(video, frames, timeout_seconds=TIMEOUT_SECONDS)
