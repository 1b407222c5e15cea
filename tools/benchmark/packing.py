"""Making shards of videos, and opening a manifest of very many."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.manifest import SCHEMA_VERSION, Manifest, Video, write_manifest
from pipeline.order import order
from tools.benchmark.measure import Comparison, Side, compare, one_core
from tools.benchmark.rivals import ffmpeg_and_tar
from tools.benchmark.sources import shard

MILLION = 1_000_000
# The `fast` preset in the words of the ffmpeg program.
FFMPEG_FAST = shlex.split(
    "-threads 1 -vf scale=-2:256 -c:v libx264 -preset veryfast -tune fastdecode -g 12 -bf 0 "
    "-sc_threshold 0 -pix_fmt yuv420p -movflags +faststart"
)


def making_shards(folder: Path, source: Manifest, *, rounds: int) -> list[Comparison]:
    """The whole commands, start-up included, each side on one core."""
    scratch = folder / "scratch"
    paths = [source[n].path for n in range(len(source))]

    def ours(preset: str) -> Callable[[], int]:
        def run() -> int:
            shutil.rmtree(scratch, ignore_errors=True)
            shard(source.path, scratch, preset=preset, jobs=1)
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
