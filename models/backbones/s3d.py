"""S3D: Inception over clips, each 3x3x3 as 1x3x3 then 3x1x1.

Source: Xie et al., "Rethinking Spatiotemporal Feature Learning", ECCV 2018 (arXiv 1712.04851).
State-dict names and shapes are torchvision's, without its `classifier`. No self-gating (that is
S3D-G): torchvision's has none, and the S3D of CoCLR and ViCC runs without.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.backbones.initial import normal

# Channels of the four branches of every Inception block at width 64, in the paper's names:
# branch 0; branch 1 squeezed, out; branch 2 squeezed, out; branch 3.
MIXED_3B, MIXED_3C = (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)
MIXED_4B, MIXED_4C = (192, 96, 208, 16, 48, 64), (160, 112, 224, 24, 64, 64)
MIXED_4D, MIXED_4E = (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64)
MIXED_4F, MIXED_5B = (256, 160, 320, 32, 128, 128), (256, 160, 320, 32, 128, 128)
MIXED_5C = (384, 192, 384, 48, 128, 128)

STAGE_ENDS = (1, 4, 7, 13, 16)  # of `features`: after the stem, 2c, 3c, 4f and 5c
NORM_EPS = 1e-3  # torchvision's
LEAST_FRAMES, LEAST_SIDE = 5, 17  # the last pool, 2x2x2, needs two of each


class _Unit(nn.Sequential):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel=1, stride=1, padding=0):
        super().__init__(
            nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False),
            # eps is part of what the network computes, so it is that of torchvision's weights. The
            # momentum is not: theirs of 0.001 would need thousands of steps to follow.
            nn.BatchNorm3d(out_channels, eps=NORM_EPS),
            nn.ReLU(inplace=True),
        )


class _Separable(nn.Sequential):
    """Space, then time, each with its own batch norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, side: int, stride: int = 1):
        pad = side // 2
        super().__init__(
            _Unit(in_channels, out_channels, (1, side, side), (1, stride, stride), (0, pad, pad)),
            _Unit(out_channels, out_channels, (side, 1, 1), (stride, 1, 1), (pad, 0, 0)),
        )


class _Mixed(nn.Module):
    """Four branches side by side; [B, in, T, H, W] -> [B, out, T, H, W]."""

    def __init__(self, in_channels: int, channels: tuple[int, ...]):
        super().__init__()
        b0, b1_squeezed, b1, b2_squeezed, b2, b3 = channels
        self.branch0 = _Unit(in_channels, b0)
        self.branch1 = nn.Sequential(
            _Unit(in_channels, b1_squeezed), _Separable(b1_squeezed, b1, 3)
        )
        self.branch2 = nn.Sequential(
            _Unit(in_channels, b2_squeezed), _Separable(b2_squeezed, b2, 3)
        )
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, stride=1, padding=1), _Unit(in_channels, b3))
        self.out_channels = b0 + b1 + b2 + b3

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.branch0, self.branch1, self.branch2, self.branch3)
        return torch.cat([branch(x) for branch in branches], dim=1)


class S3D(nn.Module):
    """clip [B, 3, T, H, W] -> feature [B, 16 width], the mean over time and space.

    Raises ValueError for clips below 5 frames of 17 x 17 pixels, of which nothing would be left.
    """

    def __init__(self, *, width: int):
        super().__init__()
        in_channels = _scaled(192, width)
        layers: list[nn.Module] = [
            _Separable(3, width, 7, stride=2),
            _space_pool(),
            _Unit(width, width),
            _Separable(width, in_channels, 3),
            _space_pool(),
        ]
        for group, pool in (
            ((MIXED_3B, MIXED_3C), nn.MaxPool3d(3, stride=2, padding=1)),
            ((MIXED_4B, MIXED_4C, MIXED_4D, MIXED_4E, MIXED_4F), nn.MaxPool3d(2, stride=2)),
            ((MIXED_5B, MIXED_5C), None),
        ):
            for channels in group:
                layers.append(_Mixed(in_channels, tuple(_scaled(c, width) for c in channels)))
                in_channels = layers[-1].out_channels
            if pool is not None:
                layers.append(pool)
        self.features = nn.Sequential(*layers)
        self.feature_dim = in_channels
        # 0.01 in the code of CoCLR and ViCC. A narrower network adds up fewer terms: larger ones
        # keep what reaches a batch norm well above its eps.
        normal(self, deviation=0.01 * math.sqrt(64 / width))

    def stages(self, clip: Tensor) -> list[Tensor]:
        """Feature maps after the stem and after blocks 2c, 3c, 4f and 5c, before their pools."""
        _check(clip)
        maps = []
        for begin, end in zip((0, *STAGE_ENDS), STAGE_ENDS, strict=False):
            clip = self.features[begin:end](clip)
            maps.append(clip)
        return maps

    def forward(self, clip: Tensor) -> Tensor:
        _check(clip)
        return self.features(clip).mean(dim=(2, 3, 4))


def _scaled(channels: int, width: int) -> int:
    """Channels of the paper's network, times width / 64, to the nearest whole number (half: up)."""
    return (channels * width + 32) // 64


def _space_pool() -> nn.MaxPool3d:
    return nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))


def _check(clip: Tensor) -> None:
    frames, height, width = clip.shape[2:]
    if frames < LEAST_FRAMES or min(height, width) < LEAST_SIDE:
        raise ValueError(
            f"s3d: a clip of {frames} frames of {height} x {width} pixels is too small; take at "
            f"least {LEAST_FRAMES} frames (clip.frames) of {LEAST_SIDE} pixels (augment.size)"
        )


def s3d(*, width: int = 64) -> S3D:
    """7.9 M parameters at width 64, feature 1024; the stem halves time, as do two of the pools."""
    return S3D(width=width)
