"""Swapped prediction in plain torch, tile by tile, and the eager form it is measured by."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# N rows, P prototypes, D dimensions, M views to predict

# 256 x 3000 logits are 3 MB of float32, which stay in the last cache between the operations.
TILE_ROWS = 256


@torch.no_grad()
def swapped_prediction(
    z: Tensor, prototypes: Tensor, assignment: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [], and of each row what `gradient` needs; assignment [N, P].

    peak [N]: the largest logit, to base 2 as all here. share [N]: sum_p q_ip over the sum of
    exp2(l_ip - peak_i), so that w_i p_ip = share_i exp2(l_ip - peak_i). Both in one number, as
    log sum_p exp2 l_ip, would be rounded by eps / t, and the gradient with it.
    """
    loss, peak, share = [], [], []
    with torch.autocast(z.device.type, enabled=False):  # it would round the logits
        for rows, logit in _tiles(z, prototypes, temperature):
            q = assignment[rows].to(logit.dtype)
            peak.append(logit.amax(dim=1))
            logit.sub_(peak[-1][:, None])
            lead = (q * logit).sum(dim=1)  # of the assigned logits over the largest: not positive
            weight, mass = q.sum(dim=1), logit.exp2_().sum(dim=1)
            # The sum of two positive numbers: a small loss keeps digits that it lacks beside 1 / t.
            loss.append(weight * mass.log2() - lead)
            share.append(weight / mass)
    return math.log(2) * torch.cat(loss).mean(), torch.cat(peak), torch.cat(share)


@torch.no_grad()
def gradient(
    of_loss: Tensor,
    z: Tensor,
    prototypes: Tensor,
    assignment: Tensor,
    peak: Tensor,
    share: Tensor,
    temperature: float,
    *,
    by_z: bool,
) -> Tensor:
    """d loss / d z [N, D], or d loss / d prototypes [P, D], of what `swapped_prediction` gave."""
    result = torch.zeros_like(z if by_z else prototypes, dtype=peak.dtype)
    with torch.autocast(z.device.type, enabled=False):
        for rows, logit in _tiles(z, prototypes, temperature):
            pull = logit.sub_(peak[rows, None]).exp2_().mul_(share[rows, None])
            pull.sub_(assignment[rows])
            if by_z:
                torch.mm(pull, prototypes.to(pull.dtype), out=result[rows])
            else:
                result.addmm_(pull.T, z[rows].to(pull.dtype))
    result *= of_loss / (temperature * len(z))
    return result.to(z.dtype if by_z else prototypes.dtype)


def _tiles(z: Tensor, prototypes: Tensor, temperature: float) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the rows with their logits to base 2, in float32 at least."""
    wide = torch.promote_types(z.dtype, torch.float32)
    directions = prototypes.to(wide).T * (math.log2(math.e) / temperature)
    for first in range(0, len(z), TILE_ROWS):
        rows = slice(first, first + TILE_ROWS)
        yield rows, z[rows].to(wide) @ directions


def eager(z: Tensor, prototypes: Tensor, assignment: Tensor, temperature: float) -> Tensor:
    """The loss as it is usually written: logits, their softmax, and its product with each view.

    What the op is measured by, in speed, memory and precision; assignment [M, N, P].
    """
    losses = [
        -(q * F.log_softmax(z @ prototypes.T / temperature, dim=1)).sum(dim=1).mean()
        for q in assignment
    ]
    return sum(losses) / len(losses)
