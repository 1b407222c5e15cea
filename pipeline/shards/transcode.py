"""Any readable video -> the bytes of a video made for random access.

A random clip costs what lies between its first frame and the key frame before it, so the presets
set key frames at a fixed short distance. Scene cuts get none of their own: an encoder counts its
distance on from them, and where key frames stand would no longer follow from a frame's number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.container import ByteRange, Tally, decode_linear, open_video, video_stream
from pipeline.decode import WITHOUT_INDEX, SeekNotTrusted, from_key_frame
from pipeline.errors import BadVideo
from pipeline.limits import DEFAULT_LIMITS
from pipeline.manifest import Video
from pipeline.probe import check_file
from pipeline.shards.encoded import Encoded, MemoryFile, described
from pipeline.shards.normalise import REENCODE, Normaliser, Target, at_constant_rate, output_size
from pipeline.shards.remux import remux

AGAIN = "download it again, or index again"
LONGEST_SIDE_PIXELS = 8192
MOST_REPEATS = 16  # output frames per source frame, on average over the video
# The encoder's threads are one: more would change its bytes, and workers are the parallelism.
X264 = {"preset": "veryfast", "tune": "fastdecode", "crf": "23", "bf": "0", "a53cc": "0"}
# At 456x256: 2.3 s for 10 s of video where "veryfast" takes 3.6; NVDEC decodes both at one speed.
X265 = {"preset": "ultrafast", "crf": "23"}
# info: the encoder's settings as text, which name the processor's features.
X265_PARAMS = "bframes=0:open-gop=0:pools=none:frame-threads=1:info=0:log-level=none"


@dataclass(frozen=True, slots=True)
class Preset:
    """How videos are written. short_side: pixels, 0: as it is. gop: frames between key frames.

    encoder: FFmpeg's name; empty: the packets are copied. options: the encoder's.
    """

    name: str
    encoder: str = ""
    short_side: int = 0
    gop: int = 0
    options: Mapping[str, str] = field(default_factory=dict)
    tag: str = ""

    @property
    def jpeg(self) -> bool:
        return self.encoder == "mjpeg"


def _h264(name: str, short_side: int, gop: int) -> Preset:
    fixed = f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0"
    return Preset(name, "libx264", short_side, gop, {**X264, "x264-params": fixed}, "avc1")


def _hevc(name: str, short_side: int, gop: int) -> Preset:
    fixed = f"keyint={gop}:min-keyint={gop}:scenecut=0:{X265_PARAMS}"
    return Preset(name, "libx265", short_side, gop, {**X265, "x265-params": fixed}, "hvc1")


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        _h264("fast", 256, 12),
        _h264("small", 128, 12),
        _hevc("nvdec", 256, 16),
        Preset("mjpeg", "mjpeg", 256, 1, {"qmin": "4", "qmax": "4"}),
        Preset("copy"),
    )
}


def transcode(
    video: Video, preset: Preset, *, first_frame: int | None = None, frames: int | None = None
) -> Encoded:
    """`video` written anew by `preset`, as it will stand in a shard.

    first_frame, frames: the part to take, in decoded frames of the file; None: the row's own.
    Re-encoded videos are MP4 with the index in front: upright, square pixels, 8-bit 4:2:0, one
    frame every 1/fps seconds from zero on, no sound; equal arguments give equal bytes on every run.
    A video of constant rate keeps its frames one for one, one of variable rate is resampled by
    `at_constant_rate`. `copy` keeps the very frames, and all that is odd about them.

    Raises BadVideo for a file that is missing, cut, damaged beyond the prober's limit, or cannot be
    converted.
    """
    first = video.first_frame if first_frame is None else first_frame
    count = video.frames if frames is None else frames
    check_file(video.path)
    _check_length(video)
    try:
        if not preset.encoder:
            return remux(video, first, count)
        return _reencode(video, preset, first, count)
    except BadVideo:
        raise
    except OSError as error:
        cure = "restore it, or index again"
        raise BadVideo("E-MISSING", _reason(error), video.path, cure) from error
    except Exception as error:  # PyAV raises IndexError, MemoryError and others on damage, too
        raise BadVideo("E-CORRUPT", _reason(error), video.path, "re-encode or remove it") from error


def _check_length(video: Video) -> None:
    with ByteRange(video.path, video.offset, video.size) as file:
        if file.size < video.size:
            what = f"{file.size} of {video.size} bytes are there"
            raise BadVideo("E-TRUNCATED", what, video.path, AGAIN)


def _reencode(video: Video, preset: Preset, first: int, count: int) -> Encoded:
    by_seek = not video.vfr and video.fps > 0 and first > video.keyframe_distance_frames
    try:
        data = _encode(_Source(video, first, count, by_seek), preset)
    except SeekNotTrusted:
        data = _encode(_Source(video, first, count, by_seek=False), preset)
    return described(data, "mp4")


@dataclass
class _Source:
    """Frames [first, first + count) of a video, and what was met on the way to them."""

    video: Video
    first: int
    count: int
    by_seek: bool
    seen: int = 0
    flagged: int = 0
    tally: Tally = field(default_factory=Tally)

    def frames(self, container: InputContainer) -> Iterator[VideoFrame]:
        """Raises BadVideo after the last frame if too many are missing or damaged."""
        if self.by_seek and container.format.name not in WITHOUT_INDEX:
            numbered = self._from_near(container)
        else:
            numbered = decode_linear(container, self.tally)
        for n, frame in numbered:
            if n >= self.first:
                self.seen += 1
                self.flagged += frame.is_corrupt
                yield frame
            if n + 1 >= self.first + self.count:
                break
        self._check()

    def _from_near(self, container: InputContainer) -> Iterator[tuple[int, VideoFrame]]:
        """Raises SeekNotTrusted where the key frame is shown after the first frame, too."""
        numbered = from_key_frame(container, self.video, self.first)
        for start, frame in numbered:
            if start > self.first:
                raise SeekNotTrusted
            yield start, frame
            yield from numbered

    def _check(self) -> None:
        path, missing = self.video.path, self.count - self.seen
        if not self.seen:
            raise BadVideo("E-NOFRAMES", "no frame can be decoded", path, AGAIN)
        if missing and (self.tally.cut or missing > self.tally.errors):
            what = f"{self.seen} of {self.count} frames"
            raise BadVideo("E-TRUNCATED", what, path, AGAIN)
        damaged = self.flagged + missing
        if damaged > DEFAULT_LIMITS.max_damaged_fraction * self.count:
            raise BadVideo("E-CORRUPT", f"{damaged}/{self.count} frames damaged", path, AGAIN)


def _encode(source: _Source, preset: Preset) -> bytes:
    """The MP4 file that shows the frames of `source`."""
    video = source.video
    with open_video(video.path, video.offset, video.size) as container:
        stream = video_stream(container)
        frames = source.frames(container)
        shown = _shown(frames, video, Fraction(stream.time_base))
        head = next(frames_head := iter(shown), None)
        size = _size(stream, video, preset)
        target = Target.of(head[0], size, jpeg=preset.jpeg)
        normaliser = Normaliser(target, rotation=video.rotation, path=video.path)
        return _written(
            _normalised(itertools.chain([head], frames_head), normaliser, source),
            video.fps,
            target,
            preset,
        )


def _shown(
    frames: Iterable[VideoFrame], video: Video, time_base: Fraction
) -> Iterator[tuple[VideoFrame, int]]:
    if not video.vfr:
        return ((frame, 1) for frame in frames)
    return at_constant_rate(frames, fps=video.fps, time_base=time_base)


def _normalised(shown, normaliser: Normaliser, source: _Source) -> Iterator[VideoFrame]:
    repeats, total = [], 0
    for frame, times in shown:
        total += times
        if total > MOST_REPEATS * source.count:
            what = f"at {source.video.fps} fps its times give over {total - 1} frames"
            raise BadVideo("E-FORMAT", what, source.video.path, REENCODE)
        repeats.append(times)
        for ready in normaliser.push(frame):
            yield from itertools.repeat(ready, repeats.pop(0))
    for ready in normaliser.flush():
        yield from itertools.repeat(ready, repeats.pop(0))


def _size(stream: VideoStream, video: Video, preset: Preset) -> tuple[int, int]:
    aspect = Fraction(stream.sample_aspect_ratio or 1) or Fraction(1)
    if video.rotation % 180:
        aspect = 1 / aspect
    size = output_size(video.width, video.height, pixel_aspect=aspect, short_side=preset.short_side)
    if max(size) > LONGEST_SIDE_PIXELS:
        what = f"is {size[0]}x{size[1]} in square pixels ({aspect} as stored)"
        raise BadVideo("E-TOOBIG", what, video.path, "scale it down")
    return size


def _written(frames: Iterable[VideoFrame], fps: Fraction, target: Target, preset: Preset) -> bytes:
    file = MemoryFile()
    with file.open("mp4") as container:
        options = {**preset.options, "threads": "1", "flags": "+bitexact"}
        stream: Any = container.add_stream(preset.encoder, rate=fps, options=options)
        context = stream.codec_context
        context.width, context.height = target.width, target.height
        context.pix_fmt = target.pixel_format
        context.sample_aspect_ratio = Fraction(1)
        context.colorspace, context.color_range = target.matrix, target.range
        context.color_primaries, context.color_trc = target.primaries, target.transfer
        if preset.tag:
            context.codec_tag = preset.tag
        for n, frame in enumerate(frames):
            frame.pts, frame.time_base = n, 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
