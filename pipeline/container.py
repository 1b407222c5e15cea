"""One byte range of one file, opened as a video and decoded from the start.

The prober and the decoder share this module, so that "frame n" means the same to both: the n-th
picture that a single-threaded decoder hands out when it reads the file from its first packet.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# A playlist can name other files or addresses, so only containers that hold their own data are
# opened, and FFmpeg may open nothing beside the bytes it is given.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf"
OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
# FFmpeg decodes a picture to tell its format, which a decoder finds out for itself. No codec on the
# list and few bytes to look at: it leaves that. At 456 x 256 opening takes 0.3 ms instead of 1.1.
UNDESCRIBED = {"codec_whitelist": "none", "probesize": "32"}
NOT_MOVING = Disposition.attached_pic | Disposition.timed_thumbnails


class ByteRange(io.RawIOBase):
    """Bytes [offset, offset + size) of a file as a file of their own; size None: to its end."""

    def __init__(self, path: str | Path, offset: int = 0, size: int | None = None):
        self.position = 0
        self.offset = offset
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        behind = max(0, os.fstat(self.descriptor).st_size - offset)
        self.size = behind if size is None else min(size, behind)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        room = memoryview(buffer)[: max(0, self.size - self.position)]
        count = os.preadv(self.descriptor, [room], self.offset + self.position) if room else 0
        self.position += count
        return count

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        self.position = max(0, start + position)
        return self.position

    def tell(self) -> int:
        return self.position

    def close(self) -> None:
        if not self.closed:
            os.close(self.descriptor)
        super().close()


@contextlib.contextmanager
def open_indexed(
    path: str | Path, offset: int = 0, size: int | None = None
) -> Iterator[InputContainer]:
    """`open_video` in a third of the time, where the container's index has the time of every frame.

    That is MP4; its streams then lack what only a decoded picture tells, and a decoder may show
    frames in another order. So the caller has to look at their times. Others are opened as ever.
    """
    with ByteRange(path, offset, size) as source:
        is_mp4 = source.read(8)[4:] == b"ftyp"
        source.seek(0)
        options, form = (OPTIONS | UNDESCRIBED, "mp4") if is_mp4 else (dict(OPTIONS), None)
        with av.open(source, format=form, options=options, metadata_errors="ignore") as container:
            yield container


@contextlib.contextmanager
def open_video(
    path: str | Path, offset: int = 0, size: int | None = None, *, max_pixels: int | None = None
) -> Iterator[InputContainer]:
    """The container in bytes [offset, offset + size) of a file; size None: to the file's end.

    FFmpeg decodes a first frame of some streams to describe them; none larger than `max_pixels`.
    Raises OSError when the file cannot be read and av.FFmpegError when it is no accepted container.
    """
    options = OPTIONS if max_pixels is None else OPTIONS | {"max_pixels": str(max_pixels)}
    with (
        ByteRange(path, offset, size) as source,
        av.open(source, options=dict(options), metadata_errors="ignore") as container,
    ):
        yield container


def moving_streams(container: InputContainer) -> list[VideoStream]:
    """Streams with moving pictures: cover art and thumbnails do not count."""
    return [s for s in container.streams.video if not s.disposition & NOT_MOVING]


def video_stream(container: InputContainer) -> VideoStream | None:
    """The first stream with moving pictures."""
    return next(iter(moving_streams(container)), None)


@dataclass
class Tally:
    """What `decode_linear` met on its way.

    packets: packets that should each give a frame (those an edit list cuts away are left out).
    errors: packets that did not decode. cut: the last packet was incomplete, or reading failed.
    """

    packets: int = 0
    errors: int = 0
    cut: bool = False
    last_error: str = ""


def decode_linear(
    container: InputContainer, tally: Tally | None = None
) -> Iterator[tuple[int, VideoFrame]]:
    """(n, frame) of every decodable frame of a container just opened, in presentation order.

    Packets that do not decode are passed over and noted in `tally`. Frames that an edit list cuts
    away are not among them: the demuxer marks their packets and the decoder drops them. Raises
    av.FFmpegError when the stream has no decoder.
    """
    tally = Tally() if tally is None else tally
    stream = video_stream(container)
    if stream is None or stream.codec_context is None:
        raise av.error.DecoderNotFoundError(0, "no video stream with a decoder", str(container))
    # Frame threads would hand out other frames around damage; workers are the parallelism here.
    stream.codec_context.thread_count = 1
    n = 0
    for packet in stream_packets(container, stream, tally):
        for frame in decode_packet(stream, packet, tally):
            yield n, frame
            n += 1


def stream_packets(
    container: InputContainer, stream: VideoStream, tally: Tally
) -> Iterator[Packet | None]:
    """Packets of the stream; the last one is None, which drains the decoder."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                tally.packets += not packet.is_discard
                tally.cut = packet.is_corrupt
                yield packet
    except av.FFmpegError as error:
        tally.cut, tally.last_error = True, str(error)
    yield None


def decode_packet(stream: VideoStream, packet: Packet | None, tally: Tally) -> list[VideoFrame]:
    """The frames that come out when a packet goes in; none when it does not decode."""
    try:
        return stream.decode(packet)
    except av.FFmpegError as error:
        tally.errors += 1
        tally.last_error = str(error)
        return []
