"""The data set as one parquet file: one row per video, a byte range and what is known of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.facts import Facts
from pipeline.whole import whole_file

SCHEMA_VERSION = 2
METADATA_KEY = b"kinema"
NO_LABEL = -1
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("crc32", pa.int64()),
        ("first_frame", pa.int32()),
        ("frames", pa.int32()),
        ("fps_num", pa.int32()),
        ("fps_den", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rotation", pa.int16()),
        ("codec", pa.string()),
        ("keyframe_distance_frames", pa.int32()),
        ("vfr", pa.bool_()),
        ("start_pts", pa.int64()),
        ("time_base_num", pa.int32()),
        ("time_base_den", pa.int32()),
        ("label", pa.int32()),
        ("split", pa.string()),
    ]
)
NOT_NUMBERS = [field.name for field in SCHEMA if not pa.types.is_integer(field.type)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Video(Facts):
    """One video: bytes [offset, offset + size) of the file `path` (absolute), or a segment of it.

    first_frame: frame n of the row is frame first_frame + n of the file, so that rows may share a
    file; all facts but `frames` are of the whole file. label: -1 for none.
    """

    key: str
    path: Path
    offset: int = 0
    label: int = NO_LABEL
    split: str = ""
    first_frame: int = 0

    @classmethod
    def of(cls, facts: Facts, **columns) -> Video:
        """The row of a video with these facts; columns: what else a row has, or says otherwise."""
        return cls(**facts.columns() | columns)


class Manifest:
    """Videos of a data set, as a sequence; made by `read`.

    classes: name of every label. fingerprint: of all rows of the file, whatever the split.
    options: how the file was made. Pickling sends the path only: the other process reads again.
    """

    def __init__(self, path: Path, split: str, table: pa.Table, metadata: dict):
        self.path, self.split = path, split
        self.classes: list[str] = metadata["classes"]
        self.fingerprint: str = metadata["fingerprint"]
        self.options: dict = metadata["options"]
        self._columns = {name: table[name].combine_chunks() for name in SCHEMA.names}
        # The same memory: a number out of an Arrow array takes ten times as long.
        self._numbers = {
            name: column.to_numpy()
            for name, column in self._columns.items()
            if pa.types.is_integer(column.type)
        }

    @classmethod
    def read(cls, path: str | Path, split: str = "", *, one_split: bool = False) -> Manifest:
        """The manifest at `path`; with `split`, only the rows of that split.

        one_split: rows of several splits are refused, so that none trains on its test videos.
        Raises DataError for a file that is missing, damaged, foreign, of another version or empty,
        and for a split that it does not have.
        """
        path = Path(os.path.abspath(path))
        table = _read_table(path)
        metadata = _metadata(table, path)
        splits = sorted(table["split"].unique().to_pylist()) if split or one_split else []
        present = ", ".join(name or "(none)" for name in splits)
        if split and split not in splits:
            raise DataError(f"error: no videos of split '{split}' · {path} · it has: {present}")
        if split:
            table = table.filter(pc.equal(table["split"], split))
        elif len(splits) > 1:
            raise DataError(
                f"error: it holds several splits ({present}) · {path} · choose one: "
                "data.split=NAME to train, --split TRAIN TEST to evaluate"
            )
        manifest = cls(path, split, table, metadata)
        del table
        # Every worker process holds a manifest; half of the memory would be buffers of the reading.
        pa.default_memory_pool().release_unused()
        return manifest

    def __reduce__(self):
        return Manifest.read, (self.path, self.split)

    def __len__(self) -> int:
        return len(self._columns["key"])

    def __getitem__(self, index: int) -> Video:
        index = int(index)
        row = {name: column.item(index) for name, column in self._numbers.items()}
        row |= {name: self._columns[name][index].as_py() for name in NOT_NUMBERS}
        row["path"] = self._absolute(row["path"])
        row["fps"] = Fraction(row.pop("fps_num"), row.pop("fps_den"))
        row["time_base"] = Fraction(row.pop("time_base_num"), row.pop("time_base_den"))
        return Video(**row)

    def last_ranges(self) -> dict[Path, tuple[int, int]]:
        """Of every file that holds videos as byte ranges: (offset, size) of the last of them."""
        columns = {name: self._columns[name] for name in ("path", "offset")}
        columns["end"] = pc.add(self._columns["offset"], self._columns["size"])
        rows = pa.table(columns).filter(pc.field("offset") > 0).group_by("path")
        last = rows.aggregate([("offset", "max"), ("end", "max")]).sort_by("path").to_pylist()
        return {
            self._absolute(row["path"]): (row["offset_max"], row["end_max"] - row["offset_max"])
            for row in last
        }

    def _absolute(self, stored: str) -> Path:
        return Path(os.path.normpath(self.path.parent / stored))

    @property
    def labels(self) -> np.ndarray:
        """[n] int64, -1 where a video has none."""
        return self._columns["label"].to_numpy().astype(np.int64)

    @property
    def frames(self) -> np.ndarray:
        """[n] int64, the length of every video."""
        return self._columns["frames"].to_numpy().astype(np.int64)

    @property
    def keys(self) -> list[str]:
        return self._columns["key"].to_pylist()

    @property
    def contents(self) -> list[tuple[int, int, int]]:
        """Size and crc32 of every row's bytes, and its first frame in them: equal of copies."""
        columns = (self._columns[name].to_pylist() for name in ("size", "crc32", "first_frame"))
        return list(zip(*columns, strict=True))

    @property
    def codecs(self) -> set[str]:
        return set(self._columns["codec"].unique().to_pylist())

    @property
    def rotated(self) -> bool:
        """Some video must be turned to stand upright."""
        return bool(self._columns["rotation"].to_numpy().any())


