"""Encoded videos, each in a file of its own, until their sizes are known and shards are planned."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from pipeline.container import ByteRange
from pipeline.errors import BadVideo
from pipeline.manifest import Video
from pipeline.probe import check_file
from pipeline.shards.encoded import Encoded
from pipeline.shards.transcode import PRESETS, transcode

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CHUNK_BYTES = 1 << 20
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


@dataclass(frozen=True, slots=True)
class Facts:
    """An encoded sample, by the manifest's columns; its bytes are in the spool."""

    number: int
    suffix: str
    size: int
    crc32: int
    frames: int
    fps: Fraction
    width: int
    height: int
    rotation: int
    codec: str
    keyframe_distance_frames: int
    vfr: bool
    start_pts: int
    time_base: Fraction

    @classmethod
    def of(cls, number: int, encoded: Encoded) -> Facts:
        names = set(cls.__dataclass_fields__) - {"number"}
        return cls(number, **{name: getattr(encoded, name) for name in names})

    @classmethod
    def from_json(cls, text: str) -> Facts:
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
        columns = asdict(self)
        del columns["number"], columns["suffix"]
        columns |= {"label": sample.video.label, "split": sample.video.split}
        return Video(key=sample.key, path=path, offset=offset, **columns)


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

    def __call__(self, sample: Sample) -> Facts | BadVideo | DiskFull:
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
            with whole_file(path, needed=encoded.size, sync=False) as file:
                file.write(encoded.data)
        except (BadVideo, DiskFull) as error:
            return error
        return Facts.of(sample.number, encoded)


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
    crc = 0
    with ByteRange(video.path, video.offset, video.size) as file:
        while chunk := file.read(CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
        if file.size == video.size and crc != video.crc32:
            crcs = f"crc32 {crc:08x}, not {video.crc32:08x}"
            what = f"its bytes are not those that were indexed ({crcs})"
            raise BadVideo(CHANGED, what, video.path, "restore it, or index again")


@contextmanager
def whole_file(path: Path, *, needed: int, sync: bool = True) -> Iterator[BinaryIO]:
    """A file that appears under its name whole or not at all; a partial one is removed.

    needed: its size in bytes, for the message of DiskFull. sync: it outlasts a power failure.
    """
    owner = f"{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}"
    partial = path.with_name(f"{path.name}.{owner}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(partial, path)
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        partial.unlink(missing_ok=True)
        free = shutil.disk_usage(path.parent).free
        raise DiskFull(error.strerror, needed, free, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
