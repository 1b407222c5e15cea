"""From luma to flow views: one operator and one encoding, for every clip of a loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.augment import AugmentConfig, Draw
from pipeline.flow.config import FlowConfig
from pipeline.flow.dis import check_size
from pipeline.flow.encoding import image_of, normalised, official_image
from pipeline.flow.operator import build_operator, choose_operator


class Luma(NamedTuple):
    """frames: [B, T+1, H, W] uint8, a view before its colours; draws: of each of its clips."""

    frames: Tensor
    draws: Sequence[Draw]


class FlowViews:
    """Makes the flow views of a batch from the luma of its clips, on their device.

    A clip's motion is that from each of its frames to the next, so over `clip.stride` frames of
    the video, and of the size and the sense that crop, scale and flip have given it. A video
    shorter than its clip is looped: from its last frame to its first the motion is whatever lies
    between the two, once in a turn.
    """

    def __init__(self, config: FlowConfig, augment: AugmentConfig, *, device: str, threads: int):
        """threads: of the CPU, for dis. Raises ValueError for an operator that cannot work here,
        for pictures too small for it, and where frames of a clip are cropped each for itself.
        """
        if not augment.consistent:
            raise ValueError(
                "augment.consistent: false crops every frame of a clip for itself, so what moves "
                "between them is the crop; set it to true where flow is used"
            )
        self.config, self.augment = config, augment
        self.operator, self.why = choose_operator(config.operator, device)
        if self.operator == "dis":
            check_size(augment.size, augment.size)
        self._compute = build_operator(self.operator, config, device=device, threads=threads)

    def __str__(self) -> str:
        official = ", official" if self.config.official else ""
        return f"{self.operator} ({self.why}), encoding {self.config.encoding}{official}"

    @property
    def made_with(self) -> dict[str, str]:
        """What a network that was trained on such flow has to be given again."""
        return {"operator": self.operator, "encoding": self.config.encoding}

    def __call__(self, lumas: Sequence[Luma]) -> tuple[Tensor, ...]:
        """Flow of each view: [B, 2, T, H, W] in pixels, or normalised images [B, 3, T, H, W]."""
        if not lumas:
            return ()
        together = self._compute(torch.cat([luma.frames for luma in lumas]))
        flows = together.split([len(luma.frames) for luma in lumas])
        return tuple(
            self._encoded(flow, luma.draws) for flow, luma in zip(flows, lumas, strict=True)
        )

    def _encoded(self, flow: Tensor, draws: Sequence[Draw]) -> Tensor:
        if self.config.encoding == "raw":
            return flow
        image = official_image(flow, draws) if self.config.official else image_of(flow)
        return normalised(image, self.augment.mean, self.augment.std)
