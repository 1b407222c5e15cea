"""What the program prints at its end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.manifest import Manifest
from pipeline.shards.spool import Spooled, megabytes
from tools.console import printable
from tools.shard.run import Result, codes
from tools.shard.workspace import Part

SHOWN_CONFLICTS = 3
# A random clip of 32 frames decodes half a key frame distance on top: with 32, half as many again.
LONG_GOP_FRAMES = 32
BALANCED = 1.05


def print_complete(manifest: Manifest) -> None:
    print(printable(f"nothing to do: {manifest.path} is complete ({len(manifest)} videos)"))


def print_part(result: Result, part: Part) -> None:
    print(f"encoded part {part.index} of {part.count}")
    _print_counts(result)
    print("  when all parts are done, the same command without --part packs them")


def print_result(result: Result, folder: Path, preset: str) -> None:
    print(printable(f"wrote {folder / 'manifest.parquet'}"))
    _print_counts(result)
    sizes = result.shard_bytes
    ratio = max(sizes) / min(sizes)
    span = f"{megabytes(min(sizes))} to {megabytes(max(sizes))}, largest/smallest {ratio:.3f}"
    print(f"  shards     {len(sizes)}, {megabytes(sum(sizes))} in all ({span})")
    if ratio > BALANCED:
        print("  note: sizes differ, for a shard holds few videos: make fewer or larger shards")
    if preset == "copy":
        _print_long_gops(result.facts)


def _print_counts(result: Result) -> None:
    videos = f"{result.encoded / result.encode_seconds:.3g} videos/s" if result.encoded else "-"
    print(f"  videos     {len(result.facts)}")
    print(f"  encoded    {result.encoded} in this run, {videos}, {result.seconds:.3g} s in all")
    if result.rejected:
        reasons = codes(result.rejected)
        print(f"  rejected   {len(result.rejected)} ({reasons}), see quarantine.jsonl")
    if result.copies:
        _print_copies(result.copies)


def _print_copies(copies: Sequence[dict]) -> None:
    conflicts = [entry for entry in copies if entry["label"] != entry["kept_label"]]
    print(f"  duplicates {len(copies)} left out, see duplicates.jsonl")
    if conflicts:
        print(f"  note: {len(conflicts)} of them have another label than the video that is kept:")
    for entry in conflicts[:SHOWN_CONFLICTS]:
        labels = f"label {entry['label']}, kept {entry['kept_label']}"
        print(printable(f"    {entry['key']} = {entry['same_as']} ({labels})"))


def _print_long_gops(facts: Sequence[Spooled]) -> None:
    distances = [one.keyframe_distance_frames for one in facts]
    long = [frames for frames in distances if frames > LONG_GOP_FRAMES]
    if long:
        print(
            f"  warning: {len(long)} of {len(facts)} videos have up to {max(long)} frames between "
            f"key frames: random clips of them decode about {max(long) // 2} frames in vain; "
            "--preset fast sets 12"
        )
