"""Optimisers and schedules. The learning rate is a closed form of the step, so it cannot drift."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass
class OptimConfig:
    name: Literal["sgd", "adamw", "lars"] = "sgd"
    lr: float = 0.005  # peak, for the whole (global) batch
    scale_lr: bool = False  # multiply lr by global batch / 256
    momentum: float = 0.9  # of sgd and lars
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # of adamw
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True  # decay tensors of one dimension as well
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: list[float] = field(default_factory=lambda: [120.0, 160.0])  # epochs of the stage
    gamma: float = 0.1  # factor at each milestone
    warmup_epochs: float = 0.0  # linear, from warmup_from x lr to lr
    warmup_from: float = 0.0
    final: float = 0.0  # cosine ends at final x lr
    lars_trust: float = 0.001


def check(config: OptimConfig) -> None:
    """Raise ValueError naming the field when a value makes no sense."""
    if config.lr <= 0:
        raise ValueError(f"optim.lr: expected above 0, got {config.lr}")
    if len(config.betas) != 2 or not all(0 <= beta < 1 for beta in config.betas):
        raise ValueError(f"optim.betas: expected two numbers in [0, 1), got {config.betas}")


def peak_lr(config: OptimConfig, global_batch: int) -> float:
    """The effective learning rate: `lr`, times global batch / 256 where the recipe asks so."""
    return config.lr * global_batch / 256 if config.scale_lr else config.lr


def lr_at(epoch: float, config: OptimConfig, *, epochs: float, global_batch: int) -> float:
    """Learning rate at `epoch` (a fraction of the stage's epochs done) of `epochs`."""
    peak = peak_lr(config, global_batch)
    if epoch < config.warmup_epochs:
        done = epoch / config.warmup_epochs
        return peak * (config.warmup_from + (1 - config.warmup_from) * done)
    if config.schedule == "step":
        return peak * config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
    if config.schedule == "constant":
        return peak
    span = max(epochs - config.warmup_epochs, 1e-12)
    done = min(1.0, (epoch - config.warmup_epochs) / span)
    return peak * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * done)))


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Optimiser of all trainable parameters; one-dimensional ones (norm, bias) grouped apart."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    kernels = [p for p in trainable if p.ndim > 1]
    rest = [p for p in trainable if p.ndim <= 1]
    rest_decay = config.weight_decay if config.decay_norm_and_bias else 0.0
    groups = [
        {"params": kernels, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": rest_decay},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=tuple(config.betas), foreach=True)
    if config.name == "lars":
        return LARS(groups, lr=config.lr, momentum=config.momentum, trust=config.lars_trust)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, foreach=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """L2 norm over all gradients, a scalar that stays on the device."""
    gradients = [
        p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    return torch.nn.utils.get_total_norm(gradients, foreach=True)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888, algorithm 1).

    For tensors of more than one dimension: g <- (g + wd w) trust |w| / |g + wd w|. One-dimensional
    tensors are neither decayed nor scaled. Then v <- momentum v + g; w <- w - lr v.
    """

    def __init__(self, params, *, lr: float, momentum: float, trust: float):
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0}
        )

    @torch.no_grad()
    def step(self, closure=None) -> None:
        assert closure is None
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            updates = self._updates(weights, group)
            for p in weights:
                if not self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
            velocities = [self.state[p]["velocity"] for p in weights]
            torch._foreach_mul_(velocities, group["momentum"])
            torch._foreach_add_(velocities, updates)
            torch._foreach_add_(weights, velocities, alpha=-group["lr"])

    @staticmethod
    def _updates(weights: list[Tensor], group: dict) -> list[Tensor]:
        gradients = [p.grad for p in weights]
        if weights[0].ndim <= 1:
            return gradients
        decayed = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        lengths = zip(torch._foreach_norm(weights), torch._foreach_norm(decayed), strict=True)
        # A zero weight or gradient has no direction to adapt to: it keeps the plain rate.
        ratios = [
            torch.where((w > 0) & (g > 0), group["trust"] * w / g, torch.ones_like(w))
            for w, g in lengths
        ]
        return torch._foreach_mul(decayed, ratios)
