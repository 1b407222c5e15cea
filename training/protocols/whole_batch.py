"""Layers that treat the batch of all processes as a single process would treat it.

A classifier's training is shared by torchrun's processes, and its result is to be that of one:
batch statistics are those of the whole batch, and dropout drops the same values of every sample.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.batchnorm import sync_batch_norm
from models.gather import all_reduce, share, world_size


class WholeBatchNorm(_BatchNorm):
    """As nn.SyncBatchNorm, which torch has on no CPU.

    Takes over parameters and buffers of any batch norm with weight and bias. All processes have
    batches of one size and end with the same running statistics.
    """

    def __init__(self, norm: _BatchNorm):
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.training = norm.training

    def _check_input_dim(self, x: Tensor) -> None:
        pass  # any [B, C, ...]; the batch norm it replaces fitted its place

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        dims, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        wide = x.float()
        number = world_size() * x.numel() // x.shape[1]
        mean = _SumOverRanks.apply(wide.sum(dims)) / number
        centred = wide - mean.view(shape)
        var = _SumOverRanks.apply(centred.square().sum(dims)) / number
        self._follow(mean.detach(), var.detach() * number / (number - 1))
        scale = self.weight * (var + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor) -> None:
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)
        self.num_batches_tracked += 1


class WholeBatchDropout(nn.Module):
    """Dropout of [B, ...] whose mask is drawn for the samples of all processes.

    The processes have to seed torch's generator alike.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        drawn = torch.rand(world_size() * len(x), *x.shape[1:], device=x.device)
        return x * (share(drawn) >= self.p) / (1 - self.p)


def over_whole_batches(module: nn.Module, device: torch.device) -> nn.Module:
    """Replaces every batch norm inside `module`, in place; parameters and state-dict names stay.

    Those of blocks of the batch go, too: nothing has to be hidden from a classifier.
    """
    if device.type != "cpu":
        return sync_batch_norm(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                parent.add_module(name, WholeBatchNorm(child))
    return module


class _SumOverRanks(torch.autograd.Function):
    """The sum over all ranks. Each rank's loss depends on it, so that gradients are summed, too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return all_reduce(x.clone())

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return all_reduce(grad.contiguous().clone())
