"""R3D-18, MC3-18 and R(2+1)D-18: one residual family, three ways to convolve time.

Source: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR
2018 (arXiv 1711.11248), table 1. State-dict names and shapes are torchvision's, without its
classifier `fc`, so that weights travel in both directions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.backbones.initial import kaiming_fan_out

# B clips, C channels, T frames, H height, W width
# (in_channels, out_channels, mid_channels, stride) -> convolution of one half of a block
ConvBuilder = Callable[[int, int, int, int], nn.Module]


def _spacetime(in_channels: int, out_channels: int, mid_channels: int, stride: int) -> nn.Module:
    return nn.Conv3d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def _space_only(in_channels: int, out_channels: int, mid_channels: int, stride: int) -> nn.Module:
    return nn.Conv3d(
        in_channels,
        out_channels,
        (1, 3, 3),
        stride=(1, stride, stride),
        padding=(0, 1, 1),
        bias=False,
    )


def _space_then_time(
    in_channels: int, out_channels: int, mid_channels: int, stride: int
) -> nn.Module:
    return nn.Sequential(
        _space_only(in_channels, mid_channels, mid_channels, stride),
        nn.BatchNorm3d(mid_channels),
        nn.ReLU(inplace=True),
        nn.Conv3d(
            mid_channels,
            out_channels,
            (3, 1, 1),
            stride=(stride, 1, 1),
            padding=(1, 0, 0),
            bias=False,
        ),
    )


def mid_channels_of(in_channels: int, out_channels: int) -> int:
    """Channels between space and time such that (2+1)D has the parameters of a 3x3x3 convolution.

    27 i o / (9 i + 3 o), rounded down (section 3.5 of the paper with t = d = 3).
    """
    return 27 * in_channels * out_channels // (9 * in_channels + 3 * out_channels)


class _Block(nn.Module):
    """Two convolutions and a shortcut; [B, in, T, H, W] -> [B, out, T/s, H/s, W/s]."""

    def __init__(self, conv: ConvBuilder, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        # Both halves take the width computed from the block's input, as the released weights do;
        # the paper's formula would give the second half its own.
        mid_channels = mid_channels_of(in_channels, out_channels)
        self.conv1 = nn.Sequential(
            conv(in_channels, out_channels, mid_channels, stride),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            conv(out_channels, out_channels, mid_channels, 1),
            nn.BatchNorm3d(out_channels),
        )
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            time_stride = 1 if conv is _space_only else stride
            self.downsample = nn.Sequential(
                nn.Conv3d(
                    in_channels, out_channels, 1, stride=(time_stride, stride, stride), bias=False
                ),
                nn.BatchNorm3d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


def _stem_spacetime(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(3, width, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


def _stem_space_then_time(width: int) -> nn.Sequential:
    # 45 at width 64: 3*7*7*3*64 / (7*7*3 + 3*64) = 83 would match the parameters of 3x7x7; the
    # released networks have 45, so other widths keep that ratio.
    mid_channels = 45 * width // 64
    return nn.Sequential(
        nn.Conv3d(3, mid_channels, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
        nn.BatchNorm3d(mid_channels),
        nn.ReLU(inplace=True),
        nn.Conv3d(mid_channels, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(inplace=True),
    )


class ResNet3D(nn.Module):
    """Eighteen-layer video residual network without a classifier.

    clip [B, 3, T, H, W] -> feature [B, 8 width], the mean over time and space of the last stage.
    """

    feature_dim: int

    def __init__(self, stem: nn.Sequential, convs: tuple[ConvBuilder, ...], width: int):
        super().__init__()
        self.stem = stem
        in_channels = width
        for number, conv in enumerate(convs, start=1):
            out_channels = width * 2 ** (number - 1)
            stride = 1 if number == 1 else 2
            stage = nn.Sequential(
                _Block(conv, in_channels, out_channels, stride),
                _Block(conv, out_channels, out_channels, 1),
            )
            self.add_module(f"layer{number}", stage)
            in_channels = out_channels
        self.feature_dim = in_channels
        kaiming_fan_out(self)

    def stages(self, clip: Tensor) -> list[Tensor]:
        """Feature maps after the stem and after each of the four stages."""
        maps = [self.stem(clip)]
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps.append(stage(maps[-1]))
        return maps

    def forward(self, clip: Tensor) -> Tensor:
        x = self.stem(clip)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.mean(x, dim=(2, 3, 4))


def r3d_18(*, width: int = 64) -> ResNet3D:
    """3x3x3 convolutions throughout; 33.2 M parameters at width 64, feature 512."""
    return ResNet3D(_stem_spacetime(width), (_spacetime,) * 4, width)


def mc3_18(*, width: int = 64) -> ResNet3D:
    """Mixed convolutions: time only in the stem and stage 1, and never strided; 11.5 M."""
    return ResNet3D(_stem_spacetime(width), (_spacetime,) + (_space_only,) * 3, width)


def r2plus1d_18(*, width: int = 64) -> ResNet3D:
    """Each 3x3x3 as 1x3x3, BN, ReLU, 3x1x1; 31.3 M parameters at width 64, feature 512."""
    return ResNet3D(_stem_space_then_time(width), (_space_then_time,) * 4, width)
