"""Pictures of a video by frame number, on the CPU. Frame n is always the n-th of linear decoding.

On a video of constant rate the presentation time tells the frame number. So decoding may start at
a key frame and pass over pictures that no other is made from: those shown before that key frame
(open GOP) are thrown away, and the rest must follow one another without a gap or damage. Where
anything does not fit, decoding starts at an earlier key frame, and at last from the beginning with
every picture.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard

from pipeline import render
from pipeline.container import decode_linear, open_indexed, open_video, video_stream
from pipeline.errors import BadVideo
from pipeline.manifest import Video
from pipeline.needed import needed_frames
from pipeline.probe import check_file
from pipeline.render import Picture

T = TypeVar("T")
# Streams in which a seek ends amid a picture, and the times after it may be those of the next one.
WITHOUT_INDEX = ("mpeg", "mpegts")


class SeekNotTrusted(Exception):
    """What came after a seek cannot be told to be the right pictures."""


def decode_frames(video: Video, frames: np.ndarray, *, timeout_seconds: float) -> np.ndarray:
    """Pictures [U, H, W, 3] uint8 RGB; for the rest as `decode_pictures`."""
    return np.stack(_decoded(video, frames, render.rgb, timeout_seconds))


def decode_pictures(video: Video, frames: np.ndarray, *, timeout_seconds: float) -> list[Picture]:
    """Pictures of the sorted unique frame numbers `frames` [U], upright.

    Frame n of a row that is a segment is frame `first_frame` + n of its file. Pictures that damage
    in the file touches are those of linear decoding as far as the decoder tells of the damage; it
    is not shown pictures that no wanted one is made from.
    Raises BadVideo when the file cannot be opened, has fewer frames, or takes too long.
    """
    return _decoded(video, frames, render.picture, timeout_seconds)


def _decoded(
    video: Video, frames: np.ndarray, convert: Callable[..., T], timeout_seconds: float
) -> list[T]:
    """`convert` is called with each wanted frame as the decoder gives it."""
    clock = _Deadline(video, timeout_seconds)
    numbers = [video.first_frame + n for n in frames.tolist()]
    wanted, found = set(numbers), None
    check_file(video.path)
    with _damage_told(video):
        if not video.vfr:
            found = _by_time(video, sorted(wanted), convert, clock)
        if found is None:
            with open_video(video.path, offset=video.offset, size=video.size) as container:
                found = _collect(clock.watch(decode_linear(container)), wanted, video, convert)
    if missing := wanted - found.keys():
        raise _not_there(min(missing), video)
    return [found[n] for n in numbers]


def every_frame(video: Video, *, stride: int = 1) -> Iterator[np.ndarray]:
    """Pictures [H, W, 3] uint8 RGB of frames 0, stride, 2 stride, ..., upright, one at a time.

    Raises as `decode_frames` does, but for the time, which is the caller's as well.
    """
    wanted = range(video.first_frame, video.first_frame + video.frames, stride)
    check_file(video.path)
    coming = iter(wanted)
    following = next(coming)
    with (
        _damage_told(video),
        open_video(video.path, offset=video.offset, size=video.size) as container,
    ):
        for number, frame in decode_linear(container):
            if number != following:
                continue
            yield render.rgb(frame, **_shown(video))
            following = next(coming, None)
            if following is None:
                return
    raise _not_there(following, video)


@contextlib.contextmanager
def _damage_told(video: Video) -> Iterator[None]:
    """What decoding raises becomes a BadVideo."""
    try:
        yield
    except BadVideo:
        raise
    except OSError as error:
        raise BadVideo(
            "E-MISSING", _reason(error), video.path, "restore it, or index again"
        ) from error
    except Exception as error:  # PyAV raises IndexError, MemoryError and others on damage, too
        raise BadVideo("E-CORRUPT", _reason(error), video.path, "re-encode or remove it") from error


def _not_there(number: int, video: Video) -> BadVideo:
    what = f"frame {number - video.first_frame} of {video.frames} does not decode"
    return BadVideo("E-TRUNCATED", what, video.path, "download it again, or index again")


def read_bytes(video: Video) -> np.ndarray:
    """The encoded file [bytes] uint8, for a decoder on the GPU."""
    try:
        with Path(video.path).open("rb") as file:
            file.seek(video.offset)
            content = file.read(video.size)
    except OSError as error:
        raise BadVideo("E-MISSING", _reason(error), video.path, "index again") from error
    if len(content) != video.size:
        what = f"{len(content)} of {video.size} bytes are there"
        raise BadVideo("E-TRUNCATED", what, video.path, "download it again, or index again")
    return np.frombuffer(content, dtype=np.uint8)


def _by_time(
    video: Video, wanted: list[int], convert: Callable[..., T], clock: _Deadline
) -> dict[int, T] | None:
    """What is found where times tell frame numbers, or None where they are not to be trusted."""
    found: dict[int, T] = {}
    with open_indexed(video.path, offset=video.offset, size=video.size) as container:
        stream = video_stream(container)
        if stream is None or container.format.name in WITHOUT_INDEX:
            return _collect(clock.watch(decode_linear(container)), wanted, video, convert)
        stream.codec_context.thread_count = 1  # as in decode_linear
        for other in container.streams:  # sound is not even read
            other.discard = Discard.default if other is stream else Discard.all
        for run in runs(wanted, video.keyframe_distance_frames):
            for start in _starts(container, video, run[0], is_new=not found):
                frames = from_key_frame(container, video, start, wanted=run, watch=clock.watch)
                with contextlib.suppress(SeekNotTrusted, av.FFmpegError):
                    found |= _collect(frames, run, video, convert)
                if found.keys() >= set(run):
                    break
            else:
                return None
    return found


def _starts(
    container: InputContainer, video: Video, n: int, *, is_new: bool
) -> tuple[int | None, ...]:
    """Frames to seek, one after the other, until one leads to frame n; None: begin at the start.

    is_new: nothing was read from the container yet.
    """
    distance = video.keyframe_distance_frames
    if is_new and n <= distance:
        index = video_stream(container).index_entries
        if index.search_timestamp(time_of(n, video)) <= 0:
            return (None,)
    # The second is for a first key frame that is shown after the frame looked for.
    return n, max(0, n - distance)


def runs(wanted: list[int], reach: int) -> list[list[int]]:
    """Cuts the wanted frames where a new seek is cheaper than decoding on."""
    runs = [[wanted[0]]]
    for n in wanted[1:]:
        if n - runs[-1][-1] > reach:
            runs.append([])
        runs[-1].append(n)
    return runs


def from_key_frame(
    container: InputContainer,
    video: Video,
    n: int | None,
    *,
    wanted: Collection[int] | None = None,
    watch: Callable[[Iterable], Iterator] = iter,
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) from a key frame near frame n on, if possible before it, without a gap.

    n: None begins where the container was opened. wanted: only these have to be among them, and
    none is decoded that they do not need. watch: sees every packet pass. Raises SeekNotTrusted for
    a frame without a time, a damaged one, or a gap.
    """
    stream = video_stream(container)
    if n is not None:
        container.seek(time_of(n, video), stream=stream, backward=True)
    number_of, left_out, expected = numbering(video), set(), None
    packets = watch(container.demux(stream))
    if wanted is None:
        frames = (frame for packet in packets for frame in packet.decode())
    else:
        frames = needed_frames(packets, stream, wanted, number_of, left_out)
    for frame in frames:
        # The decoder's word: a container's index may call any frame a key frame.
        if expected is None and not frame.key_frame:
            continue
        if frame.pts is None or frame.is_corrupt:
            raise SeekNotTrusted
        number = number_of(frame.pts)
        while expected is not None and expected != number:
            if expected not in left_out:
                raise SeekNotTrusted
            expected += 1
        expected = number + 1
        yield number, frame


