"""Optimisers and schedules. The learning rate is a closed form of the step, so it cannot drift."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from models.ops import larc_, lars_, total_norm


@dataclass
class OptimConfig:
    name: Literal["sgd", "adamw", "lars", "larc"] = "sgd"
    lr: float = 0.005  # peak, for the whole (global) batch
    scale_lr: bool = False  # multiply lr by global batch / 256
    momentum: float = 0.9  # of sgd, lars and larc
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])  # of adamw
    weight_decay: float = 1e-4
    # Decay tensors of one dimension as well. lars: decays them, and never scales their updates.
    decay_norm_and_bias: bool = True
    schedule: Literal["step", "cosine", "constant"] = "step"
    milestones: list[float] = field(default_factory=lambda: [120.0, 160.0])  # epochs of the stage
    gamma: float = 0.1  # factor at each milestone
    warmup_epochs: float = 0.0  # linear, from warmup_from x lr to lr
    warmup_from: float = 0.0
    final: float = 0.0  # cosine ends at final x lr
    schedule_epochs: float = 0.0  # where the cosine ends; 0: with the stage, which may be shorter
    lars_trust: float = 0.001  # of lars and larc


def check(config: OptimConfig) -> None:
    """Raise ValueError naming the field when a value makes no sense."""
    if config.lr <= 0:
        raise ValueError(f"optim.lr: expected above 0, got {config.lr}")
    if not config.schedule_epochs >= 0:
        raise ValueError(f"optim.schedule_epochs: expected 0 or more, got {config.schedule_epochs}")
    if config.schedule_epochs and config.schedule != "cosine":
        raise ValueError(
            f"optim.schedule_epochs: a schedule of {config.schedule} has no length; take cosine or "
            "leave it 0"
        )
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
    span = max((config.schedule_epochs or epochs) - config.warmup_epochs, 1e-12)
    done = min(1.0, (epoch - config.warmup_epochs) / span)
    return peak * (config.final + (1 - config.final) * 0.5 * (1 + math.cos(math.pi * done)))


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Optimiser of all trainable parameters; one-dimensional ones (norm, bias) grouped apart.

    `fused` is one launch for all tensors of a group, and takes a learning rate on the device.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    kernels = [p for p in trainable if p.ndim > 1]
    rest = [p for p in trainable if p.ndim <= 1]
    rest_decay = config.weight_decay if config.decay_norm_and_bias else 0.0
    groups = [
        {"params": kernels, "weight_decay": config.weight_decay},
        {"params": rest, "weight_decay": rest_decay},
    ]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=tuple(config.betas), fused=True)
    if config.name in LAYERWISE:
        kind = LAYERWISE[config.name]
        return kind(groups, lr=config.lr, momentum=config.momentum, trust=config.lars_trust)
    sgd = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
    if config.momentum:
        # Fused, all tensors of a group need a velocity or none does; but some may rest at first.
        for p in trainable:
            sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return sgd


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Learning rate of the next step, also where it is on the device."""
    shared = optimizer.param_groups[0]["lr"]
    if isinstance(shared, Tensor):
        shared.fill_(lr)
        return
    for group in optimizer.param_groups:
        group["lr"] = lr


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Readies the optimiser for a CUDA graph, which would repeat its learning rate for ever.

    The rate as it is goes into one tensor on the device for all groups, and `set_lr` fills that.
    """
    lr = torch.full((), optimizer.param_groups[0]["lr"], device=device)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "capturable" in group:
            group["capturable"] = True


def load_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Continue from `state`, with the options that this optimiser was built with.

    The file's were those of its device. Raises ValueError or KeyError where the tensors do not fit.
    """
    own = optimizer.state_dict()["param_groups"]
    groups = [
        {**ours, "params": theirs["params"]}
        for ours, theirs in zip(own, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """L2 norm over all gradients, a scalar that stays on the device."""
    return total_norm(
        [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    )


class LARC(torch.optim.Optimizer):
    """SGD whose rate adapts to each tensor: w <- w - lr v, with v of `models.ops.larc_`.

    Tensors of one dimension are scaled as well.
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
            for p in weights:
                if not self.state[p]:
                    self.state[p]["velocity"] = torch.zeros_like(p)
            velocities = [self.state[p]["velocity"] for p in weights]
            options = {name: group[name] for name in ("momentum", "weight_decay", "trust")}
            self._accelerate(velocities, weights, [p.grad for p in weights], **options)
            # Not alpha=-lr: that would read a learning rate on the device back to the host.
            torch._foreach_sub_(weights, torch._foreach_mul(velocities, group["lr"]))

    def _accelerate(
        self,
        velocities: list[Tensor],
        weights: list[Tensor],
        gradients: list[Tensor],
        **options: float,
    ) -> None:
        larc_(velocities, weights, gradients, **options)


class LARS(LARC):
    """Layer-wise adaptive rate scaling: the same with v of `models.ops.lars_`.

    Tensors of one dimension are not scaled: v <- momentum v + g + weight_decay w, where the
    weight_decay of their group may be 0.
    """

    def _accelerate(
        self,
        velocities: list[Tensor],
        weights: list[Tensor],
        gradients: list[Tensor],
        **options: float,
    ) -> None:
        if weights[0].ndim > 1:
            lars_(velocities, weights, gradients, **options)
            return
        torch._foreach_mul_(velocities, options["momentum"])
        torch._foreach_add_(velocities, gradients)
        if options["weight_decay"]:
            torch._foreach_add_(velocities, weights, alpha=options["weight_decay"])


LAYERWISE = {"lars": LARS, "larc": LARC}
