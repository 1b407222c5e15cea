"""The part of a file that a clip needs, as a file of its own, for a decoder elsewhere.

Packets are copied, nothing is encoded anew: from the key frame at or before the first wanted frame
up to the last, for each stretch of wanted frames. The file goes whole where times do not tell frame
numbers (variable rate, edit lists), where a packet does not say itself that decoding may begin with
it (a container's index may call any packet a key frame), and where it is small.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet

from pipeline.container import open_indexed, open_video, video_stream
from pipeline.decode import numbering, read_bytes, runs, time_of
from pipeline.manifest import Video
from pipeline.needed import length_bytes_of, nal_units

# To cut takes about a millisecond. In that time a page cache gives a megabyte and it is copied to
# the decoder, so what is smaller costs less as it is.
WHOLE_BYTES = 1 << 20
RECOVERY_POINT, H264_IDR, H264_SEI = 6, 5, 6
HEVC_IDR, HEVC_ENTRIES = {19, 20}, set(range(16, 22))  # with BLA and CRA: ITU-T H.265, table 7-1
# Key frames: nothing behind a closed one is made from what is before it; of an open one only what
# is shown after it, and its number is told by pictures before it.
CLOSED, OPEN = "closed", "open"


class CannotCut(Exception):
    """A part of the file would not surely show the same frames."""


def cut(
    video: Video, frames: np.ndarray, *, whole_bytes: int = WHOLE_BYTES
) -> tuple[np.ndarray, np.ndarray]:
    """(encoded file [bytes] uint8, numbers [U] in it) of the sorted frames [U] of a video.

    Not more than `whole_bytes` go whole. The numbers count the frames of the part in the order in
    which they are shown. Raises BadVideo for a file that cannot be read.
    """
    numbers = video.first_frame + frames
    if video.vfr or video.codec not in ENTRIES or video.size <= whole_bytes:
        return read_bytes(video), numbers
    # MP4 wants the format of VP9's pixels in its header.
    opened = open_video if video.codec == "vp9" else open_indexed
    try:
        with opened(video.path, video.offset, video.size) as container:
            packets = _needed_packets(container, video, numbers.tolist())
            number_of = numbering(video)
            shown = np.sort([number_of(packet.pts) for packet in packets])
            data = _mp4(container, packets)
    except (CannotCut, OSError, av.FFmpegError, ValueError, IndexError):
        # Of a file that cannot be read at all, reading says why.
        return read_bytes(video), numbers
    return np.frombuffer(data, np.uint8), np.searchsorted(shown, numbers)


def _needed_packets(container: InputContainer, video: Video, wanted: list[int]) -> list[Packet]:
    """In the order of decoding. Raises CannotCut unless every frame of every run has one packet.

    Where a later run would begin with an open key frame, before which a decoder has to be new, the
    packets between the runs are taken, too.
    """
    stretches = runs(wanted, video.keyframe_distance_frames)
    found = _packets_of(container, video, stretches)
    if found is None:
        found = _packets_of(container, video, [wanted])
    return sorted(found.values(), key=lambda packet: packet.dts)


def _packets_of(
    container: InputContainer, video: Video, stretches: list[list[int]]
) -> dict[int, Packet] | None:
    """Packets by frame number; None where one run is open that is not the first."""
    found: dict[int, Packet] = {}
    for run in stretches:
        for start in (run[0], max(0, run[0] - video.keyframe_distance_frames)):
            packets = _from_entry(container, video, start, run)
            if packets is not None:
                break
        else:
            raise CannotCut("no key frame is shown before the first frame")
        entry = next(iter(packets.values()))
        if found and ENTRIES[video.codec](entry, video_stream(container).codec_context) == OPEN:
            return None
        found |= packets
    return found


def _from_entry(
    container: InputContainer, video: Video, start: int, run: list[int]
) -> dict[int, Packet] | None:
    """Packets by frame number from a key frame on, to the last of the run; None: it is shown later.

    Pictures that are shown before the key frame are left out: nothing behind it is made from them.
    """
    stream, number_of = video_stream(container), numbering(video)
    container.seek(time_of(start, video), stream=stream, backward=True)
    first, missing, found = None, set(), {}
    for packet in _sound(container.demux(stream)):
        number = number_of(packet.pts)
        if first is None:
            if not ENTRIES[video.codec](packet, stream.codec_context):
                raise CannotCut("decoding cannot begin with this packet")
            if number > run[0]:
                return None
            first, missing = number, set(range(number, run[-1] + 1))
        if number < first:
            continue
        if number in found:
            raise CannotCut("two packets have one time")
        found[number] = packet
        missing.discard(number)
        if not missing:
            return found
    raise CannotCut("frames are missing")


def _sound(packets: Iterator[Packet]) -> Iterator[Packet]:
    for packet in packets:
        if packet.pts is None or packet.dts is None or packet.is_discard or packet.is_corrupt:
            raise CannotCut("a packet without times, damaged or hidden by an edit list")
        if packet.has_sidedata("new_extradata"):
            raise CannotCut("the decoder's settings change")
        yield packet


def _mp4(container: InputContainer, packets: list[Packet]) -> bytes:
    file, shift = io.BytesIO(), min(packet.pts for packet in packets)
    with av.open(file, "w", format="mp4", options={"avoid_negative_ts": "disabled"}) as part:
        copy = part.add_stream_from_template(video_stream(container), opaque=True)
        for packet in packets:
            packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
            part.mux(packet)
    return file.getvalue()


def _h264_entry(packet: Packet, decoder: av.VideoCodecContext) -> str | None:
    """An IDR picture, or an exact recovery point at once (ISO/IEC 14496-10, D.1.8)."""
    for unit in nal_units(packet, length_bytes_of(decoder)):
        kind = unit[0] & 31
        if kind == H264_IDR:
            return CLOSED
        # payload type, its size, then recovery_frame_cnt 0 as "1" and exact_match_flag
        if kind == H264_SEI and unit[1] == RECOVERY_POINT and unit[3] >> 6 == 0b11:
            return OPEN
    return None


def _hevc_entry(packet: Packet, decoder: av.VideoCodecContext) -> str | None:
    """hvcC (ISO/IEC 14496-15, 8.3.3.1): the lowest bits of byte 21 tell the length's bytes."""
    head = decoder.extradata
    if head is None or len(head) < 23 or head[0] != 1:
        return None
    kinds = {unit[0] >> 1 & 63 for unit in nal_units(packet, (head[21] & 3) + 1)}
    if kinds & HEVC_IDR:
        return CLOSED
    return OPEN if kinds & HEVC_ENTRIES else None


def _vp9_entry(packet: Packet, _: av.VideoCodecContext) -> str | None:
    """VP9 bitstream specification, 6.2: frame_type 0 behind marker, profile, show_existing_frame.

    Profile 3 has a bit more before it, and is not cut.
    """
    head = bytes(packet)[0]
    return CLOSED if head >> 4 & 3 != 3 and head >> 2 & 0b11 == 0 else None


def _mjpeg_entry(packet: Packet, _: av.VideoCodecContext) -> str | None:
    return CLOSED


# What tells whether decoding may begin with a packet of a codec.
ENTRIES: dict[str, Callable[[Packet, av.VideoCodecContext], str | None]] = {
    "h264": _h264_entry,
    "hevc": _hevc_entry,
    "vp9": _vp9_entry,
    "mjpeg": _mjpeg_entry,
}
