"""What stands between a backbone's feature and the space that the loss compares in."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _output(in_dim: int, dim: int) -> nn.Linear:
    # N(0, 0.01) and no bias at start: torchvision's classifier, whose place the head takes.
    linear = nn.Linear(in_dim, dim)
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return linear


def projection_head(in_dim: int, dim: int, *, mlp: bool = False) -> nn.Module:
    """feature [B, in_dim] -> embedding [B, dim], not normalised.

    One linear map (MoCo v1, VideoMoCo), or with `mlp` linear, ReLU, linear with `in_dim` hidden
    units (MoCo v2, arXiv 2003.04297).
    """
    if not mlp:
        return _output(in_dim, dim)
    return nn.Sequential(nn.Linear(in_dim, in_dim), nn.ReLU(inplace=True), _output(in_dim, dim))


def unit(embedding: Tensor) -> Tensor:
    """Rows of [B, dim] to unit length, in float32 at least: bfloat16 has 8 bits for a direction."""
    wide = torch.promote_types(embedding.dtype, torch.float32)
    return F.normalize(embedding.to(wide), dim=1)
