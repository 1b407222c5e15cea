"""Which frames make a clip: pure functions of the number of frames and a random generator.

A plan lists the unique frames to decode, sorted, and for every view the rows of that list it uses,
so two views of one clip decode once. A video shorter than the clip is looped: frame n of the
clip is frame n modulo the video's length.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from pipeline.interval import distance


@dataclass
class ClipConfig:
    frames: int = 16  # frames in a clip; for flow one more is decoded
    stride: int = 1  # distance of two neighbouring frames of a clip, in frames of the video
    # same: all views show one clip (VideoMoCo); random: each view is its own random clip;
    # interval: two clips some way apart (CVRL); segments: clips all along the video (VCLR)
    sampling: Literal["same", "random", "interval", "segments"] = "same"
    # of interval: is a pair likelier the closer it is, the farther apart, or neither
    interval: Literal["decreasing", "uniform", "increasing"] = "decreasing"
    interval_power: float = 1.0  # of interval: p of 1 - (k / M)^p; 1 is a line, large is uniform
    segments: int = 3  # of segments: equal parts of the video; S of them make 2 S + 1 views


@dataclass(frozen=True)
class ClipPlan:
    """frames: [U] sorted unique frame numbers to decode; views: for each view [T] rows of it."""

    frames: np.ndarray
    views: tuple[np.ndarray, ...] = field(default_factory=tuple)

    @staticmethod
    def of(clips: list[np.ndarray]) -> ClipPlan:
        """Plan for views that show the given frame numbers, each [T]."""
        # A few dozen numbers: sets take a third of the time that NumPy needs for them.
        numbers = [clip.tolist() for clip in clips]
        frames = sorted(set().union(*numbers))
        row = {n: place for place, n in enumerate(frames)}
        views = (np.array([row[n] for n in clip], dtype=np.int32) for clip in numbers)
        return ClipPlan(np.array(frames), tuple(views))

    @property
    def starts(self) -> np.ndarray:
        """[views] int64: the number of each view's first frame."""
        return np.array([self.frames[rows[0]] for rows in self.views], dtype=np.int64)


def span(frames: int, stride: int) -> int:
    """Frames of the video from the first to the last frame of a clip, both included."""
    return (frames - 1) * stride + 1


def clip_at(start: int, config: ClipConfig, video_frames: int) -> np.ndarray:
    """Frame numbers [T] of the clip that starts at `start`, looped at the video's end."""
    return (start + np.arange(config.frames) * config.stride) % video_frames


def with_next_frame(config: ClipConfig) -> ClipConfig:
    """The clip of one more frame: what flow from every frame of a clip to the next is made of.

    So even a clip of one frame has a flow.
    """
    return replace(config, frames=config.frames + 1)


def training_plan(
    video_frames: int, config: ClipConfig, views: int, rng: np.random.Generator
) -> ClipPlan:
    """Plan for the `views` views of one training sample, of a number that `check_views` accepts."""
    if config.sampling == "same":
        starts = [random_start(video_frames, config, rng)] * views
    elif config.sampling == "random":
        starts = [random_start(video_frames, config, rng) for _ in range(views)]
    elif config.sampling == "interval":
        starts = interval_starts(video_frames, config, rng)
    else:
        starts = segment_starts(video_frames, config, rng)
    return ClipPlan.of([clip_at(start, config, video_frames) for start in starts])


def random_start(video_frames: int, config: ClipConfig, rng: np.random.Generator) -> int:
    """A start, uniform over all from which the clip fits; 0 in a video that is too short."""
    return int(rng.integers(max(1, video_frames - span(config.frames, config.stride) + 1)))


