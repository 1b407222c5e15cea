"""InfoNCE in plain torch: one pass over the queue, and the eager form it is measured by."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

# B queries, P positives of each, K queued keys, D dimensions

# 256 x 8192 similarities are 8 MB of float32, near enough to stay in the last cache. Tiles a
# quarter of that are 8 % faster on two idle cores, but torch joins its threads after every
# operation, and where other processes use the cores too, fewer joins were up to five times faster.
TILE_QUERIES, TILE_KEYS = 256, 8192


@torch.no_grad()
def info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float,
    weight: Tensor | None = None,
    query_id: Tensor | None = None,
    queue_id: Tensor | None = None,
    age: Tensor | None = None,
    decay: float = 1.0,
    shift: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss [], its gradient by query [B, D], pull [B, P]); d loss / d key_ip = -pull_ip query_i.

    Arguments as of `models.ops.info_nce`, key [B, P, D]. shift: subtract each query's largest
    similarity before the exponential. Without it, exp(similarity) must be a float32.

    With N_i the mean of w_j Q_j under the softmax of the negatives alone, and r_ip the share of
    all negatives in the softmax of positive p and the negatives,

        d loss / d q_i  = sum_p r_ip (N_i - k_ip) / (t B P)        pull_ip = r_ip / (t B P)

    so the positives join after the pass, which is attention with the keys as values.
    """
    wide = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(wide), key.to(wide)
    # Autocast would round the similarities to 8 bits of mantissa.
    with torch.autocast(query.device.type, enabled=False):
        keys = _weighted_keys(queue, wide, weight, age, decay)
        log_mass, mean = _attend(query, keys, len(queue), temperature, query_id, queue_id, shift)
        return _join_positives(query, key, log_mass, mean, temperature)


def _weighted_keys(
    queue: Tensor, wide: torch.dtype, weight: Tensor | None, age: Tensor | None, decay: float
) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the queue in `wide`, times the weight: w (q . Q) = q . (w Q)."""
    for part in _slices(len(queue), TILE_KEYS):
        keys = queue[part].to(wide)
        if weight is not None:
            keys = keys * weight[part, None]
        if age is not None:
            # As exp(age log t): float32 has t itself to 3e-8, which age 65,536 makes 2e-3.
            keys = keys * torch.exp(age[part].to(wide) * math.log(decay))[:, None]
        yield part, keys


def _attend(
    query: Tensor,
    weighted_keys: Iterator[tuple[slice, Tensor]],
    slots: int,
    temperature: float,
    query_id: Tensor | None,
    queue_id: Tensor | None,
    shift: bool,
) -> tuple[Tensor, Tensor]:
    """log sum_j exp(l_ij), [B], and sum_j softmax(l_i)_j w_j Q_j, [B, D]; -inf and 0 of no key."""
    logit_query = query * (math.log2(math.e) / temperature)  # exp2 is torch's faster exponential
    peak = query.new_full((len(query),), -torch.inf if shift else 0.0)  # log2
    mass = torch.zeros_like(peak)  # sum_j exp2(l_ij - peak_i)
    total = torch.zeros_like(query)  # sum_j exp2(l_ij - peak_i) w_j Q_j
    tile = query.new_empty(min(len(query), TILE_QUERIES) * min(slots, TILE_KEYS))
    if query_id is not None:
        query_id = query_id.where(query_id >= 0, -2)  # "none" is -1 on both sides, and no match
    for part, keys in weighted_keys:
        for rows in _slices(len(query), TILE_QUERIES):
            batch = logit_query[rows]
            p = tile[: len(batch) * len(keys)].view(len(batch), len(keys))
            torch.mm(batch, keys.T, out=p)
            if query_id is not None:
                p.masked_fill_(query_id[rows, None] == queue_id[part], -torch.inf)
            if shift:
                _shift(p, peak[rows], mass[rows], total[rows])
            p.exp2_()
            mass[rows] += p.sum(dim=1)
            total[rows].addmm_(p, keys)
    log_mass = (peak + mass.log2()) * math.log(2)
    return log_mass, total / mass.where(mass > 0, 1)[:, None]


def _shift(logit: Tensor, peak: Tensor, mass: Tensor, total: Tensor) -> None:
    """Raises `peak` to the largest logit of each row so far and subtracts it, in place."""
    largest = torch.maximum(peak, logit.amax(dim=1))
    # A row whose keys are all left out keeps -inf, and -inf - -inf is no number.
    base = largest.masked_fill(largest == -torch.inf, 0)
    rescale = torch.exp2(peak - base)
    logit.sub_(base[:, None])
    mass.mul_(rescale)
    total.mul_(rescale[:, None])
    peak.copy_(largest)


def _join_positives(
    query: Tensor, key: Tensor, log_mass: Tensor, mean: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    positive = (key @ query[:, :, None]).squeeze(2) / temperature  # [B, P]
    lead = log_mass[:, None] - positive  # of the negatives over the positive
    loss = torch.logaddexp(lead, lead.new_zeros(())).mean()
    pull = torch.sigmoid(lead) / (temperature * lead.numel())
    gradient = pull.sum(dim=1, keepdim=True) * mean - (pull[:, None] @ key).squeeze(1)
    return loss, gradient, pull


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, count, size))


def among_candidates(query: Tensor, key: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """The loss against negatives of each query's own, [B, C, D]: the [B, C] logits are small."""
    wide = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        direction = query.to(wide)[:, :, None] / temperature
        positive = (key.to(wide) @ direction).squeeze(2)  # [B, P]
        negative = (candidates.detach().to(wide) @ direction).squeeze(2)  # [B, C]
        lead = torch.logsumexp(negative, dim=1, keepdim=True) - positive
        return torch.logaddexp(lead, lead.new_zeros(())).mean()


def eager(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float,
    weight: Tensor | None = None,
    query_id: Tensor | None = None,
    queue_id: Tensor | None = None,
) -> Tensor:
    """The loss as it is usually written: [B, 1 + K] logits, divided, and a cross-entropy.

    What the others are measured by, in speed, memory and precision; key [B, D].
    """
    if weight is not None:
        queue = queue * weight[:, None]
    positive = (query * key).sum(dim=1, keepdim=True)
    negative = query @ queue.T
    if query_id is not None:
        same_video = (query_id[:, None] == queue_id) & (queue_id != -1)
        negative = negative.masked_fill(same_video, -torch.inf)
    logits = torch.cat([positive, negative], dim=1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.int64))
