"""Tensors of all ranks as one; the only place where model code knows that there are others."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Ranks that train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """[B, ...] of every rank -> [world * B, ...] in rank order, without gradient.

    B must be the same on all ranks. The tensor itself, detached, in a single process.
    """
    return tensor.detach() if world_size() == 1 else _gather(tensor)


# An op, because torch.compile cannot trace a collective that a backward pass makes.
@torch.library.custom_op("kinema::gather", mutates_args=())
def _gather(tensor: Tensor) -> Tensor:
    gathered = _room_for_all(tensor)
    dist.all_gather_into_tensor(gathered, tensor.contiguous())
    return gathered


@_gather.register_fake
def _room_for_all(tensor: Tensor) -> Tensor:
    return tensor.new_empty((world_size() * tensor.shape[0], *tensor.shape[1:]))


@torch.no_grad()
def from_next_rank(tensor: Tensor) -> Tensor:
    """The tensor of rank (r + 1) % world on every rank r, without gradient; shapes all the same.

    The tensor itself, detached, in a single process.
    """
    return tensor.detach() if world_size() == 1 else _from_next_rank(tensor)


# An op, so that it can be traced, and run on tensors without data.
@torch.library.custom_op("kinema::from_next_rank", mutates_args=())
def _from_next_rank(tensor: Tensor) -> Tensor:
    world, tensor = world_size(), tensor.contiguous()
    received = _room_for_one(tensor)
    both = [
        dist.P2POp(dist.isend, tensor, (rank() - 1) % world),
        dist.P2POp(dist.irecv, received, (rank() + 1) % world),
    ]
    for work in dist.batch_isend_irecv(both):
        work.wait()
    return received


@_from_next_rank.register_fake
def _room_for_one(tensor: Tensor) -> Tensor:
    return tensor.new_empty(tensor.shape)


@torch.no_grad()
def all_reduce(tensor: Tensor, by: Literal["sum", "max"] = "sum") -> Tensor:
    """The sum or the maximum over all ranks, in place and without gradient; returns the tensor."""
    if world_size() > 1:
        dist.all_reduce(tensor, op={"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX}[by])
    return tensor


def share(rows: Tensor) -> Tensor:
    """This rank's part of rows [R, ...] that all ranks hold alike: each row is in one part.

    Parts differ by a row where R is no multiple of the ranks, and are empty where it is below.
    """
    return rows.tensor_split(world_size())[rank()]
