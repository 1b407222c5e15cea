"""Which frames make a clip: pure functions of the number of frames and a random generator.

A plan lists the unique frames to decode, sorted, and for every view the rows of that list it uses,
so two views of one clip decode once. A video shorter than the clip is looped: frame n of the
clip is frame n modulo the video's length.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass
class ClipConfig:
    frames: int = 16  # frames in a clip
    stride: int = 1  # distance of two neighbouring frames of a clip, in frames of the video
    # same: all views show one clip (VideoMoCo); random: each view is its own random clip
    sampling: Literal["same", "random"] = "same"


@dataclass(frozen=True)
class ClipPlan:
    """frames: [U] sorted unique frame numbers to decode; views: for each view [T] rows of it."""

    frames: np.ndarray
    views: tuple[np.ndarray, ...] = field(default_factory=tuple)

    @staticmethod
    def of(clips: list[np.ndarray]) -> ClipPlan:
        """Plan for views that show the given frame numbers, each [T]."""
        frames, rows = np.unique(np.concatenate(clips), return_inverse=True)
        ends = np.cumsum([len(clip) for clip in clips])[:-1]
        return ClipPlan(frames, tuple(np.split(rows.astype(np.int32), ends)))


def span(frames: int, stride: int) -> int:
    """Frames of the video from the first to the last frame of a clip, both included."""
    return (frames - 1) * stride + 1


def clip_at(start: int, config: ClipConfig, video_frames: int) -> np.ndarray:
    """Frame numbers [T] of the clip that starts at `start`, looped at the video's end."""
    return (start + np.arange(config.frames) * config.stride) % video_frames


def random_clip(video_frames: int, config: ClipConfig, rng: np.random.Generator) -> np.ndarray:
    """Frame numbers [T] of a clip whose start is uniform over all that fit."""
    starts = max(1, video_frames - span(config.frames, config.stride) + 1)
    return clip_at(int(rng.integers(starts)), config, video_frames)


def training_plan(
    video_frames: int, config: ClipConfig, views: int, rng: np.random.Generator
) -> ClipPlan:
    """Plan for the `views` views of one training sample."""
    if config.sampling == "same":
        return ClipPlan.of([random_clip(video_frames, config, rng)] * views)
    return ClipPlan.of([random_clip(video_frames, config, rng) for _ in range(views)])


def uniform_plan(video_frames: int, config: ClipConfig, clips: int) -> ClipPlan:
    """Plan for evaluation: `clips` clips, one a view, their starts spread evenly end to end.

    A single clip is the central one.
    """
    last = max(0, video_frames - span(config.frames, config.stride))
    starts = [last / 2] if clips == 1 else np.linspace(0, last, clips)
    return ClipPlan.of([clip_at(int(start), config, video_frames) for start in starts])


def check(config: ClipConfig) -> None:
    """Raise ValueError naming the field when a value makes no clip."""
    for name in ("frames", "stride"):
        if getattr(config, name) < 1:
            raise ValueError(f"clip.{name}: expected at least 1, got {getattr(config, name)}")
