"""What a video file really is: decoded once from end to end, or refused with a code."""

from __future__ import annotations

import os
import stat
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame

from pipeline.container import ByteRange, Tally, decode_linear, open_video, video_stream
from pipeline.errors import BadVideo
from pipeline.layout import declared_bytes, lacks_moov

CHUNK_BYTES = 1 << 20
MEGAPIXEL = 1_000_000
AGAIN = "download or copy it again"
REENCODE = "re-encode it, for example: ffmpeg -i IN -c:v libx264 OUT.mp4"
# First bytes of things that are often found under the name of a video.
DISGUISES = (
    (b"ffconcat", "E-FORMAT", "is a playlist (concat), which may name other files"),
    (b"#extm3u", "E-FORMAT", "is a playlist (HLS), which may name other files"),
    (b"v=0", "E-FORMAT", "is a session description (SDP), which names an address"),
    (b"<mpd", "E-FORMAT", "is a playlist (DASH), which may name other files"),
    (b"gif8", "E-FORMAT", "is a GIF, which is not read"),
    (b"oggs", "E-FORMAT", "is an Ogg file, which is not read"),
    (b"id3", "E-NOVIDEO", "is an MP3 audio file"),
    (b"<!doctype", "E-NOTVIDEO", "looks like an HTML page"),
    (b"<html", "E-NOTVIDEO", "looks like an HTML page"),
    (b"<?xml", "E-NOTVIDEO", "looks like an XML page"),
    (b"{", "E-NOTVIDEO", "looks like JSON"),
    (b"[", "E-NOTVIDEO", "looks like JSON"),
)
KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What is still a usable video. Pixels are width times height of one frame."""

    min_frames: int = 2
    min_side_pixels: int = 16
    max_pixels: int = 40 * MEGAPIXEL
    max_damaged_fraction: float = 0.05


@dataclass(frozen=True, slots=True)
class Probe:
    """Facts of one video; the columns of the manifest have the same names.

    width, height: as displayed. rotation: degrees clockwise that turn the stored picture upright.
    keyframe_distance_frames: most frames from one key frame to the next (or the end).
    vfr: False when round((pts - start_pts) * time_base * fps) is the frame's number for all frames.
    damaged_frames: lost or concealed, but within the limit.
    """

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
    damaged_frames: int


@dataclass
class _Decoded:
    """Notes of one pass over all frames. times: pts of frames 0, 1, ... while all have one."""

    first: VideoFrame | None = None
    frames: int = 0
    flagged: int = 0
    keys: list[int] = field(default_factory=list)
    times: array = field(default_factory=lambda: array("q"))
    tally: Tally = field(default_factory=Tally)

    @property
    def lost(self) -> int:
        """Frames that never came. Without an error, a packet may be no frame by design (VP8)."""
        missing = self.tally.packets - self.frames
        return max(self.tally.errors, missing) if self.tally.errors else 0


def probe(
    path: str | Path, *, offset: int = 0, size: int | None = None, limits: Limits = Limits()
) -> Probe:
    """Facts of the video in bytes [offset, offset + size) of a file; size None: to its end.

    Raises BadVideo for anything that is not a usable video.
    """
    check_file(path)
    try:
        with ByteRange(path, offset, size) as file:
            crc32 = _crc32(file)
            _check_head(file, path)
            length, declared = file.size, declared_bytes(file)
            without_moov = lacks_moov(file)
        if without_moov:
            what = "the moov box is missing, so no frame can be found"
            raise BadVideo("E-TRUNCATED", what, path, AGAIN)
        with open_video(path, offset, length) as container:
            facts = _probe_container(
                container, path, limits, declared is not None and declared > length
            )
    except BadVideo:
        raise
    except av.FFmpegError as error:
        what = f"no video in an accepted container ({_reason(error)})"
        raise BadVideo("E-NOTVIDEO", what, path, AGAIN) from error
    except OSError as error:
        what = f"cannot be read ({error.strerror or error})"
        raise BadVideo("E-NOTFILE", what, path, "check the disk and permissions") from error
    except Exception as error:  # PyAV also raises IndexError, MemoryError and others on damage
        what = f"cannot be decoded ({type(error).__name__}: {error})"
        raise BadVideo("E-CORRUPT", what, path, AGAIN) from error
    return Probe(size=length, crc32=crc32, **facts)


def try_probe(path: str | Path) -> Probe | BadVideo:
    """`probe` for worker processes: the refusal is a result like any other."""
    try:
        return probe(path)
    except BadVideo as error:
        return error


def check_file(path: str | Path) -> None:
    """Raises BadVideo unless `path` is a regular file; never opens it, so a pipe cannot block."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        if os.path.islink(path):
            what = "is a broken link"
            raise BadVideo("E-NOTFILE", what, path, "mend or remove the link") from error
        raise BadVideo("E-MISSING", "no such file", path, "check the path") from error
    except (OSError, ValueError) as error:
        what = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise BadVideo("E-NOTFILE", what, path, "check the path, links and permissions") from error
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in KINDS if test(mode)), "no regular file")
        raise BadVideo("E-NOTFILE", f"is {kind}", path, "leave it out")


