"""Features for other programs: of videos, of clips, or along every video.

BMN, ActionFormer and OpenTAD read a file for each video, [windows, D] in time order; how far the
windows are apart is in meta.json (ActionFormer's feat_stride is `window_step_frames`, its
num_frames `window_frames`, its default_fps the video's `fps`).
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import DataError, Manifest
from pipeline.clip import span
from pipeline.whole import whole_file
from training.features import Features, stream_of
from training.protocols.job import Job, Part
from training.protocols.views import Views, extract_clips

SINGLE = ("per_video", "csv")  # formats of a file for each video
LONGEST_BYTES = 200  # of a name: 255 are allowed, some of them for an ending while it is written
RESCALED = 100  # rows of a CSV, whatever the video's length (BMN)


@dataclass
class Options(Views):
    # npz, npy, parquet: one file a set; per_video: an .npy [windows, D] of each; csv: 100 x D each
    format: Literal["npz", "npy", "parquet", "per_video", "csv"] = "npz"
    of: Literal["video", "clip"] = "video"  # mean over a video's clips, or every clip for itself
    l2: bool = False  # scale to unit length


@dataclass(frozen=True)
class Table:
    """Rows [n] with their features [n, D]: key, label, first frame (of clips), manifest row."""

    key: np.ndarray
    label: np.ndarray
    start_frame: np.ndarray
    row: np.ndarray
    feature: np.ndarray


def check(options: Options, manifest: Manifest) -> None:
    """Raise DataError for keys of which a file each cannot be made, before anything else is."""
    if options.format not in SINGLE:
        return
    made: dict[str, str] = {}
    for key in manifest.keys:
        name = _safe(key, manifest)
        if name in made:
            raise DataError(
                f"error: the keys {made[name]!r} and {key!r} make the same file name · "
                f"{manifest.path} · index the videos again, or take eval.format=npz"
            )
        made[name] = key


def write(job: Job, part: Part) -> Path:
    """Write the features of a set below the job's folder; returns the file or the folder."""
    options, manifest = job.options, job.sets[part]
    single = options.format in SINGLE
    table = of_clips(job, part) if single or options.of == "clip" else of_videos(job, part)
    if not job.process.is_main:
        return job.folder
    path = job.folder / part
    if single:
        write_each(path, manifest, table, rescale=options.format == "csv")
    else:
        path = path.with_suffix(f".{options.format}")
        {"npz": write_npz, "npy": write_npy, "parquet": write_parquet}[options.format](path, table)
    described = json.dumps(meta(job, part, table), indent=2, ensure_ascii=False) + "\n"
    with whole_file(job.folder / f"{part}_meta.json") as file:
        file.write(described.encode())
    job.parts(f"clips_{part}", {}).remove()
    return path


def of_videos(job: Job, part: Part) -> Table:
    """The mean over every video's clips."""
    found = job.features(part)
    return _table(job, part, found, np.full(len(found.index), -1), found.index.numpy())


def of_clips(job: Job, part: Part) -> Table:
    """Every clip, in the order of videos and of time."""
    sampling, parts = job.sampling(part), job.parts(f"clips_{part}", job.key(part))
    found, cut = extract_clips(
        job.encoder(), job.sets[part], job.recipe, sampling=sampling, process=job.process,
        parts=parts,
    )  # fmt: skip
    job.note(part, found.failed)
    at = found.index.numpy()
    return _table(job, part, found, cut.start_frame[at], cut.owner[at])


def write_npz(path: Path, table: Table) -> None:
    with whole_file(path) as file:
        np.savez(file, **vars(table))


def write_npy(path: Path, table: Table) -> None:
    """The features alone, and beside them a CSV that says of which video each row is."""
    with whole_file(path) as file:
        np.save(file, table.feature)
    columns = zip(table.key, table.label, table.start_frame, strict=True)
    with whole_file(path.with_suffix(".csv")) as file:
        file.write(_csv([("key", "label", "start_frame"), *columns]))