def write_manifest(
    path: str | Path, videos: Sequence[Video], *, classes: Sequence[str], options: Mapping
) -> Manifest:
    """Write rows in the given order and read them back: the file is whole or absent.

    Equal arguments give equal bytes. Raises ValueError for a key that occurs twice, a label
    without a class or no videos at all, OSError when the file cannot be written.
    """
    path = Path(os.path.abspath(path))
    _check_rows(videos, classes)
    described = {
        "schema_version": SCHEMA_VERSION,
        "classes": list(classes),
        "fingerprint": _fingerprint(videos),
        "options": dict(options),
    }
    metadata = {METADATA_KEY: json.dumps(described, sort_keys=True).encode()}
    table = pa.table(_columns(videos, path.parent), schema=SCHEMA.with_metadata(metadata))
    with whole_file(path) as file:
        pq.write_table(table, file, compression="zstd")
    return Manifest.read(path)


def _check_rows(videos: Sequence[Video], classes: Sequence[str]) -> None:
    if not videos:
        raise ValueError("a manifest needs at least one video")
    seen: set[str] = set()
    for video in videos:
        if video.key in seen:
            raise ValueError(f"two videos have the key '{video.key}'")
        seen.add(video.key)
        if not NO_LABEL <= video.label < len(classes):
            raise ValueError(f"'{video.key}': label {video.label} of {len(classes)} classes")


def _columns(videos: Sequence[Video], folder: Path) -> dict[str, list]:
    fields = set(Video.__dataclass_fields__) - {"path", "fps", "time_base"}
    columns = {name: [getattr(video, name) for video in videos] for name in fields}
    columns["path"] = _stored_paths(videos, folder)
    columns["fps_num"] = [video.fps.numerator for video in videos]
    columns["fps_den"] = [video.fps.denominator for video in videos]
    columns["time_base_num"] = [video.time_base.numerator for video in videos]
    columns["time_base_den"] = [video.time_base.denominator for video in videos]
    return columns


def _stored_paths(videos: Sequence[Video], folder: Path) -> list[str]:
    """Paths as the file holds them; most videos share their folder with others."""
    stored: dict[str, str] = {}
    paths = []
    for video in videos:
        parent, name = os.path.split(video.path)
        if parent not in stored:
            stored[parent] = _relative(os.path.abspath(parent), str(folder))
        paths.append(os.path.join(stored[parent], name))
    return paths


def _relative(path: str, folder: str) -> str:
    """Relative to `folder`, so that both can move together, unless they share only the root."""
    if os.path.commonpath([path, folder]) == os.sep != folder:
        return path
    relative = os.path.relpath(path, folder)
    return "" if relative == os.curdir else relative


def _fingerprint(videos: Sequence[Video]) -> str:
    """sha256 over what was trained on: key, content, segment and label of every row."""
    digest = hashlib.sha256()
    for v in videos:
        row = (v.key, v.size, v.crc32, v.first_frame, v.frames, v.label)
        digest.update(("\0".join(map(str, row)) + "\n").encode())
    return digest.hexdigest()


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path) if path.is_file() else _refuse_missing(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(
            f"error: not a readable parquet file · {path} · write it again: "
            f"python -m tools.index VIDEOS -o {path.name}"
        ) from error


def _refuse_missing(path: Path):
    what = "the manifest is a folder" if path.is_dir() else "no such manifest"
    raise DataError(
        f"error: {what} · {path} · make one with: python -m tools.index VIDEOS -o NAME.parquet"
    )


def _metadata(table: pa.Table, path: Path) -> dict:
    """The checked JSON metadata of a table that has all columns and at least one row."""
    again = "write it again: python -m tools.index VIDEOS -o NAME.parquet"
    raw = (table.schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise DataError(f"error: a parquet file, but not a Kinema manifest · {path} · {again}")
    metadata = json.loads(raw)
    version = metadata.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            f"error: manifest version {version}, this Kinema reads {SCHEMA_VERSION} · {path} · "
            f"{again}"
        )
    missing = [name for name in SCHEMA.names if name not in table.schema.names]
    if missing:
        raise DataError(f"error: no column {', '.join(missing)} · {path} · {again}")
    if not len(table):
        raise DataError(f"error: the manifest has no videos · {path} · {again}")
    return metadata
