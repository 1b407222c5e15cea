"""What a step does after its gradients: the momentum twin and the queue, in place."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from models import build_backbone
from models.ops import ema_
from models.queue import FeatureQueue
from tools.benchmark.moco_style import Queue, momentum_loop
from tools.benchmark.ops.problem import EAGER, OURS, Problem, in_words

DIM = 128
MOMENTUM = 0.999


def enqueue_problem(batch: int, slots: int, *, device: str, dtype: torch.dtype) -> Problem:
    """Keys and their videos' numbers into the queue; each side also keeps the keys' ages."""
    generator = torch.Generator().manual_seed(batch)
    keys = F.normalize(torch.randn(batch, DIM, generator=generator), dim=1).to(device)
    ids = torch.arange(batch, device=device)
    ours = FeatureQueue(slots, DIM, dtype=dtype).to(device)
    theirs = Queue(ours.keys.clone(), ours.ids.clone())

    def run_ours() -> tuple[Tensor, Tensor]:
        ours.enqueue(keys, ids)
        return ours.keys, ours.ids

    def run_theirs() -> tuple[Tensor, Tensor]:
        theirs.enqueue(keys, ids)
        return theirs.keys, theirs.ids

    def exact() -> tuple[Tensor, Tensor]:
        after = ours.keys.clone(), ours.ids.clone()
        for ring, new in zip(after, (keys, ids), strict=True):
            ring[:batch] = new.to(ring.dtype)
        return after

    return Problem(
        op="enqueue",
        title=f"enqueue, B = {batch:,}, K = {slots:,}, D = {DIM}, {in_words(dtype)}",
        works={OURS: run_ours, EAGER: run_theirs},
        exact=exact,
    )


def ema_problem(backbone: str, width: int, *, device: str, dtype: torch.dtype) -> Problem:
    """The parameters of a backbone towards those of another."""
    source = [
        p.detach() for p in build_backbone(backbone, width=width).to(device, dtype).parameters()
    ]
    twins = {name: [p + 0.1 * torch.randn_like(p) for p in source] for name in (OURS,)}
    twins[EAGER] = [p.clone() for p in twins[OURS]]
    first = [p.clone() for p in twins[OURS]]

    def run_ours() -> tuple[Tensor, ...]:
        ema_(twins[OURS], source, MOMENTUM)
        return tuple(twins[OURS])

    def run_theirs() -> tuple[Tensor, ...]:
        momentum_loop(twins[EAGER], source, MOMENTUM)
        return tuple(twins[EAGER])

    def exact() -> tuple[Tensor, ...]:
        pairs = zip(first, source, strict=True)
        return tuple(MOMENTUM * a.double() + (1 - MOMENTUM) * b.double() for a, b in pairs)

    count = sum(p.numel() for p in source)
    return Problem(
        op="ema_",
        title=f"ema_, {backbone}, {len(source)} tensors, {count / 1e6:.1f} M, {in_words(dtype)}",
        works={OURS: run_ours, EAGER: run_theirs},
        exact=exact,
    )
