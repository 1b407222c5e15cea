"""Tensors of all ranks as one; the only place where model code knows that there are others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Ranks that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """[B, ...] of every rank -> [world * B, ...] in rank order, without gradient.

    B must be the same on all ranks. The tensor itself, detached, in a single process.
    """
    if world_size() == 1:
        return tensor.detach()
    gathered = tensor.new_empty((world_size() * tensor.shape[0], *tensor.shape[1:]))
    dist.all_gather_into_tensor(gathered, tensor.contiguous())
    return gathered
