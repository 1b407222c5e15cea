"""R3D-50, 101 and 152: the slow pathway of SlowFast as CVRL trains it.

Source: Qian et al., "Spatiotemporal Contrastive Video Representation Learning", CVPR 2021
(arXiv 2008.03800), table 1, after Feichtenhofer et al. (arXiv 1812.03982): stem 5x7x7 that halves
time, temporal kernels of 3 in the last two stages only, no other temporal stride. The papers' 2x
and 4x networks are `width` 128 and 256. torchvision has no such network; names follow its ResNet.

The published code pads as TensorFlow does, by one pixel less at the top and left of strided
convolutions; this one pads evenly.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.backbones.initial import variance_scaling
from models.backbones.residual import Bottleneck, ResNet, conv_3d


class Slow(ResNet):
    """clip [B, 3, T, H, W] -> feature [B, 32 width], the mean over time and space."""

    def __init__(self, depths: tuple[int, ...], *, width: int):
        stem = nn.Conv3d(3, width, (5, 7, 7), stride=(2, 2, 2), padding=(2, 3, 3), bias=False)
        pool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        times = (1, 1, 3, 3)
        super().__init__(conv_3d, Bottleneck, depths, times, width=width, stem=stem, pool=pool)
        variance_scaling(self)

    def stages(self, clip: Tensor) -> list[Tensor]:
        """Feature maps after the stem, before its pool, and after each of the four stages."""
        return self.maps(clip)

    def forward(self, clip: Tensor) -> Tensor:
        return self.maps(clip)[-1].mean(dim=(2, 3, 4))


def slow_r50(*, width: int = 64) -> Slow:
    """Bottlenecks 3, 4, 6, 3; 31.7 M parameters at width 64, feature 2048."""
    return Slow((3, 4, 6, 3), width=width)


def slow_r101(*, width: int = 64) -> Slow:
    """Bottlenecks 3, 4, 23, 3; 59.6 M parameters at width 64, feature 2048."""
    return Slow((3, 4, 23, 3), width=width)


def slow_r152(*, width: int = 64) -> Slow:
    """Bottlenecks 3, 8, 36, 3; 82.0 M parameters at width 64, feature 2048."""
    return Slow((3, 8, 36, 3), width=width)
