"""What a video file really is: decoded once from end to end, or refused with a code."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.video.frame import VideoFrame

from pipeline.checksum import crc32
from pipeline.container import ByteRange, moving_streams, open_video, video_stream
from pipeline.errors import BadVideo
from pipeline.facts import Facts
from pipeline.layout import declared_bytes, declared_samples, lacks_moov
from pipeline.limits import DEFAULT_LIMITS, Limits
from pipeline.scan import Scan, scan_frames, scan_packets

MOST_SIZES = 4
ADDRESS = re.compile(r"(^|/)[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has only one slash behind it
ScanKind = Literal["decode", "packets"]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Facts):
    """Facts of one video. damaged_frames: lost or concealed, but within the limit."""

    damaged_frames: int


def probe(
    path: str | Path,
    *,
    offset: int = 0,
    size: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    scan: ScanKind = "decode",
) -> Probe:
    """Facts of the video in bytes [offset, offset + size) of a file; size None: to its end.

    scan: "decode" decodes every frame; "packets" reads the headers, the packets and one frame, and
    so does not see damage within packets. Both give the same facts of an undamaged file: where
    packets do not tell them (see `scan_packets`), all frames are decoded. Raises BadVideo for
    anything that is not a usable video.
    """
    facts, _ = examine(path, offset=offset, size=size, limits=limits, scan=scan)
    return facts


def try_probe(
    path: str | Path,
    *,
    offset: int = 0,
    size: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    scan: ScanKind = "decode",
) -> Probe | BadVideo:
    """`probe` for worker processes: the refusal is a result like any other."""
    try:
        return probe(path, offset=offset, size=size, limits=limits, scan=scan)
    except BadVideo as error:
        return error


def examine(
    path: str | Path,
    *,
    offset: int = 0,
    size: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
    scan: ScanKind = "decode",
) -> tuple[Probe, list[str]]:
    """`probe`, and remarks on what the facts do not hold, such as a second video stream."""
    check_file(path)
    try:
        with ByteRange(path, offset, size) as file:
            crc = crc32(file)
            _check_head(file, path)
            length, declared = file.size, declared_bytes(file)
            without_moov = lacks_moov(file)
            limits.check_count(declared_samples(file), path)
        if without_moov:
            what = "the moov box is missing, so no frame can be found"
            raise BadVideo("E-TRUNCATED", what, path, AGAIN)
        short = declared is not None and declared > length
        facts, remarks = _scanned(path, offset, length, limits, short, scan)
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
    return Probe(size=length, crc32=crc, **facts), remarks


def check_file(path: str | Path) -> None:
    """Raises BadVideo unless `path` is a regular file; never opens it, so a pipe cannot block."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        if os.path.islink(path):
            what = "is a broken link"
            raise BadVideo("E-NOTFILE", what, path, "mend or remove the link") from error
        if ADDRESS.search(str(path)):
            what = "is an address: remote videos are not read"
            raise BadVideo("E-NOTFILE", what, path, "download it first") from error
        raise BadVideo("E-MISSING", "no such file", path, "check the path") from error
    except (OSError, ValueError) as error:
        what = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise BadVideo("E-NOTFILE", what, path, "check the path, links and permissions") from error
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in KINDS if test(mode)), "no regular file")
        raise BadVideo("E-NOTFILE", f"is {kind}", path, "leave it out")


def _check_head(file: ByteRange, path: str | Path) -> None:
    if not file.size:
        raise BadVideo("E-EMPTY", "is 0 bytes (interrupted download?)", path, AGAIN)
    file.seek(0)
    head = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for start, code, what in DISGUISES:
        if head.startswith(start):
            raise BadVideo(code, what, path, "replace it by a video file")


def _scanned(
    path: str | Path, offset: int, size: int, limits: Limits, short: bool, scan: ScanKind
) -> tuple[dict, list[str]]:
    """Probe's fields but size and crc32, and remarks. short: the file ends before its headers say.

    A short file is decoded in any case: only that tells how much of it is there.
    """
    passes = [scan_packets, scan_frames] if scan == "packets" and not short else [scan_frames]
    for scan_stream in passes:
        with _open_limited(path, offset, size, limits) as container:
            stream = _usable_stream(container, path, limits)
            if seen := scan_stream(container, path, limits):
                facts = _facts(container, stream, seen, path, limits, short)
                return facts, _remarks(container, seen)
    raise AssertionError("decoding always gives a result")


