"""What one would take for flow instead: OpenCV, or plain torch pair by pair or compiled.

Each takes clips [B, T, H, W] uint8 and gives their flow [B, 2, T-1, H, W], as our operators do.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pipeline.flow.config import DisConfig, Tvl1Config
from pipeline.flow.tvl1 import (
    SMALLEST_GRADIENT,
    enlarged,
    gradients,
    plain_tvl1,
    pyramid,
    warped,
)

Pair = Callable[[np.ndarray, np.ndarray, None], np.ndarray]


def pair_by_pair(clip: Tensor, config: Tvl1Config) -> Tensor:
    """Our equations, in the loop that one writes first."""
    pairs = range(clip.shape[1] - 1)
    flows = [
        torch.cat([plain_tvl1(one[None, t : t + 2], config) for t in pairs], dim=2) for one in clip
    ]
    return torch.cat(flows)


# OpenCV is imported where it is called: all else can be compared without it.


def opencv_tvl1(clip: Tensor, config: Tvl1Config, *, threads: int) -> Tensor:
    """OpenCV's with our settings: that many iterations, and no median between them."""
    import cv2

    # A new object for each size: it forgets scales that a small picture did not have.
    finder = cv2.optflow.DualTVL1OpticalFlow_create()
    finder.setTau(config.time_step)
    finder.setLambda(config.attachment)
    finder.setTheta(config.tightness)
    finder.setScalesNumber(config.scales)
    finder.setScaleStep(config.scale_step)
    finder.setWarpingsNumber(config.warps)
    finder.setOuterIterations(config.iterations)
    finder.setInnerIterations(1)
    finder.setMedianFiltering(1)  # of one pixel: none
    finder.setEpsilon(0)
    return _every_pair(finder.calc, clip, threads)


def opencv_dis(clip: Tensor, config: DisConfig, *, threads: int) -> Tensor:
    import cv2

    preset = getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{config.preset.upper()}")
    return _every_pair(cv2.DISOpticalFlow_create(preset).calc, clip, threads)


def _every_pair(calc: Pair, clip: Tensor, threads: int) -> Tensor:
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(threads)
    try:
        flows = [
            [calc(first, second, None) for first, second in pairwise(one)] for one in clip.numpy()
        ]
    finally:
        cv2.setNumThreads(before)
    return torch.from_numpy(np.array(flows)).permute(0, 4, 1, 2, 3)


class Compiled:
    """All pairs at once through torch.compile: warps, and iterations one by one.

    An iteration is written anew without the reference's changes in place, for with those the
    compiled one is slower than the plain one. Compiled for one size of clips: a new object for each
    other.
    """

    def __init__(self, config: Tvl1Config, *, device: str):
        torch._dynamo.reset()  # after eight sizes it would give up, and run the plain form unsaid
        self.config = config
        # On a CPU a compilation for each of the scales would take a minute.
        dynamic = device == "cpu"
        self.warped = torch.compile(warped, dynamic=dynamic)
        self.iteration = torch.compile(_iteration, dynamic=dynamic)

    def __call__(self, clip: Tensor) -> Tensor:
        b, t, _, _ = clip.shape
        flow = None
        for frames in reversed(pyramid(clip, self.config)):
            h, w = frames.shape[-2:]
            still, moved = (part.flatten(0, 1) for part in (frames[:, :-1], frames[:, 1:]))
            moved = torch.stack([moved, *gradients(moved)]).permute(0, 2, 3, 1).contiguous()
            if flow is None:
                flow = torch.zeros_like(moved[:2])
            else:
                flow = enlarged(flow.permute(3, 0, 1, 2), h, w).permute(1, 2, 3, 0).contiguous()
            flow = self._at_scale(flow, moved, still.permute(1, 2, 0).contiguous())
        return flow.permute(3, 0, 1, 2).unflatten(0, (b, t - 1)).transpose(1, 2)

    def _at_scale(self, flow: Tensor, moved: Tensor, still: Tensor) -> Tensor:
        dual_x, dual_y = torch.zeros_like(flow), torch.zeros_like(flow)
        theta, step = self.config.tightness, self.config.time_step / self.config.tightness
        for _ in range(self.config.warps):
            second, gradient = self.warped(moved, flow).split([1, 2])
            constant = second[0] - still - (gradient * flow).sum(dim=0)
            inverse = -1 / gradient.square().sum(dim=0).clamp(min=SMALLEST_GRADIENT)
            terms = gradient, constant, inverse, self.config.attachment * theta, theta, step
            for _ in range(self.config.iterations):
                flow, dual_x, dual_y = self.iteration(flow, dual_x, dual_y, *terms)
        return flow


def _iteration(
    flow: Tensor,
    dual_x: Tensor,
    dual_y: Tensor,
    gradient: Tensor,
    constant: Tensor,
    inverse: Tensor,
    threshold: float,
    theta: float,
    step: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One primal and one dual step; all [2, h, w, P], constant and inverse [h, w, P]."""
    data = ((constant + (gradient * flow).sum(dim=0)) * inverse).clamp(-threshold, threshold)
    left, above = torch.zeros_like(dual_x[:, :, :1]), torch.zeros_like(dual_y[:, :1])
    divergence = dual_x.diff(dim=2, prepend=left) + dual_y.diff(dim=1, prepend=above)
    flow = flow + data * gradient + theta * divergence
    by_x = flow.diff(dim=2, append=flow[:, :, -1:])
    by_y = flow.diff(dim=1, append=flow[:, -1:])
    length = 1 + step * (by_x.square() + by_y.square()).sqrt()
    return flow, (dual_x + step * by_x) / length, (dual_y + step * by_y) / length
