"""Encoded videos, each in a file of its own, until their sizes are known and shards are planned."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from pipeline.checksum import crc32
from pipeline.container import ByteRange
from pipeline.errors import BadVideo
from pipeline.facts import Facts
from pipeline.manifest import Video
from pipeline.probe import check_file
from pipeline.shards.transcode import PRESETS, transcode
from pipeline.whole import FULL_DISK, whole_file

FILES_PER_FOLDER = 1000
CHANGED = "E-CHANGED"
WATCHDOG_EXIT_CODE = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """A video to be: frames [first_frame, first_frame + frames) of the file of `video`."""

    number: int
    key: str
    video: Video
    first_frame: int
    frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooled(Facts):
    """An encoded sample; its bytes are in the spool. suffix: of its name in a shard."""

    number: int
    suffix: str

    @classmethod
    def from_json(cls, text: str) -> Spooled:
        """Raises ValueError for anything but a whole line of `to_json`."""
        values = json.loads(text)
        if not isinstance(values, dict) or values.keys() != set(cls.__dataclass_fields__):
            raise ValueError("not the facts of a sample")
        ratios = {name: Fraction(values[name]) for name in ("fps", "time_base")}
        return cls(**values | ratios)

    def to_json(self) -> str:
        return json.dumps(asdict(self), default=str)

    def row(self, sample: Sample, path: Path, offset: int) -> Video:
        """The manifest's row of the sample in a tar."""
        video = sample.video
        place = {"key": sample.key, "path": path, "offset": offset}
        return Video.of(self, **place, label=video.label, split=video.split)


def spool_path(spool: Path, number: int) -> Path:
    """Where sample `number` waits for its shard."""
    return spool / f"{number // FILES_PER_FOLDER:04d}" / f"{number:07d}"


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes samples into the spool; for worker processes, so refusals are results.

    watchdog_seconds: a sample that takes longer ends the process; None: none does.
    """

    preset: str
    spool: Path
    watchdog_seconds: float | None = None

    def __call__(self, sample: Sample) -> Spooled | BadVideo | DiskFull:
        path = spool_path(self.spool, sample.number)
        try:
            with _watchdog(self.watchdog_seconds):
                _check_unchanged(sample)
                encoded = transcode(
                    sample.video,
                    PRESETS[self.preset],
                    first_frame=sample.first_frame,
                    frames=sample.frames,
                )
            path.parent.mkdir(exist_ok=True)
            with room_for(path, needed=encoded.size), whole_file(path, sync=False) as file:
                file.write(encoded.data)
        except (BadVideo, DiskFull) as error:
            return error
        return Spooled(number=sample.number, suffix=encoded.suffix, **encoded.columns())


@contextmanager
def _watchdog(seconds: float | None) -> Iterator[None]:
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, os._exit, [WATCHDOG_EXIT_CODE])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_unchanged(sample: Sample) -> None:
    """Raises BadVideo unless the bytes are those indexed; of a film in pieces, the first checks."""
    video = sample.video
    if sample.first_frame != video.first_frame:
        return
    check_file(video.path)
    with ByteRange(video.path, video.offset, video.size) as file:
        crc = crc32(file)
    if file.size == video.size and crc != video.crc32:
        crcs = f"crc32 {crc:08x}, not {video.crc32:08x}"
        what = f"its bytes are not those that were indexed ({crcs})"
        raise BadVideo(CHANGED, what, video.path, "restore it, or index again")


@contextmanager
def room_for(path: Path, *, needed: int) -> Iterator[None]:
    """Raises DiskFull where a file of `needed` bytes cannot be written for lack of space."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        free = shutil.disk_usage(path.parent).free
        raise DiskFull(error.strerror, needed, free, str(path)) from error


class DiskFull(Exception):
    """A file could not be written for lack of space; nothing of it is left. needed: bytes."""

    exit_code = 2

    def __init__(self, reason: str, needed: int, free: int, path: str):
        super().__init__(reason, needed, free, path)
        self.reason, self.needed, self.free, self.path = reason, needed, free, path

    def __str__(self) -> str:
        return (
            f"error[E-DISK]: needs {megabytes(self.needed)}, {megabytes(self.free)} free "
            f"({self.reason}) · {self.path} · free some space and give the same command again: it "
            "continues"
        )


def megabytes(count: int) -> str:
    """Bytes in words: 0.3 MB, 412 MB, 3.20 GB."""
    if count >= 10**9:
        return f"{count / 1e9:.2f} GB"
    return f"{count / 1e6:.3g} MB"