def write_parquet(path: Path, table: Table) -> None:
    columns = {name: values for name, values in vars(table).items() if name != "feature"}
    flat = pa.array(table.feature.reshape(-1))
    columns["feature"] = pa.FixedSizeListArray.from_arrays(flat, table.feature.shape[1])
    with whole_file(path) as file:
        pq.write_table(pa.table(columns), file, compression="zstd")


def write_each(folder: Path, manifest: Manifest, table: Table, *, rescale: bool) -> None:
    """<key>.npy [windows, D], or <key>.csv with a header and 100 rows, for every video."""
    for key, own in _each(table):
        path = folder / _safe(key, manifest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path.with_name(path.name + (".csv" if rescale else ".npy"))) as file:
            if rescale:
                names = [f"f{n}" for n in range(table.feature.shape[1])]
                file.write(_csv([names, *rescaled(table.feature[own]).tolist()]))
            else:
                np.save(file, table.feature[own])


def rescaled(feature: np.ndarray, rows: int = RESCALED) -> np.ndarray:
    """[T, D] -> [rows, D] along time, linear between the centres of the windows.

    Row r is taken at (r + 1/2) / rows of the whole, window t stands at (t + 1/2) / T; before the
    first and behind the last centre the value stays.
    """
    windows = len(feature)
    at = (np.arange(rows) + 0.5) / rows * windows - 0.5
    low = np.clip(np.floor(at).astype(int), 0, windows - 1)
    high = np.minimum(low + 1, windows - 1)
    share = np.clip(at - low, 0.0, 1.0)[:, None]
    return (1 - share) * feature[low] + share * feature[high]


def meta(job: Job, part: Part, table: Table) -> dict:
    """What a reader of the files has to know, and what every video's rows are."""
    manifest, clip, sampling = job.sets[part], job.recipe.clip, job.sampling(part)
    videos = {key: (manifest[row], len(own)) for (key, own), row in zip(
        _each(table), np.unique(table.row), strict=True)}  # fmt: skip
    return {
        "checkpoint": job.source.name,
        "checkpoint_sha256": job.source.sha256,
        "stream": stream_of(job.recipe),
        "dim": table.feature.shape[1],
        "window_frames": span(clip.frames, clip.stride),
        "clip": {"frames": clip.frames, "stride": clip.stride, "size": job.recipe.augment.size},
        **sampling.described(),
        "window_step_frames": sampling.step if sampling.kind == "windows" else None,
        "classes": manifest.classes,
        "failed": job.seen[part]["failed"],
        "videos": {
            key: {
                "rows": rows,
                "frames": video.frames,
                "fps": float(video.fps),
                "seconds": float(video.frames / video.fps) if video.fps else None,
                "label": video.label,
            }
            for key, (video, rows) in videos.items()
        },
    }


def _table(job: Job, part: Part, found: Features, start: np.ndarray, row: np.ndarray) -> Table:
    keys = np.array(job.sets[part].keys, dtype=np.str_)
    feature = (found.feature if job.options.l2 else found.raw).numpy()
    return Table(keys[row], found.label.numpy(), start, row, feature)


def _each(table: Table) -> Iterator[tuple[str, np.ndarray]]:
    """Key and rows of the table of every video."""
    for row in np.unique(table.row):
        own = np.flatnonzero(table.row == row)
        yield str(table.key[own[0]]), own


def _safe(key: str, manifest: Manifest) -> str:
    """A key as a relative path, a folder for each slash.

    Raises DataError for one that would lead out of the folder, or that no file may be called.
    """
    path = PurePosixPath(key)
    outside = path.is_absolute() or ".." in path.parts or not path.parts
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if outside or "\0" in key or longest > LONGEST_BYTES:
        raise DataError(
            f"error: the key {key[:80]!r} makes no file name · {manifest.path} · index the videos "
            "again, or take eval.format=npz"
        )
    return str(path)


def _csv(rows) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
