"""The frames that some wanted ones are decoded from, and no other.

Half of a video's B-frames may be pictures that no other picture is made from. In H.264 a packet
says so itself: such packets are not even given to the decoder, unless their frame is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# Types of NAL units (ISO/IEC 14496-10, table 7-1): slices of a picture, and what may stand before
# them in a packet that has nothing to tell of other pictures (SEI and delimiters).
SLICES, REMARKS = (1, 5), (6, 9)


def needed_frames(
    packets: Iterable[Packet],
    stream: VideoStream,
    wanted: Collection[int],
    number_of: Callable[[int], int],
    left_out: set[int],
) -> Iterator[VideoFrame]:
    """Decoded frames as far as the wanted ones need them, and what the decoder has left then.

    number_of: the frame number of a time. left_out: gets the numbers of those that are not decoded.
    """
    decoder, wanted, given = stream.codec_context, set(wanted), set()
    waiting, length_bytes = set(wanted), length_bytes_of(decoder)
    for packet in packets:
        if packet.pts is None:
            yield from packet.decode()
            continue
        number = number_of(packet.pts)
        if number not in wanted:
            if not waiting:
                # A frame is made of what is stored before it; not all shown before it is.
                left_out.update(set(range(min(given), max(wanted))) - given)
                yield from decoder.decode(None)
                return
            if length_bytes and _is_end(packet, length_bytes):
                left_out.add(number)
                continue
        waiting.discard(number)
        given.add(number)
        yield from packet.decode()


def length_bytes_of(decoder) -> int:
    """Bytes of the lengths before NAL units, or 0 where packets are not H.264 as in MP4.

    ISO/IEC 14496-15, 5.3.3.1: byte 0 is the version, 1, the lowest bits of byte 4 the length.
    """
    head = decoder.extradata
    is_mp4 = decoder.name == "h264" and head is not None and len(head) > 4 and head[0] == 1
    return (head[4] & 3) + 1 if is_mp4 else 0


def _is_end(packet: Packet, length_bytes: int) -> bool:
    """No other picture is made from this one: its nal_ref_idc is 0 (ISO/IEC 14496-10, 7.4.1)."""
    for unit in nal_units(packet, length_bytes):
        if (kind := unit[0] & 31) in SLICES:
            return not unit[0] >> 5 & 3
        if kind not in REMARKS:
            return False
    return False


def nal_units(packet: Packet, length_bytes: int) -> Iterator[memoryview]:
    """Each with what follows it in the packet; none where they have no lengths before them."""
    data, at = memoryview(packet), 0
    while length_bytes and at + length_bytes < len(data):
        yield data[at + length_bytes :]
        at += length_bytes + int.from_bytes(data[at : at + length_bytes])
