"""Pictures of a video by frame number, on the CPU. Frame n is always the n-th of linear decoding.

A seek is only trusted where it can be checked. On a video of constant rate the presentation time
tells the frame number, so decoding may start at a key frame: pictures shown before that key frame
(open GOP) are thrown away, and the rest must follow one another without a gap. Where anything
does not fit, decoding starts at an earlier key frame, and at last from the beginning.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from pipeline.container import decode_linear, open_video, video_stream
from pipeline.errors import BadVideo
from pipeline.manifest import Video
from pipeline.probe import check_file

SEEK_ATTEMPTS = 3
# Frame.to_ndarray(format=...) sets up a new converter for every frame: 0.50 ms at 64 x 64 where
# this takes 0.09 (medians of 400 frames). One keeps its set-up while sizes and formats stay.
REFORMATTER = VideoReformatter()


class SeekNotTrusted(Exception):
    """What came after a seek cannot be told to be the right pictures."""


def decode_frames(video: Video, frames: np.ndarray, *, timeout_seconds: float) -> np.ndarray:
    """Pictures [U, H, W, 3] uint8 RGB of the sorted unique frame numbers `frames` [U], upright.

    Raises BadVideo when the file cannot be opened, has fewer frames, or takes too long.
    """
    clock = _Deadline(video, timeout_seconds)
    wanted = set(frames.tolist())
    check_file(video.path)
    try:
        found = _by_seek(video, sorted(wanted), clock) if _can_seek(video, wanted) else None
        if found is None:
            with open_video(video.path, offset=video.offset, size=video.size) as container:
                found = _collect(decode_linear(container), wanted, video, clock)
    except BadVideo:
        raise
    except OSError as error:
        raise BadVideo(
            "E-MISSING", _reason(error), video.path, "restore it, or index again"
        ) from error
    except Exception as error:  # PyAV raises IndexError, MemoryError and others on damage, too
        raise BadVideo("E-CORRUPT", _reason(error), video.path, "re-encode or remove it") from error
    if missing := wanted - found.keys():
        what = f"frame {min(missing)} of {video.frames} does not decode"
        raise BadVideo("E-TRUNCATED", what, video.path, "download it again, or index again")
    return np.stack([found[n] for n in frames.tolist()])


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


def _can_seek(video: Video, wanted: set[int]) -> bool:
    """Whether times tell frame numbers, and a seek could skip anything at all."""
    return not video.vfr and video.fps > 0 and min(wanted) > video.keyframe_distance_frames


def _by_seek(video: Video, wanted: list[int], clock: _Deadline) -> dict[int, np.ndarray] | None:
    """Pictures found by seeking, or None where no seek can be trusted."""
    found: dict[int, np.ndarray] = {}
    with open_video(video.path, offset=video.offset, size=video.size) as container:
        for run in _runs(wanted, video.keyframe_distance_frames):
            for attempt in range(SEEK_ATTEMPTS):
                # A first key frame that is shown too late: start one, then two GOPs earlier.
                start = max(0, run[0] - attempt * video.keyframe_distance_frames)
                try:
                    frames = _from_key_frame(container, video, start)
                    found |= _collect(frames, set(run), video, clock)
                    break
                except SeekNotTrusted:
                    continue
            else:
                return None
    return found if found.keys() >= set(wanted) else None


def _runs(wanted: list[int], reach: int) -> list[list[int]]:
    """Cuts the wanted frames where a new seek is cheaper than decoding on."""
    runs = [[wanted[0]]]
    for n in wanted[1:]:
        if n - runs[-1][-1] > reach:
            runs.append([])
        runs[-1].append(n)
    return runs


def _from_key_frame(container, video: Video, n: int) -> Iterator[tuple[int, av.VideoFrame]]:
    """(number, frame) from the last key frame at or before frame n on, without a gap.

    Raises SeekNotTrusted for a frame without a time, a damaged one, a gap, or a late start.
    """
    stream = video_stream(container)
    time_of_n = video.start_pts + round(n / (video.fps * video.time_base))
    container.seek(time_of_n, stream=stream, backward=True)
    key_time, expected = None, None
    for packet in container.demux(stream):
        if key_time is None:
            if packet.pts is None or not packet.is_keyframe:
                raise SeekNotTrusted
            key_time = packet.pts
        for frame in packet.decode():
            if frame.pts is None or frame.is_corrupt:
                raise SeekNotTrusted
            if frame.pts < key_time:
                continue
            number = round((frame.pts - video.start_pts) * video.time_base * video.fps)
            if number != (number if expected is None else expected) or (
                expected is None and number > n
            ):
                raise SeekNotTrusted
            expected = number + 1
            yield number, frame


def _collect(frames, wanted: set[int], video: Video, clock: _Deadline) -> dict[int, np.ndarray]:
    found, last = {}, max(wanted)
    for number, frame in frames:
        clock.check()
        if number in wanted:
            found[number] = _upright(frame, video)
        if number >= last:
            break
    return found


def _upright(frame: av.VideoFrame, video: Video) -> np.ndarray:
    """[H, W, 3] uint8 as displayed, in the size the manifest says (streams may change theirs)."""
    turned = video.rotation in (90, 270)
    width, height = (video.height, video.width) if turned else (video.width, video.height)
    rgb = REFORMATTER.reformat(frame, format="rgb24", width=width, height=height).to_ndarray()
    return np.rot90(rgb, k=-video.rotation // 90) if video.rotation else rgb


class _Deadline:
    def __init__(self, video: Video, seconds: float):
        self.video, self.seconds, self.end = video, seconds, time.monotonic() + seconds

    def check(self) -> None:
        if time.monotonic() > self.end:
            what = f"decoding took more than {self.seconds:g} s"
            cure = "re-encode it with more key frames, or raise data.decode_timeout_seconds"
            raise BadVideo("E-TIMEOUT", what, self.video.path, cure)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