def _crc32(file: ByteRange) -> int:
    crc = 0
    while chunk := file.read(CHUNK_BYTES):
        crc = zlib.crc32(chunk, crc)
    return crc


def _check_head(file: ByteRange, path: str | Path) -> None:
    if not file.size:
        raise BadVideo("E-EMPTY", "is 0 bytes (interrupted download?)", path, AGAIN)
    file.seek(0)
    head = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, code, what in DISGUISES:
        if head.startswith(start):
            raise BadVideo(code, what, path, "replace it by a video file")


def _probe_container(container, path: str | Path, limits: Limits, short: bool) -> dict:
    """Probe's fields but size and crc32. short: the file ends before its headers say."""
    stream = _usable_stream(container, path)
    _check_size(stream.codec_context.width, stream.codec_context.height, path, limits)
    decoded = _decode_all(container, path, limits)
    rate = stream.average_rate or stream.guessed_rate or _measured_rate(decoded, stream.time_base)
    if short or decoded.tally.cut:
        _check_complete(container, stream, decoded, rate, path)
    _check_frames(decoded, path, limits)
    if not rate:
        what = "has neither a frame rate nor times of its frames"
        raise BadVideo("E-FORMAT", what, path, REENCODE)
    rotation = _clockwise(decoded.first, path)
    width, height = decoded.first.width, decoded.first.height
    timed = len(decoded.times) == decoded.frames
    return {
        "frames": decoded.frames,
        "fps": Fraction(rate),
        "width": height if rotation % 180 else width,
        "height": width if rotation % 180 else height,
        "rotation": rotation,
        "codec": stream.codec_context.codec.canonical_name,
        "keyframe_distance_frames": _longest_gap(decoded.keys, decoded.frames),
        "vfr": not (timed and _regular(decoded.times, stream.time_base, rate)),
        "start_pts": decoded.times[0] if decoded.times else 0,
        "time_base": Fraction(stream.time_base),
        "damaged_frames": decoded.flagged + decoded.lost,
    }


def _usable_stream(container, path: str | Path):
    stream = video_stream(container)
    kinds = sorted({s.type for s in container.streams if s not in container.streams.video})
    if stream is None and not container.streams:
        raise BadVideo("E-NOFRAMES", "is a container without any stream", path, AGAIN)
    if stream is None:
        what = f"only {' and '.join(kinds) or 'picture'} streams"
        raise BadVideo("E-NOVIDEO", what, path, "leave it out")
    if stream.codec_context is None:
        raise BadVideo("E-CODEC", "no decoder here for its codec", path, REENCODE)
    return stream


