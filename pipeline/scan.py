"""One pass over a video, by its frames or by its packets alone, and what was seen on the way.

Packets are ten times as fast to go through, and enough to count frames and note their times where
a container holds one shown picture in each packet. Where that is not certain (`scan_packets` says
when), or where anything looks damaged, only decoding tells.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame

from pipeline.container import Tally, decode_linear, decode_packet, stream_packets, video_stream
from pipeline.limits import Limits

SMALLEST_PICTURE_BYTES = 16  # of MPEG-4 part 2; the "not coded" marks of packed files are smaller
VOP_START = b"\x00\x00\x01\xb6"  # ISO/IEC 14496-2, 6.2.1
INT32_MAX = 2**31 - 1
TIMED_CONTAINERS = ("mp4", "matroska", "mpegts")  # they store when a picture is shown


@dataclass
class Scan:
    """Notes of one pass. times: pts of frames 0, 1, ... while all have one. keys: numbers of key
    frames. damaged: numbers of frames that the decoder flagged. sizes: (width, height), in the
    order in which they come up."""

    first: VideoFrame | None = None
    frames: int = 0
    keys: list[int] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)
    times: Sequence[int] = field(default_factory=lambda: array("q"))
    sizes: list[tuple[int, int]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    @property
    def lost(self) -> int:
        """Frames that never came. Without an error, a packet may be no frame by design (VP8)."""
        missing = self.tally.packets - self.frames
        return max(self.tally.errors, missing) if self.tally.errors else 0

    def keep(self, frames: int) -> None:
        """Forget all frames from number `frames` on, and what was lost among them."""
        self.frames = min(self.frames, frames)
        self.keys = [n for n in self.keys if n < frames]
        self.damaged = [n for n in self.damaged if n < frames]
        self.times = self.times[:frames]
        self.tally = Tally(packets=self.frames, cut=self.tally.cut)

    def longest_gap(self) -> int:
        """Most frames from one key frame to the next, or to the end."""
        marks = [0, *self.keys, self.frames]
        return max(after - before for before, after in pairwise(marks))

    def regular(self, time_base: Fraction, rate: Fraction) -> bool:
        """Every frame has a time, less than half a frame from its number (in whole numbers)."""
        if len(self.times) < self.frames:
            return False
        scale = time_base.numerator * rate.numerator
        frame = time_base.denominator * rate.denominator
        first = self.times[0]
        return all(
            2 * abs((time - first) * scale - n * frame) < frame for n, time in enumerate(self.times)
        )

    def measured_rate(self, time_base: Fraction) -> Fraction | None:
        """Mean rate by the frames' own times, within what the manifest's int32 columns hold."""
        times = self.times
        if len(times) < 2 or times[-1] <= times[0]:
            return None
        rate = (len(times) - 1) / ((times[-1] - times[0]) * Fraction(time_base))
        finest = min(1 << 20, INT32_MAX // (int(rate) + 1))
        return rate.limit_denominator(finest) if finest else None


def scan_frames(container: InputContainer, path: str | Path, limits: Limits) -> Scan:
    """Decodes all frames of a container just opened. Raises BadVideo beyond the limits."""
    scan = Scan()
    for n, frame in decode_linear(container, scan.tally):
        if (frame.width, frame.height) not in scan.sizes:  # may change in mid-stream
            limits.check_size(frame.width, frame.height, path)
            scan.sizes.append((frame.width, frame.height))
        limits.check_count(n + 1, path)
        if n == 0:
            scan.first = frame
        if frame.key_frame:
            scan.keys.append(n)
        if frame.is_corrupt:
            scan.damaged.append(n)
        if frame.pts is not None and len(scan.times) == n:
            scan.times.append(frame.pts)
        scan.frames = n + 1
    return scan


def scan_packets(container: InputContainer, path: str | Path, limits: Limits) -> Scan | None:
    """What `scan_frames` would find, from the packets of a container just opened.

    Only the first frame is decoded. None where packets do not tell: containers other than MP4,
    Matroska, MPEG-TS and AVI; codecs without a rule in COUNTERS; H.264 in AVI (no times); packed
    B-frames; interlaced pictures; times that are missing or occur twice; a start that the decoder
    does not show; any damage. Raises BadVideo beyond the limits.
    """
    stream = video_stream(container)
    pictures_in = _counter(container, stream.codec_context.codec.canonical_name)
    if pictures_in is None:
        return None
    stream.codec_context.thread_count = 1
    scan, pictures = Scan(), []
    for packet in stream_packets(container, stream, scan.tally):
        if scan.first is None and (frames := decode_packet(stream, packet, scan.tally)):
            scan.first = frames[0]
        if packet is None:
            break
        count = pictures_in(packet)
        if count is None or packet.pts is None or packet.is_corrupt:
            return None
        if count and not packet.is_discard:
            pictures.append((packet.pts, packet.is_keyframe))
            limits.check_count(len(pictures), path)
    return _in_order(scan, sorted(pictures))


def _in_order(scan: Scan, pictures: list[tuple[int, bool]]) -> Scan | None:
    """The scan with its pictures (pts, key frame) in the order of their times, if that is sure."""
    first, times = scan.first, [time for time, _ in pictures]
    if first is None or first.interlaced_frame or first.is_corrupt or first.pts not in times[:1]:
        return None
    if scan.tally.errors or scan.tally.cut:
        return None
    if any(before >= after for before, after in pairwise(times)):
        return None
    scan.frames, scan.times = len(times), times
    scan.sizes = [(first.width, first.height)]
    scan.keys = [n for n, (_, is_key) in enumerate(pictures) if is_key]
    return scan


def _counter(container: InputContainer, codec: str) -> Callable[[Packet], int | None] | None:
    """What tells how many pictures a packet of this stream shows; None: nothing does."""
    names = container.format.name.split(",")
    if "avi" in names:
        # AVI stores no times. FFmpeg finds the order of MPEG-4's B-frames, of H.264's it does not.
        return COUNTERS[codec] if codec in ("mpeg4", "mjpeg") else None
    return COUNTERS.get(codec) if any(name in names for name in TIMED_CONTAINERS) else None


def _one_picture(packet: Packet) -> int:
    return 1


def _vp8_pictures(packet: Packet) -> int:
    """RFC 6386, 9.1: bit 4 of a frame is show_frame; a hidden alt-ref frame has a packet."""
    return bytes(packet)[0] >> 4 & 1


def _vp9_pictures(packet: Packet) -> int:
    """VP9 bitstream specification, 6.2 and annex B: a superframe ends with a shown frame."""
    data = bytes(packet)
    if data[-1] >> 5 == 0b110:
        return 1
    bits = data[0] << 1 if data[0] >> 4 & 3 == 3 else data[0]  # profile 3 has a bit more
    show_existing_frame, show_frame = bits >> 3 & 1, bits >> 1 & 1
    return show_existing_frame | show_frame


def _mpeg4_pictures(packet: Packet) -> int | None:
    if packet.size < SMALLEST_PICTURE_BYTES or bytes(packet).count(VOP_START) != 1:
        return None
    return 1


COUNTERS = {
    "h264": _one_picture,
    "hevc": _one_picture,
    "mjpeg": _one_picture,
    "mpeg4": _mpeg4_pictures,
    "vp8": _vp8_pictures,
    "vp9": _vp9_pictures,
    "av1": _one_picture,
}
