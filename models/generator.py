"""The temporal dropout generator: which frames of a clip matter, for VideoMoCo to drop them.

Source: Pan et al., "VideoMoCo", CVPR 2021 (arXiv 2103.05905), section 3.2. The paper draws a
ConvLSTM; this is the network of the released code, with its table in `FrameScorer`.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# B clips, T frames, H height, W width; M = 3T channels, time stacked into them
STEM_PASSES = 3
POOL_PASSES = 3
DILATIONS = (6, 12, 18)
STEM_MINIMUM = 3  # pixels; below, a 3x3 kernel of dilation 2 with padding 1 finds no place
LSTM_UNITS = 64  # per direction


def _map_size(height: int, width: int) -> tuple[int, int]:
    """The map in front of the LSTM; 13 x 13 for 112 x 112 pixels."""
    for _ in range(STEM_PASSES):
        if min(height, width) >= STEM_MINIMUM:
            height, width = height - 1, width - 1
    for _ in range(POOL_PASSES):
        height, width = max(1, height // 2), max(1, width // 2)
    return height, width


def _conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: five views of a map, [B, M, H, W] -> [B, M, H, W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.clip_mean = nn.Conv2d(channels, channels, 1)
        self.point = nn.Conv2d(channels, channels, 1)
        self.dilated = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in DILATIONS
        )
        self.merge = nn.Conv2d((2 + len(DILATIONS)) * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Bilinear upsampling of a single pixel is a copy of it.
        mean = self.clip_mean(x.mean(dim=(2, 3), keepdim=True)).expand_as(x)
        return self.merge(torch.cat([mean, self.point(x), *(c(x) for c in self.dilated)], dim=1))


class FrameScorer(nn.Module):
    """clip [B, 3, T, H, W] -> scores [B, T], positive, with sum 1 over the frames.

        stem, 3 times the same weights   [B, 3T, 112, 112] -> [B, 3T, 109, 109]
        pyramid                          [B, 3T, 109, 109] -> [B, 3T, 109, 109]
        reduce                           -> [B, T, 109, 109]
        3 x (conv twice, halve), the same conv for all six -> [B, T, 13, 13]
        LSTM over T tokens of 13 x 13 = 169, both directions -> [B, T, 128], last token kept
        linear, softmax                  -> [B, T]

    Sizes are those of 32 frames of 112 pixels; the LSTM's width follows from `size`. Maps too
    small to shrink pass unchanged (a stem pass needs 3 pixels, halving needs 2), so the LSTM
    always has 1 x 1 at least. Raises ValueError for a clip of another length or size.
    """

    def __init__(self, *, frames: int, size: tuple[int, int]):
        super().__init__()
        self.frames, self.size = frames, size
        channels = 3 * frames
        self.stem = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, dilation=2, bias=False),
            nn.BatchNorm2d(channels, eps=1e-3),
            nn.ReLU(inplace=True),
        )
        self.pyramid = _Pyramid(channels)
        self.reduce = _conv_norm_relu(channels, frames)
        self.refine = _conv_norm_relu(frames, frames)
        self.lstm = nn.LSTM(
            prod(_map_size(*size)), LSTM_UNITS, batch_first=True, bidirectional=True
        )
        self.score = nn.Linear(2 * LSTM_UNITS, frames)

    def forward(self, clip: Tensor) -> Tensor:
        if clip.shape[2:] != (self.frames, *self.size):
            raise ValueError(
                f"generator: a clip of {list(clip.shape[2:])} (frames, height, width) meets a "
                f"generator built for {[self.frames, *self.size]}; build the method with these"
            )
        x = clip.flatten(1, 2)  # [B, 3T, H, W], channel c * T + t
        for _ in range(STEM_PASSES):
            x = self._stem(x)
        x = self.reduce(self.pyramid(x))
        for _ in range(POOL_PASSES):
            x = self.refine(self.refine(x))
            x = F.avg_pool2d(x, [min(2, side) for side in x.shape[2:]])
        tokens, _ = self.lstm(x.flatten(2))  # [B, T, 128]
        return self.score(tokens[:, -1]).softmax(dim=1)

    def _stem(self, x: Tensor) -> Tensor:
        """One pass of the shared stem, -1 pixel: the convolution takes 2, the pooling adds 1."""
        if min(x.shape[2:]) < STEM_MINIMUM:
            return x
        return F.max_pool2d(self.stem(x), 2, stride=1, padding=1)
