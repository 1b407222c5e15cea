"""What stands between a backbone's feature and the space that the loss compares in."""

from __future__ import annotations

from collections.abc import Mapping

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


def batch_norm_head(in_dim: int, dim: int, *, hidden_layers: int, hidden_dim: int) -> nn.Module:
    """feature [B, in_dim] -> embedding [B, dim], not normalised.

    `hidden_layers` times linear, batch norm and ReLU, then linear; CVRL (arXiv 2008.03800).
    """
    layers: list[nn.Module] = []
    for _ in range(hidden_layers):
        # A bias would be subtracted with the batch's mean. CVRL's code keeps 0.997 of the running
        # statistics a step, which torch counts from the other end; its epsilon is torch's.
        norm = nn.BatchNorm1d(hidden_dim, momentum=1 - 0.997)
        layers += [nn.Linear(in_dim, hidden_dim, bias=False), norm, nn.ReLU(inplace=True)]
        in_dim = hidden_dim
    return nn.Sequential(*layers, nn.Linear(in_dim, dim))


def unit(embedding: Tensor) -> Tensor:
    """[..., dim] to unit length, in float32 at least: bfloat16 has 8 bits for a direction."""
    wide = torch.promote_types(embedding.dtype, torch.float32)
    return F.normalize(embedding.to(wide), dim=-1)


def load_head(head: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies a head that was trained elsewhere, its tensors named as in `projection_head`.

    Raises ValueError, and copies nothing, where another tensor or shape is needed.
    """
    own, given = (
        {name: list(tensor.shape) for name, tensor in tensors.items()}
        for tensors in (head.state_dict(), state)
    )
    if own != given:
        raise ValueError(
            f"the file's head is {_listed(given)}, the method's {_listed(own)}; set "
            "backbone.name, method.mlp and method.dim as it was trained, or start without it"
        )
    head.load_state_dict(state)


def _listed(shapes: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "empty"
