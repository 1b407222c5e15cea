"""`tools.benchmark data`: random clips, whole loaders, and making the shards."""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.decode import decode_frames
from pipeline.manifest import SCHEMA_VERSION, Manifest, Video, write_manifest
from pipeline.order import order
from pipeline.shards.transcode import PRESETS
from tools.benchmark.footage import write_footage
from tools.benchmark.loader import whole_loaders
from tools.benchmark.measure import Comparison, Side, compare, one_core
from tools.benchmark.rivals import decord_clip, ffmpeg_and_tar, pyav_clip
from tools.benchmark.table import Record

PARTS = ("manifest", "clips", "loaders", "presets", "shards")
CLIP_FRAMES, STRIDE = 16, 2
TIMEOUT_SECONDS = 60.0
MILLION = 1_000_000
ROOT = Path(__file__).parents[2]
# The `fast` preset in the words of the ffmpeg program.
FFMPEG_FAST = shlex.split(
    "-threads 1 -vf scale=-2:256 -c:v libx264 -preset veryfast -tune fastdecode -g 12 -bf 0 "
    "-sc_threshold 0 -pix_fmt yuv420p -movflags +faststart"
)

Decode = Callable[[Video, np.ndarray], np.ndarray]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="turns of every side")
    parser.add_argument("--videos", type=int, default=6, help="source videos")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a source video")
    parser.add_argument("--clips", type=int, default=48, help="random clips a turn")
    parser.add_argument("--batches", type=int, default=10, help="batches of a loader a turn")


def run(arguments: argparse.Namespace, record: Record) -> None:
    """Every part that was asked for."""
    folder, rounds, clips = arguments.folder, arguments.rounds, arguments.clips
    if "manifest" in arguments.parts:
        record.add(opening_a_million(folder, rounds=rounds))
    if set(arguments.parts) - {"manifest"}:
        record.console.print("making the source videos (once)")
        source = originals(folder, videos=arguments.videos, seconds=arguments.seconds)
    if {"clips", "loaders"} & set(arguments.parts):
        fast = fast_shards(folder, source)
    if "clips" in arguments.parts:
        record.add(random_clips(source, fast, clips=clips, rounds=rounds))
    if "loaders" in arguments.parts:
        record.add(whole_loaders(fast, batches=arguments.batches, rounds=rounds))
    if "presets" in arguments.parts:
        record.add(every_preset(folder, source, clips=clips, rounds=rounds))
    if "shards" in arguments.parts:
        record.add(*making_shards(folder, source, rounds=rounds))


def originals(folder: Path, *, videos: int, seconds: float) -> Manifest:
    """720p videos with one key frame in 250, made once."""
    sources = folder / f"originals-{videos}x{seconds:g}s"
    sources.mkdir(parents=True, exist_ok=True)
    for n in range(videos):
        write_footage(sources / f"video{n:03d}.mp4", seconds=seconds, seed=n)
    _tool("tools.index", str(sources), "-o", str(folder / "originals.parquet"), "--no-labels")
    return Manifest.read(folder / "originals.parquet")


def fast_shards(folder: Path, source: Manifest) -> Manifest:
    """The source as `fast` shards, made anew: another version of Kinema may have left others."""
    shards = folder / "fast"
    shutil.rmtree(shards, ignore_errors=True)
    _shard(source.path, shards, preset="fast", jobs=2)
    return Manifest.read(shards / "manifest.parquet")


def random_clips(source: Manifest, fast: Manifest, *, clips: int, rounds: int) -> Comparison:
    """Clips of 16 frames, every second one, at random places: open, seek, decode, RGB."""
    wanted = _clip_list(fast, clips)
    sides = [
        Side("Kinema, fast shards", _reading(_ours, fast, wanted)),
        Side("decord2, 720p originals", _reading(decord_clip, source, wanted)),
        Side("decord2, fast shards", _reading(decord_clip, fast, wanted)),
        Side("PyAV by hand, fast shards", _reading(pyav_clip, fast, wanted)),
    ]
    goals = dict(zip([side.name for side in sides[1:]], (20.0, 1.0, 1.0), strict=True))
    title = f"Random clips of {CLIP_FRAMES} frames, stride {STRIDE}, one thread each"
    return compare(title, sides, unit="clips", rounds=rounds, goals=goals)