@contextmanager
def _open_limited(
    path: str | Path, offset: int, size: int, limits: Limits
) -> Iterator[InputContainer]:
    """The container, opened without decoding a frame over the limits.

    Where FFmpeg then cannot describe the stream, it may, once, to tell whether that is why.
    """
    with ExitStack() as stack:
        try:
            limited = open_video(path, offset, size, max_pixels=limits.max_pixels)
            container = stack.enter_context(limited)
        except av.FFmpegError:
            _check_unlimited(path, offset, size, limits)
            raise
        stream = video_stream(container)
        if stream is not None and stream.codec_context and not stream.codec_context.width:
            _check_unlimited(path, offset, size, limits)
        yield container


def _check_unlimited(path: str | Path, offset: int, size: int, limits: Limits) -> None:
    """Raises BadVideo for what FFmpeg may decode a frame to find out."""
    with open_video(path, offset, size) as container:
        _usable_stream(container, path, limits)


def _facts(container, stream, seen: Scan, path: str | Path, limits: Limits, short: bool) -> dict:
    base = Fraction(stream.time_base)
    rate = stream.average_rate or stream.guessed_rate or seen.measured_rate(base)
    if short or seen.tally.cut:
        _check_complete(container, stream, seen, rate, path, limits)
    _check_frames(seen, path, limits)
    if not rate:
        what = "has neither a frame rate nor times of its frames"
        raise BadVideo("E-FORMAT", what, path, REENCODE)
    rotation = _clockwise(seen.first, path)
    width, height = seen.first.width, seen.first.height
    return {
        "frames": seen.frames,
        "fps": Fraction(rate),
        "width": height if rotation % 180 else width,
        "height": width if rotation % 180 else height,
        "rotation": rotation,
        "codec": stream.codec_context.codec.canonical_name,
        "keyframe_distance_frames": seen.longest_gap(),
        "vfr": not seen.regular(base, Fraction(rate)),
        "start_pts": seen.times[0] if seen.times else 0,
        "time_base": base,
        "damaged_frames": len(seen.damaged) + seen.lost,
    }


def _remarks(container, seen: Scan) -> list[str]:
    remarks = []
    moving = len(moving_streams(container))
    if moving > 1:
        remarks.append(f"{moving} video streams, the first is used")
    if len(seen.sizes) > 1:
        sizes = ", ".join(f"{width}x{height}" for width, height in seen.sizes[:MOST_SIZES])
        remarks.append(
            f"its size changes in mid-stream ({sizes}): all frames are scaled to the first"
        )
    return remarks


def _usable_stream(container, path: str | Path, limits: Limits):
    stream = video_stream(container)
    kinds = sorted({s.type for s in container.streams if s not in container.streams.video})
    if stream is None and not container.streams:
        raise BadVideo("E-NOFRAMES", "is a container without any stream", path, AGAIN)
    if stream is None:
        what = f"only {' and '.join(kinds) or 'picture'} streams"
        raise BadVideo("E-NOVIDEO", what, path, "leave it out")
    if stream.codec_context is None:
        raise BadVideo("E-CODEC", "no decoder here for its codec", path, REENCODE)
    limits.check_size(stream.codec_context.width, stream.codec_context.height, path)
    return stream


def _check_complete(container, stream, seen: Scan, rate, path: str | Path, limits: Limits) -> None:
    """Raises E-TRUNCATED unless the part that is missing held no frames of this stream.

    Where the limits accept a truncated file, it is reduced to its clean frames instead.
    """
    promised = _promised_frames(container, stream, rate)
    if promised is not None and seen.frames >= promised:
        return
    if limits.accept_truncated:
        seen.keep(min(seen.damaged, default=seen.frames))
        if seen.frames >= limits.min_frames:
            return
    if promised is None:
        what = f"{seen.frames} frames, then the file ends too early"
    else:
        what = f"{seen.frames} of {promised} frames"
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


def _check_frames(seen: Scan, path: str | Path, limits: Limits) -> None:
    if not seen.frames:
        reason = f" ({seen.tally.last_error})" if seen.tally.last_error else ""
        raise BadVideo("E-NOFRAMES", f"no frame can be decoded{reason}", path, AGAIN)
    damaged, total = len(seen.damaged) + seen.lost, seen.frames + seen.lost
    if damaged > limits.max_damaged_fraction * total:
        raise BadVideo("E-CORRUPT", f"{damaged}/{total} frames damaged", path, AGAIN)
    if seen.frames < limits.min_frames:
        count = "1 frame" if seen.frames == 1 else f"{seen.frames} frames"
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


def _reason(error: av.FFmpegError) -> str:
    return (error.strerror or type(error).__name__).lower()
