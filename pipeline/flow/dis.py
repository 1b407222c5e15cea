"""DIS optical flow by OpenCV: the operator for machines without a GPU.

Source: Kroeger et al., ECCV 2016 (arXiv 1603.03590).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import local

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.flow.config import DisConfig

# OpenCV 5.0 chooses the scales of a smaller picture by its width alone. If it is wider than high,
# a patch of 8 pixels then does not fit the coarsest: numbers without meaning, or a crash.
SMALLEST_SIDE = 32


class Dis:
    """Flow of clips on the CPU, each pair by one of `threads` threads."""

    def __init__(self, config: DisConfig, *, threads: int = 1):
        self._preset = getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{config.preset.upper()}")
        self._own = local()  # of each thread: what OpenCV has to compute with
        self._pool = ThreadPoolExecutor(threads, "dis") if threads > 1 else None
        cv2.setNumThreads(1)  # its own threads would share one pair, which is too little for two

    def __call__(self, clip: Tensor) -> Tensor:
        """Flow [B, 2, T-1, H, W] of a clip [B, T, H, W]. Raises ValueError for small pictures."""
        b, t, h, w = clip.shape
        check_size(h, w)
        frames = np.ascontiguousarray(clip.numpy())
        flow = np.empty((b, 2, t - 1, h, w), dtype=np.float32)

        def compute(pair: tuple[int, int]) -> None:
            n, k = pair
            found = self._finder().calc(frames[n, k], frames[n, k + 1], None)  # [H, W, 2]
            flow[n, 0, k], flow[n, 1, k] = found[..., 0], found[..., 1]

        pairs = [(n, k) for n in range(b) for k in range(t - 1)]
        for _ in (self._pool.map if self._pool else map)(compute, pairs):
            pass
        return torch.from_numpy(flow)

    def _finder(self) -> cv2.DISOpticalFlow:
        if not hasattr(self._own, "finder"):
            self._own.finder = cv2.DISOpticalFlow_create(self._preset)
        return self._own.finder


def check_size(height: int, width: int) -> None:
    """Raise ValueError for pictures that are too small."""
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"flow.operator: dis needs pictures of {SMALLEST_SIDE}×{SMALLEST_SIDE} pixels, "
            f"got {width}×{height}; use tvl1, or enlarge augment.size"
        )
