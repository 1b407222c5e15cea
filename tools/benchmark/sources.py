"""The data sets that are measured on, made here from footage, and their other forms."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from pipeline.decode import read_bytes
from pipeline.manifest import Manifest, write_manifest
from tools.benchmark.footage import HEIGHT, WIDTH, write_footage

ROOT = Path(__file__).parents[2]


def originals(
    folder: Path, *, videos: int, seconds: float, width: int = WIDTH, height: int = HEIGHT
) -> Manifest:
    """Videos with one key frame in 250, made once for each number, length and size."""
    sources = folder / f"originals-{videos}x{seconds:g}s-{width}x{height}"
    sources.mkdir(parents=True, exist_ok=True)
    for n in range(videos):
        path = sources / f"video{n:03d}.mp4"
        write_footage(path, seconds=seconds, seed=n, width=width, height=height)
    manifest = sources.with_suffix(".parquet")
    tool("tools.index", str(sources), "-o", str(manifest), "--no-labels")
    return Manifest.read(manifest)


def sharded(folder: Path, source: Manifest, preset: str, *, jobs: int = 2) -> Manifest:
    """The source as shards, made anew: another version of Kinema may have left others."""
    shards = folder / f"preset-{preset}"
    shutil.rmtree(shards, ignore_errors=True)
    shard(source.path, shards, preset=preset, jobs=jobs)
    return Manifest.read(shards / "manifest.parquet")


def shard(manifest: Path, folder: Path, *, preset: str, jobs: int) -> None:
    options = ("--preset", preset, "--jobs", str(jobs))
    tool("tools.shard", str(manifest), "-o", str(folder), *options)


def repeated(manifest: Manifest, path: Path, *, videos: int) -> Manifest:
    """So many rows: the videos again and again under other names, for batches larger than they."""
    rows = islice(cycle(manifest), videos)
    named = [replace(video, key=f"{n}-{video.key}") for n, video in enumerate(rows)]
    write_manifest(path, named, classes=manifest.classes, options={})
    return Manifest.read(path)


def files_of(manifest: Manifest, folder: Path) -> list[Path]:
    """Every video as a file of its own, for readers that know no byte ranges."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for n, video in enumerate(manifest):
        path = folder / f"video{n:03d}.mp4"
        path.write_bytes(read_bytes(video).tobytes())
        paths.append(path)
    return paths


def tool(module: str, *arguments: str) -> None:
    """A tool of Kinema as a user calls it. Ends the program where it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr.strip()}\nerror: {' '.join(command)} failed")
