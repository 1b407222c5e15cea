"""The packets of a video in a file of their own, without sound; no frame changes."""

from __future__ import annotations

import zlib

import av
from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.container import ByteRange, Tally, open_video, stream_packets, video_stream
from pipeline.errors import BadVideo
from pipeline.limits import DEFAULT_LIMITS
from pipeline.manifest import Video
from pipeline.scan import COUNTERS
from pipeline.shards.encoded import Encoded, MemoryFile, described

MP4_CODECS = ("h264", "hevc", "mpeg4", "mjpeg", "vp9", "av1")
SUFFIXES = {"mov": "mp4", "matroska": "mkv", "mpegts": "ts", "mpeg": "mpg"}


def remux(video: Video, first: int, count: int) -> Encoded:
    """The video's packets in an MP4 with the index in front, its times from zero on.

    Where MP4 has no place for them, or would not surely show the very same frames (other codecs,
    packets without times or with hidden frames, edits within the video), the bytes of the file are
    taken as they are, sound included. Raises BadVideo for a segment: copying cuts nothing.
    """
    with open_video(video.path, video.offset, video.size) as container:
        stream = video_stream(container)
        packets = [p for p in stream_packets(container, stream, Tally()) if p is not None]
        plain = _one_picture_each(stream, packets)
        _refuse_segment(video, first, count, sum(not p.is_discard for p in packets))
        if plain == count and (data := _mp4(stream, packets)) is not None:
            encoded = described(data, "mp4", rotation=video.rotation)
            if encoded.frames == count:
                return encoded
        suffix = container.format.name.split(",")[0]
    return _as_it_is(video, SUFFIXES.get(suffix, suffix))


def _refuse_segment(video: Video, first: int, count: int, packets: int) -> None:
    if first or count < (1 - DEFAULT_LIMITS.max_damaged_fraction) * packets:
        what = f"frames {first} to {first + count - 1} are a part of their file, which stays whole"
        raise BadVideo("E-FORMAT", what, video.path, "use a preset that re-encodes")


def _one_picture_each(stream: VideoStream, packets: list[Packet]) -> int:
    """Frames the packets show when each shows one at a time of its own; -1 when some do not."""
    codec = stream.codec_context.codec.canonical_name
    if codec not in MP4_CODECS or any(p.pts is None for p in packets):
        return -1
    if any(p.has_sidedata("new_extradata") for p in packets):
        return -1
    shown = [packet for packet in packets if not packet.is_discard]
    if any(COUNTERS[codec](packet) != 1 for packet in shown):
        return -1
    return len(shown) if len({packet.pts for packet in shown}) == len(shown) else -1


def _mp4(stream: VideoStream, packets: list[Packet]) -> bytes | None:
    """None where the muxer refuses. Packets before time zero become hidden by an edit list."""
    start = min(packet.pts for packet in packets if not packet.is_discard)
    file = MemoryFile()
    try:
        with file.open("mp4", avoid_negative_ts="disabled") as container:
            copy = container.add_stream_from_template(stream, opaque=True)
            for packet, decoded in zip(packets, _decoding_times(packets), strict=True):
                packet.pts, packet.dts, packet.stream = packet.pts - start, decoded - start, copy
                container.mux(packet)
    except (av.FFmpegError, ValueError):
        return None
    return file.getvalue()


def _decoding_times(packets: list[Packet]) -> list[int]:
    """Their own, or, as Matroska stores none, the shown times in order, just late enough that no
    packet is decoded after it is shown."""
    if all(packet.dts is not None for packet in packets):
        return [packet.dts for packet in packets]
    shown = sorted(packet.pts for packet in packets)
    place = {pts: n for n, pts in enumerate(shown)}
    delay = max(n - place[packet.pts] for n, packet in enumerate(packets))
    step = max(1, (shown[-1] - shown[0]) // max(1, len(shown) - 1))
    return [shown[0] - n * step for n in range(delay, 0, -1)] + shown[: len(shown) - delay]


def _as_it_is(video: Video, suffix: str) -> Encoded:
    with ByteRange(video.path, video.offset, video.size) as file:
        data = file.readall()
    facts = video.columns() | {"size": len(data), "crc32": zlib.crc32(data)}
    return Encoded(data=data, suffix=suffix, **facts)