def interval_starts(
    video_frames: int, config: ClipConfig, rng: np.random.Generator
) -> tuple[int, int]:
    """Starts of CVRL's two clips, a distance of `pipeline.interval` apart, in either order.

    The earlier one is uniform over the places that the distance leaves. In a video shorter than
    the clip both are uniform over all its frames, independently, and the clips loop.
    """
    places = video_frames - span(config.frames, config.stride) + 1
    if places < 1:
        first, second = rng.integers(video_frames, size=2)
        return int(first), int(second)
    apart = distance(rng.random(), places, shape=config.interval, power=config.interval_power)
    early = int(rng.integers(places - apart))
    late = early + apart
    return (early, late) if rng.random() < 0.5 else (late, early)


def segment_starts(video_frames: int, config: ClipConfig, rng: np.random.Generator) -> list[int]:
    """Starts of VCLR's 2 S + 1 views (arXiv 2108.02722): queries, keys, and one query again.

    Every segment gives a query and a key; views 0 .. S - 1 are the queries in time order, views
    S .. 2 S - 1 the keys. View 2 S shows the clip of query 0 or of query S - 1, by a fair coin.
    """
    length = span(config.frames, config.stride)
    parts = segments(video_frames, config.segments)
    query, key = zip(*(_two_starts(*part, length, rng) for part in parts), strict=True)
    return [*query, *key, query[0] if rng.random() < 0.5 else query[-1]]


def segments(video_frames: int, number: int) -> list[tuple[int, int]]:
    """[first, end) frames of each of `number` equal parts; the last one takes the remainder.

    In a video of fewer frames, where parts of no frame would result, part i of S is the one frame
    i F // S: in time order, some of them twice.
    """
    if video_frames < number:
        frames = [part * video_frames // number for part in range(number)]
        return [(frame, frame + 1) for frame in frames]
    length = video_frames // number
    return list(pairwise([*range(0, number * length, length), video_frames]))


def _two_starts(first: int, end: int, length: int, rng: np.random.Generator) -> tuple[int, int]:
    """Two distinct starts in the segment [first, end), in random order, for clips of `length`.

    Clips stay inside the segment where it has two places for them. In a shorter one they start at
    any of its frames and run on, at the video's end to its beginning; in one of a single frame,
    both start there.
    """
    inside = end - first - length + 1
    places = inside if inside > 1 else end - first
    one = int(rng.integers(places))
    other = (one + 1 + int(rng.integers(places - 1))) % places if places > 1 else one
    return first + one, first + other


def frames_of_segments(config: ClipConfig) -> int:
    """Least frames of a video whose every segment has two starts for clips that stay inside."""
    return config.segments * (span(config.frames, config.stride) + 1)


def uniform_plan(video_frames: int, config: ClipConfig, clips: int) -> ClipPlan:
    """Plan for evaluation: `clips` clips, one a view, their starts spread evenly end to end.

    A single clip is the central one.
    """
    last = max(0, video_frames - span(config.frames, config.stride))
    starts = [last / 2] if clips == 1 else np.linspace(0, last, clips)
    return ClipPlan.of([clip_at(int(start), config, video_frames) for start in starts])


def check(config: ClipConfig) -> None:
    """Raise ValueError naming the field when a value makes no clip."""
    for name in ("frames", "stride", "segments"):
        if getattr(config, name) < 1:
            raise ValueError(f"clip.{name}: expected at least 1, got {getattr(config, name)}")
    if not config.interval_power > 0:
        raise ValueError(f"clip.interval_power: expected above 0, got {config.interval_power}")


def check_views(config: ClipConfig, views: int) -> None:
    """Raise ValueError naming the field when the sampling does not make that number of views."""
    if config.sampling == "interval" and views != 2:
        raise ValueError(
            f"clip.sampling: interval makes 2 views, the method takes {views} · use random, or a "
            "method of two views"
        )
    made = 2 * config.segments + 1
    if config.sampling == "segments" and views != made:
        raise ValueError(
            f"clip.segments: {config.segments} make {made} views, 2 S + 1, the method takes "
            f"{views} · give clip.segments the number of method.segments, or use another "
            "clip.sampling"
        )