def _frames_per_unit(video: Video) -> tuple[int, int]:
    """time_base * fps as numerator and denominator: of fractions the sums take longer."""
    fps, unit = video.fps, video.time_base
    return fps.numerator * unit.numerator, fps.denominator * unit.denominator


def time_of(n: int, video: Video) -> int:
    above, below = _frames_per_unit(video)
    return video.start_pts + (2 * n * below + above) // (2 * above)


def numbering(video: Video) -> Callable[[int], int]:
    """From a time to the number of the frame that is nearest."""
    start, (above, below) = video.start_pts, _frames_per_unit(video)
    return lambda time: (2 * (time - start) * above + below) // (2 * below)


def _collect(
    frames: Iterable[tuple[int, av.VideoFrame]],
    wanted: Collection[int],
    video: Video,
    convert: Callable[..., T],
) -> dict[int, T]:
    found, last = {}, max(wanted)
    for number, frame in frames:
        if number in wanted:
            found[number] = convert(frame, **_shown(video))
        if number >= last:
            break
    return found


def _shown(video: Video) -> dict[str, int]:
    """How its frames are displayed, whatever size the stream gives them."""
    return {"width": video.width, "height": video.height, "rotation": video.rotation}


class _Deadline:
    def __init__(self, video: Video, seconds: float):
        self.video, self.seconds, self.end = video, seconds, time.monotonic() + seconds

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """The items, or BadVideo once the time is over."""
        for item in items:
            if time.monotonic() > self.end:
                what = f"decoding took more than {self.seconds:g} s"
                cure = "re-encode it with more key frames, or raise data.decode_timeout_seconds"
                raise BadVideo("E-TIMEOUT", what, self.video.path, cure)
            yield item


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
