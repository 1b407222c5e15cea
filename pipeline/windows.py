"""Parts of a manifest that a loader reads as one: some of its videos, or clips as their own rows.

A video may have any number of windows, and each fails, decodes and is counted by itself; a loader
cannot tell a window from a short video. `owner` says whose window it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.clip import ClipConfig, random_start, span, uniform_plan
from pipeline.manifest import Manifest, Video
from pipeline.order import draws

CLIP = 0  # stream of order.draws, as that of a training sample's clip


class OfManifest:
    """What a loader asks of a manifest besides its videos."""

    manifest: Manifest

    @property
    def path(self) -> Path:
        return self.manifest.path

    @property
    def codecs(self) -> set[str]:
        return self.manifest.codecs

    @property
    def rotated(self) -> bool:
        return self.manifest.rotated

    def last_ranges(self) -> dict[Path, tuple[int, int]]:
        """See `Manifest.last_ranges`."""
        return self.manifest.last_ranges()


class Rows(OfManifest):
    """Some videos of a manifest, by their rows, as a sequence that a loader takes for one."""

    def __init__(self, manifest: Manifest, rows: np.ndarray):
        self.manifest, self.rows = manifest, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Video:
        return self.manifest[self.rows[index]]


class Windows(OfManifest):
    """A manifest cut into windows, as a sequence of videos that a loader takes for a manifest.

    starts: of each video the first frames of its windows, `frames` long each; in a video that is
    shorter than a window, all of it is one. owner, start_frame: [n] int64, of every window the
    video's row and the window's first frame in the video.
    """

    def __init__(self, manifest: Manifest, starts: Sequence[np.ndarray], *, frames: int):
        self.manifest, self.frames = manifest, frames
        self.owner = np.repeat(np.arange(len(manifest)), [len(own) for own in starts])
        self.start_frame = np.concatenate(starts).astype(np.int64)

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, index: int) -> Video:
        video, start = self.manifest[self.owner[index]], int(self.start_frame[index])
        frames = min(self.frames, video.frames - start)
        return replace(video, first_frame=video.first_frame + start, frames=frames)


def uniform(manifest: Manifest, clip: ClipConfig, clips: int) -> Windows:
    """`clips` windows of every video, spread evenly end to end, as `uniform_plan` has them."""
    plans = (uniform_plan(frames, clip, clips) for frames in manifest.frames.tolist())
    return Windows(manifest, [plan.starts for plan in plans], frames=_length(clip))


def sliding(manifest: Manifest, clip: ClipConfig, step: int) -> Windows:
    """Windows that start every `step` frames as long as they fit; at least one of every video."""
    last = np.maximum(manifest.frames - _length(clip), 0)
    return Windows(manifest, [np.arange(0, end + 1, step) for end in last], frames=_length(clip))


def one_random(manifest: Manifest, clip: ClipConfig, seed: int) -> Windows:
    """One window of every video, uniform over all that fit: a pure function of seed and row."""
    starts = [
        np.array([random_start(frames, clip, draws(seed, 0, row, stream=CLIP))])
        for row, frames in enumerate(manifest.frames.tolist())
    ]
    return Windows(manifest, starts, frames=_length(clip))


def _length(clip: ClipConfig) -> int:
    return span(clip.frames, clip.stride)
