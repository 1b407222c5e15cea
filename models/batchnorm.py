"""Batch normalisation that does not tell a query which key is its own.

A query and its key that are normalised with the same statistics can be matched by them, without
looking at the video (He et al., arXiv 1911.05722, section 3.3, "Shuffling BN"). Cures: statistics
of parts of the batch with different partners for query and key (here, one device), keys computed
on another rank (the loader's exchange), or statistics of all ranks (SyncBN).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class SplitBatchNorm(_BatchNorm):
    """Batch norm over consecutive blocks of B / groups samples, each with its own statistics.

    Takes over the parameters and buffers of a BatchNorm1d, 2d or 3d. The running statistics follow
    the mean of the blocks'; in eval mode it is that batch norm. Raises ValueError for a training
    batch that `groups` does not divide.
    """

    def __init__(self, norm: _BatchNorm, groups: int):
        nn.Module.__init__(self)
        self.num_features, self.eps, self.momentum = norm.num_features, norm.eps, norm.momentum
        self.affine, self.track_running_stats = norm.affine, norm.track_running_stats
        self.weight, self.bias = norm.weight, norm.bias
        self.register_buffer("running_mean", norm.running_mean)
        self.register_buffer("running_var", norm.running_var)
        self.register_buffer("num_batches_tracked", norm.num_batches_tracked)
        self.training = norm.training
        self.groups = groups

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, groups={self.groups}"

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # any [B, C, ...]; the batch norm it replaces fitted its place

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        check_divides(self.groups, batch=input.shape[0])
        mean = self.running_mean.repeat(self.groups, 1)  # [groups, C]
        var = self.running_var.repeat(self.groups, 1)
        # Consecutive samples are a view in either memory format; samples n % groups would cost
        # a copy in channels_last (measured: 52 ms against 25 ms, forward and backward).
        blocks = [
            F.batch_norm(
                block, mean[g], var[g], self.weight, self.bias, True, self.momentum, self.eps
            )
            for g, block in enumerate(input.chunk(self.groups))
        ]
        with torch.no_grad():
            self.running_mean.copy_(mean.mean(0))
            self.running_var.copy_(var.mean(0))
            self.num_batches_tracked += 1
        return torch.cat(blocks)


def check_divides(groups: int, *, batch: int) -> None:
    """Raises ValueError where a batch cannot be split into equal groups."""
    if batch % groups:
        raise ValueError(
            f"split batch norm: a batch of {batch} clips per process does not split into {groups} "
            f"groups; make the batch a multiple of {groups} or lower method.split_groups"
        )


def split_batch_norm(module: nn.Module, groups: int) -> nn.Module:
    """Converts every batch norm inside `module`, in place; state-dict names stay. groups=1 leaves
    the module as it is. Returns the module, or its replacement where it is itself a batch norm.
    """
    if groups == 1:
        return module
    if isinstance(module, _BatchNorm):
        return SplitBatchNorm(module, groups)
    for name, child in module.named_children():
        module.add_module(name, split_batch_norm(child, groups))
    return module


def sync_batch_norm(module: nn.Module) -> nn.Module:
    """Converts every batch norm to statistics over all ranks; plain in a single process."""
    return nn.SyncBatchNorm.convert_sync_batchnorm(module)


def check_sync(key: str, world: int, device: str, *, instead: str) -> None:
    """Raises ValueError, naming the recipe's key, on the CPUs of several ranks: torch has none."""
    if world > 1 and device == "cpu":
        raise ValueError(f"{key}: torch has no SyncBatchNorm on a CPU; take {instead}")


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Buffers of the batch norms that each rank fills from its own samples, by state-dict name.

    They change no step in which the module trains, only what it does in eval mode.
    """
    return {
        f"{name}.{buffer}".removeprefix("."): tensor
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm)
        for buffer, tensor in layer.named_buffers(recurse=False)
    }


def mean_statistics(ranks: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One set of running statistics from those of all ranks, as SplitBatchNorm has one from its
    blocks: a moving average is linear, so this is the average over the samples of all.
    """

    def mean(name: str) -> Tensor:
        tensors = [rank[name] for rank in ranks]
        return torch.stack(tensors).mean(0) if tensors[0].is_floating_point() else tensors[0]

    return {name: mean(name) for name in ranks[0]}


def exchange_partners(batch: int, groups: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """An order of the batch in which no two samples of one block share a block again.

    Returns (order, inverse), both [batch] int64: `x[order]` is the new batch and `y[inverse]`
    undoes it. Sample i of block g goes to block (g + i) % groups, a Latin square: block-mates
    part for certain while a block has no more samples than there are groups; beyond, a 1/groups
    share meets again, as under a random shuffle.
    """
    per_block = batch // groups
    sample = torch.arange(batch, device=device)
    block, place = sample // per_block, sample % per_block
    inverse = (block + place) % groups * per_block + place  # where each sample goes
    order = (block - place) % groups * per_block + place  # which sample stands here
    return order, inverse