def every_preset(folder: Path, source: Manifest, *, clips: int, rounds: int) -> Comparison:
    """What each preset costs and gives: seconds to make, bytes, random clips from its shards."""
    sides, facts = [], {}
    for preset in PRESETS:
        shards = folder / f"preset-{preset}"
        shutil.rmtree(shards, ignore_errors=True)
        start = time.perf_counter()
        _shard(source.path, shards, preset=preset, jobs=1)
        seconds = time.perf_counter() - start
        made = Manifest.read(shards / "manifest.parquet")
        size = sum(made[n].size for n in range(len(made)))
        sides.append(Side(preset, _reading(_ours, made, _clip_list(made, clips))))
        facts[preset] = {"MB/video": size / len(made) / 1e6, "s/video to make": seconds / len(made)}
    title = f"The presets: random clips of {CLIP_FRAMES} frames, stride {STRIDE}, one thread"
    comparison = compare(title, sides, unit="clips", rounds=rounds)
    comparison.facts = facts
    return comparison


def making_shards(folder: Path, source: Manifest, *, rounds: int) -> list[Comparison]:
    """The whole commands, start-up included, each side on one core."""
    scratch = folder / "scratch"
    paths = [source[n].path for n in range(len(source))]

    def ours(preset: str) -> Callable[[], int]:
        def run() -> int:
            shutil.rmtree(scratch, ignore_errors=True)
            _shard(source.path, scratch, preset=preset, jobs=1)
            return len(source)

        return run

    def rival() -> int:
        shutil.rmtree(scratch, ignore_errors=True)
        return ffmpeg_and_tar(paths, scratch, arguments=FFMPEG_FAST)

    encode = Side("Kinema, fast", ours("fast"))
    program = Side("ffmpeg in a loop, then tar", rival)
    common = {"unit": "videos", "rounds": rounds, "warm_up": False}
    copy = Side("Kinema, copy", ours("copy"))
    try:
        with one_core():
            encoded = compare(
                "Re-encoding, one core", [encode, program], goals={program.name: 1.0}, **common
            )
            copied = compare(
                "Copying instead, one core", [copy, encode], goals={encode.name: 8.0}, **common
            )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return [encoded, copied]


def opening_a_million(folder: Path, *, rounds: int) -> Comparison:
    """Reads a manifest of a million rows and gives the first epoch's first 1,024 videos."""
    path = folder / f"million-{SCHEMA_VERSION}.parquet"
    if not path.exists():
        _write_million(path)

    def run() -> int:
        manifest = Manifest.read(path)
        order(np.arange(1024), len(manifest), seed=0, epoch=0)
        return 1

    title = "Opening a manifest of 1,000,000 videos and their first order (goal: 0.5/s or more)"
    return compare(title, [Side("Kinema", run)], unit="openings", rounds=rounds)


def _write_million(path: Path) -> None:
    videos = [
        Video(
            key=f"class{n % 400:03d}/video{n:07d}",
            path=path.parent / f"shards/shard-{n // 1000:06d}.tar",
            offset=512 + n % 1000 * 1_000_448,
            size=1_000_000,
            crc32=n,
            frames=300,
            fps=Fraction(30),
            width=340,
            height=256,
            rotation=0,
            codec="h264",
            keyframe_distance_frames=12,
            vfr=False,
            start_pts=0,
            time_base=Fraction(1, 15360),
            label=n % 400,
        )
        for n in range(MILLION)
    ]
    write_manifest(path, videos, classes=[f"class{n:03d}" for n in range(400)], options={})


def _clip_list(manifest: Manifest, clips: int) -> list[tuple[int, np.ndarray]]:
    """(video, frame numbers) of every clip; every side reads the same ones."""
    rng = np.random.default_rng(0)
    span = (CLIP_FRAMES - 1) * STRIDE + 1
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


def _shard(manifest: Path, folder: Path, *, preset: str, jobs: int) -> None:
    options = ("--preset", preset, "--jobs", str(jobs))
    _tool("tools.shard", str(manifest), "-o", str(folder), *options)


def _tool(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr.strip()}\nerror: {' '.join(command)} failed")
