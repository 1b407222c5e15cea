"""What the host makes of decoded frames: all of a view on a CPU, its crop for a GPU.

A worker sends on what a view shows of a video and nothing else: of a clip from 456 x 256 to
112 x 112 a ninth of the bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.augment import WHOLE, Draw
from pipeline.buffers import Buffers
from pipeline.render import luma, mirrored, painted, placed
from pipeline.track import Track

# V views of T frames, S their side


@dataclass(frozen=True)
class HostViews:
    """Takes a track from decoded pictures to views, or as far as a graph wants them.

    whole: colours, blur and mirror, too; else the draw is left with all but its region.
    next_frame: clips have one frame more than views. lumas: views whose luma is kept, of whole
    views only, as a graph makes its own.
    """

    size: int
    whole: bool
    next_frame: bool = False
    lumas: tuple[int, ...] = ()

    def __call__(self, track: Track) -> Track:
        """pictures: [V x T, S, S, 3] uint8. lumas: [n, T + 1, S, S]."""
        clips = [
            placed([track.pictures[row] for row in rows], draw, self.size)
            for rows, draw in zip(track.rows, track.draws, strict=True)
        ]
        if not self.whole:
            pictures = np.concatenate(clips)
            rows = np.arange(len(pictures), dtype=np.int32).reshape(len(clips), -1)
            draws = tuple(replace(draw, roi=WHOLE) for draw in track.draws)
            return replace(track, pictures=pictures, rows=rows, draws=draws)
        lumas = [mirrored(luma(clips[view]), track.draws[view]) for view in self.lumas]
        track = replace(track, lumas=np.stack(lumas)) if lumas else track
        finished = [self._finished(*pair) for pair in zip(clips, track.draws, strict=True)]
        return replace(track, pictures=np.concatenate(finished))

    def _finished(self, clip: np.ndarray, draw: Draw) -> np.ndarray:
        return mirrored(painted(clip[:-1] if self.next_frame else clip, draw), draw)


class HostLane:
    """What `pipeline.graph.Lane` is on a GPU: whole views go in and come out normalised, which a
    thread of its own does.
    """

    def __init__(self, spec: HostViews, *, mean: Sequence[float], std: Sequence[float]):
        self.spec = spec
        self._mean, self._std = (255 * torch.tensor(v).view(3, 1, 1, 1) for v in (mean, std))
        self._buffers = Buffers()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="lane")
        self._runs: deque[Future] = deque()

    def submit(self, tracks: list[Track]) -> None:
        """Start on a run over `tracks`; returns at once."""
        self._runs.append(self._pool.submit(self._run, tracks))

    def collect(self) -> tuple[list[Tensor], list[Tensor]]:
        """Views [tracks, C, T, S, S] float32 and lumas [tracks, T + 1, S, S] of the oldest run."""
        return self._runs.popleft().result()

    def _run(self, tracks: list[Track]) -> tuple[list[Tensor], list[Tensor]]:
        frames, side, _, _ = tracks[0].pictures.shape
        number = len(tracks[0].draws)
        shape = (len(tracks), 3, frames // number, side, side)
        views = [self._buffers.take(shape) for _ in range(number)]
        for place, track in enumerate(tracks):
            planes = torch.from_numpy(track.pictures).permute(3, 0, 1, 2)
            for view, own in zip(views, planes.chunk(number, dim=1), strict=True):
                # A clip at a time stays in the cache: 36 ms for 64 of 16 x 112 x 112, together 48.
                view[place].copy_(own).sub_(self._mean).div_(self._std)
        if not self.spec.lumas:
            return views, []
        lumas = torch.from_numpy(np.stack([track.lumas for track in tracks], axis=1))
        return views, list(lumas)
