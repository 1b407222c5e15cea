"""Sinkhorn-Knopp in plain torch: its three sweeps, and the eager form they are measured by."""

from __future__ import annotations

import torch
from torch import Tensor

# N rows of scores, P prototypes

# 256 x 3000 scores are 3 MB of float32, which stay in the last cache between the operations.
TILE_ROWS = 256


def masses(scores: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Of every prototype log sum_i exp(s_ip / epsilon) as level + log mass; both [P], mass >= 1."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    peak = scores.amax(dim=0).to(wide)
    mass = torch.zeros_like(peak)
    for part in scores.split(TILE_ROWS):
        mass += ((part.to(wide) - peak) / epsilon).exp_().sum(dim=0)
    return peak / epsilon, mass


def rebalance(scores: Tensor, level: Tensor, mass: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(level + log mass, what each prototype gets of the rows when they have this divided out)."""
    level = level + mass.log()
    mass = torch.zeros_like(level)
    for part in scores.split(TILE_ROWS):
        mass += _shares(part, level, epsilon).sum(dim=0)
    return level, mass


def assign(scores: Tensor, level: Tensor, mass: Tensor, epsilon: float) -> Tensor:
    """The rows with level + log mass divided out; [N, P], each sums to 1."""
    return _shares(scores, level + mass.log(), epsilon)


def _shares(scores: Tensor, log_mass: Tensor, epsilon: float) -> Tensor:
    return torch.softmax(scores.to(log_mass.dtype) / epsilon - log_mass, dim=1)


def eager(
    scores: Tensor, *, epsilon: float, iterations: int, queue_scores: Tensor | None = None
) -> Tensor:
    """The assignment as it is usually written: a matrix [P, N] divided by its sums in turn.

    What the op is measured by, in speed, memory and precision; of one process. Prototypes whose
    exponentials all underflow make it NaN.
    """
    rows = scores if queue_scores is None else torch.cat([queue_scores, scores])
    q = torch.exp((rows - rows.max()) / epsilon).T
    q = q / q.sum()
    prototypes, count = q.shape
    for _ in range(iterations):
        q = q / q.sum(dim=1, keepdim=True) / prototypes
        q = q / q.sum(dim=0, keepdim=True) / count
    return (q * count).T[-len(scores) :]
