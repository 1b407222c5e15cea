"""ResNet-18 and ResNet-50 on single frames: what VCLR trains, and the baseline without time.

Source: He et al., CVPR 2016 (arXiv 1512.03385). State-dict names and shapes are torchvision's,
without its classifier `fc`, so that ImageNet and MoCo weights fit.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.backbones.initial import kaiming_fan_out
from models.backbones.residual import Basic, Bottleneck, ResNet, conv_2d

# B clips, T frames, D feature dimensions


class FrameResNet(ResNet):
    """A 2-D residual network that sees the frames of a clip one by one.

    clip [B, 3, T, H, W] -> feature [B, D], the mean over its frames; VCLR averages before its head,
    too. `frame_features` gives them one by one.
    """

    def __init__(self, block: type[Basic | Bottleneck], depths: tuple[int, ...], *, width: int):
        stem = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        pool = nn.MaxPool2d(3, stride=2, padding=1)
        super().__init__(conv_2d, block, depths, (1, 1, 1, 1), width=width, stem=stem, pool=pool)
        kaiming_fan_out(self)

    def stages(self, clip: Tensor) -> list[Tensor]:
        """Feature maps [B, C, T, h, w] after the stem and after each of the four stages."""
        batch = clip.shape[0]
        return [m.unflatten(0, (batch, -1)).transpose(1, 2) for m in self.maps(_frames(clip))]

    def frame_features(self, clip: Tensor) -> Tensor:
        """clip [B, 3, T, H, W] -> feature of every frame [B, T, D]."""
        feature = self.maps(_frames(clip))[-1].mean(dim=(2, 3))
        return feature.unflatten(0, (clip.shape[0], -1))

    def forward(self, clip: Tensor) -> Tensor:
        return self.frame_features(clip).mean(dim=1)


def _frames(clip: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> [B T, 3, H, W], the frames of a clip together; a view of channels_last."""
    return clip.transpose(1, 2).flatten(0, 1)


def resnet18(*, width: int = 64) -> FrameResNet:
    """Basic blocks 2, 2, 2, 2; 11.2 M parameters at width 64, feature 512."""
    return FrameResNet(Basic, (2, 2, 2, 2), width=width)


def resnet50(*, width: int = 64) -> FrameResNet:
    """Bottlenecks 3, 4, 6, 3; 23.5 M parameters at width 64, feature 2048."""
    return FrameResNet(Bottleneck, (3, 4, 6, 3), width=width)
