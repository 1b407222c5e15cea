"""A video in memory: the file it is written to, and the facts a manifest row needs of it."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from fractions import Fraction

import av
from av.container import OutputContainer

from pipeline.container import video_stream
from pipeline.facts import Facts
from pipeline.scan import Scan

READ = 1  # AVIO_FLAG_READ


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded(Facts):
    """One video as bytes. suffix: of the file name, such as "mp4"."""

    data: bytes
    suffix: str


class MemoryFile(io.BytesIO):
    """A file that a muxer writes, and reads again to move the index to the front."""

    def open(self, container_format: str, **options: str) -> OutputContainer:
        """A container without anything that varies: no creation time, no version of the muxer."""
        return av.open(
            self,
            "w",
            format=container_format,
            container_options={"movflags": "+faststart", "fflags": "+bitexact", **options},
            io_open=lambda url, flags, options: _Reader(self) if flags == READ else self,
        )


class _Reader:
    """Reads a MemoryFile at a place of its own."""

    def __init__(self, file: MemoryFile):
        self.file, self.position = file, 0

    def read(self, count: int) -> bytes:
        data = bytes(self.file.getbuffer()[self.position : self.position + count])
        self.position += len(data)
        return data

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        size = self.file.getbuffer().nbytes
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: size}[whence]
        self.position = start + position
        return self.position

    def tell(self) -> int:
        return self.position


def described(data: bytes, suffix: str, *, rotation: int = 0) -> Encoded:
    """The facts of an encoded video whose every packet shows one picture, from its packets."""
    with av.open(io.BytesIO(data)) as container:
        stream = video_stream(container)
        packets = [packet for packet in container.demux(stream) if packet.size]
        shown = sorted((p.pts, p.is_keyframe) for p in packets if not p.is_discard)
        scan = Scan(
            frames=len(shown),
            keys=[n for n, (_, is_key) in enumerate(shown) if is_key],
            times=[pts for pts, _ in shown],
        )
        width, height = stream.codec_context.width, stream.codec_context.height
        fps, time_base = Fraction(stream.average_rate), Fraction(stream.time_base)
        return Encoded(
            data=data,
            suffix=suffix,
            size=len(data),
            crc32=zlib.crc32(data),
            frames=scan.frames,
            fps=fps,
            width=height if rotation % 180 else width,
            height=width if rotation % 180 else height,
            rotation=rotation,
            codec=stream.codec_context.codec.canonical_name,
            keyframe_distance_frames=scan.longest_gap(),
            vfr=not scan.regular(time_base, fps),
            start_pts=scan.times[0],
            time_base=time_base,
        )