def _check_size(width: int, height: int, path: str | Path, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        budget = f"max_pixels {limits.max_pixels / MEGAPIXEL:g} Mpx"
        what = f"{width * height / MEGAPIXEL:.3g} Mpx ({width}x{height}) > {budget}"
        raise BadVideo("E-TOOBIG", what, path, "scale it down")
    if 0 < min(width, height) < limits.min_side_pixels:
        what = f"{width}x{height}: the short side is under {limits.min_side_pixels} pixels"
        raise BadVideo("E-TINY", what, path, "leave it out")


def _decode_all(container, path: str | Path, limits: Limits) -> _Decoded:
    decoded = _Decoded()
    size = None
    for n, frame in decode_linear(container, decoded.tally):
        if (frame.width, frame.height) != size:  # may change in mid-stream
            size = frame.width, frame.height
            _check_size(*size, path, limits)
        if n == 0:
            decoded.first = frame
        if frame.key_frame:
            decoded.keys.append(n)
        if frame.pts is not None and len(decoded.times) == n:
            decoded.times.append(frame.pts)
        decoded.flagged += frame.is_corrupt
        decoded.frames = n + 1
    return decoded


def _check_complete(container, stream, decoded: _Decoded, rate, path: str | Path) -> None:
    """Raises E-TRUNCATED unless the part that is missing held no frames of this stream."""
    promised = _promised_frames(container, stream, rate)
    if promised is not None and decoded.frames >= promised:
        return
    if promised is None:
        what = f"{decoded.frames} frames, then the file ends too early"
    else:
        what = f"{decoded.frames} of {promised} frames"
    raise BadVideo("E-TRUNCATED", what, path, AGAIN)


def _promised_frames(container, stream, rate) -> int | None:
    """Frames that the headers announce; None when they do not.

    In MP4 the index counts, less what an edit list cuts away (its header count ignores edits);
    elsewhere the header's count, or the duration.
    """
    if "mp4" in container.format.name.split(","):
        return sum(not entry.is_discard for entry in stream.index_entries)
    if stream.frames:
        return stream.frames
    if container.duration and rate:
        return round(Fraction(container.duration, av.time_base) * rate)
    return None


def _check_frames(decoded: _Decoded, path: str | Path, limits: Limits) -> None:
    if not decoded.frames:
        reason = f" ({decoded.tally.last_error})" if decoded.tally.last_error else ""
        raise BadVideo("E-NOFRAMES", f"no frame can be decoded{reason}", path, AGAIN)
    damaged, total = decoded.flagged + decoded.lost, decoded.frames + decoded.lost
    if damaged > limits.max_damaged_fraction * total:
        raise BadVideo("E-CORRUPT", f"{damaged}/{total} frames damaged", path, AGAIN)
    if decoded.frames < limits.min_frames:
        count = "1 frame" if decoded.frames == 1 else f"{decoded.frames} frames"
        what = f"{count}, at least {limits.min_frames} are needed"
        raise BadVideo("E-SHORT", what, path, "leave it out")


def _clockwise(frame: VideoFrame, path: str | Path) -> int:
    """Degrees clockwise that turn a stored frame upright. FFmpeg counts counter-clockwise."""
    rotation = -frame.rotation % 360
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    if matrix is not None:
        a, b, _, c, d = memoryview(bytes(matrix)).cast("i")[:5]
        if a * d - b * c < 0:
            raise BadVideo("E-FORMAT", "its display matrix mirrors the picture", path, REENCODE)
    if rotation % 90:
        what = f"is displayed turned by {rotation} degrees"
        raise BadVideo("E-FORMAT", what, path, REENCODE)
    return rotation


def _longest_gap(keys: Sequence[int], frames: int) -> int:
    marks = [0, *keys, frames]
    return max(after - before for before, after in pairwise(marks))


def _regular(times: Sequence[int], time_base: Fraction, rate: Fraction) -> bool:
    """Every frame's time lies less than half a frame from its number (in whole-number sums)."""
    scale = time_base.numerator * rate.numerator
    frame = time_base.denominator * rate.denominator
    start = times[0]
    return all(2 * abs((time - start) * scale - n * frame) < frame for n, time in enumerate(times))


def _measured_rate(decoded: _Decoded, time_base: Fraction) -> Fraction | None:
    """Mean rate by the frames' own times, within what the manifest's int32 columns hold."""
    times = decoded.times
    if len(times) < 2 or times[-1] <= times[0]:
        return None
    rate = (len(times) - 1) / ((times[-1] - times[0]) * Fraction(time_base))
    return rate.limit_denominator(1 << 20)


def _reason(error: av.FFmpegError) -> str:
    return (error.strerror or type(error).__name__).lower()
