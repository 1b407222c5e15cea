"""Residual networks in torchvision's layout (conv1, bn1, layer1 .. layer4), over frames or clips.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385),
table 1; the stride of a bottleneck is in its 3x3 convolution, as in torchvision's weights.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

# (in_channels, out_channels, side in pixels, time in frames, spatial stride) -> convolution
ConvBuilder = Callable[[int, int, int, int, int], nn.Module]


def conv_2d(in_channels: int, out_channels: int, side: int, time: int, stride: int) -> nn.Module:
    """Sees one frame."""
    assert time == 1, "a picture has no time"
    return nn.Conv2d(in_channels, out_channels, side, stride, padding=side // 2, bias=False)


def conv_3d(in_channels: int, out_channels: int, side: int, time: int, stride: int) -> nn.Module:
    """Sees `time` frames and keeps their number."""
    return nn.Conv3d(
        in_channels,
        out_channels,
        (time, side, side),
        stride=(1, stride, stride),
        padding=(time // 2, side // 2, side // 2),
        bias=False,
    )


NORMS = {conv_2d: nn.BatchNorm2d, conv_3d: nn.BatchNorm3d}


class _Block(nn.Module):
    """A residual branch and a shortcut, which is projected where the shape changes."""

    expansion: int
    downsample: nn.Module | None

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.branch(x) + shortcut)


class Basic(_Block):
    """3x3, 3x3."""

    expansion = 1

    def __init__(self, conv: ConvBuilder, in_channels: int, channels: int, stride: int, time: int):
        super().__init__()
        self.conv1 = conv(in_channels, channels, 3, time, stride)
        self.bn1 = NORMS[conv](channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(channels, channels, 3, time, 1)
        self.bn2 = NORMS[conv](channels)
        self.downsample = _projection(conv, in_channels, channels, stride)

    def branch(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))


class Bottleneck(_Block):
    """1x1 to a quarter of the channels, over `time` frames; 3x3; 1x1 back."""

    expansion = 4

    def __init__(self, conv: ConvBuilder, in_channels: int, channels: int, stride: int, time: int):
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = conv(in_channels, channels, 1, time, 1)
        self.bn1 = NORMS[conv](channels)
        self.conv2 = conv(channels, channels, 3, 1, stride)
        self.bn2 = NORMS[conv](channels)
        self.conv3 = conv(channels, out_channels, 1, 1, 1)
        self.bn3 = NORMS[conv](out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(conv, in_channels, out_channels, stride)

    def branch(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


def _projection(
    conv: ConvBuilder, in_channels: int, out_channels: int, stride: int
) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv(in_channels, out_channels, 1, 1, stride), NORMS[conv](out_channels))


class ResNet(nn.Module):
    """Stem, pool and four stages, without a classifier; subclasses say how clips go through.

    depths: blocks of each stage. times: frames that the first convolution of its blocks sees.
    """

    def __init__(
        self,
        conv: ConvBuilder,
        block: type[Basic | Bottleneck],
        depths: tuple[int, ...],
        times: tuple[int, ...],
        *,
        width: int,
        stem: nn.Module,
        pool: nn.Module,
    ):
        super().__init__()
        self.conv1 = stem
        self.bn1 = NORMS[conv](width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = pool
        in_channels = width
        for number, (depth, time) in enumerate(zip(depths, times, strict=True), start=1):
            channels = width * 2 ** (number - 1)
            blocks = []
            for place in range(depth):
                stride = 2 if number > 1 and place == 0 else 1
                blocks.append(block(conv, in_channels, channels, stride, time))
                in_channels = channels * block.expansion
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.feature_dim = in_channels

    def maps(self, x: Tensor) -> list[Tensor]:
        """Feature maps after the stem, before its pool, and after each of the four stages."""
        maps = [self.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(maps[0])
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps
