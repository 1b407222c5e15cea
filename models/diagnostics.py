"""Figures that show how a training does: detached scalars that stay on the device."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

# B queries, P positives of each, K queue slots, D dimensions

RIVALS = 1024  # queue slots that the figures compare with; all K would double the loss's work


@torch.no_grad()
def contrast_figures(query: Tensor, key: Tensor, queue: Tensor) -> dict[str, Tensor]:
    """Of unit vectors query [B, D], key [B, D] or [B, P, D], and queue [K, D].

    positive_similarity, negative_similarity: means. accuracy: share of keys that are nearer to
    their query than each of the first RIVALS queue slots.
    """
    rivals = queue[:RIVALS].to(query.dtype)
    key = key if key.ndim == 3 else key[:, None]
    positive = (key @ query[:, :, None]).squeeze(2)  # [B, P]
    negative = query @ rivals.T
    return {
        "positive_similarity": positive.mean(),
        "negative_similarity": negative.mean(),
        "accuracy": (positive > negative.amax(dim=1, keepdim=True)).float().mean(),
    }


@torch.no_grad()
def pair_figures(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Of unit vectors [N, D], two views of N videos of this rank; of the first RIVALS of them.

    positive_similarity, negative_similarity: means over views of one video and of two.
    contrast_accuracy: share of first views that are nearer to their own second view than to each
    other video's.
    """
    count = min(len(first), RIVALS)
    # Autocast would round similarities to 8 bits, and near a collapse all of them are alike.
    with torch.autocast(first.device.type, enabled=False):
        similarity = first[:count] @ second[:count].T
    positive = similarity.diagonal().clone()
    negatives = similarity.sum() - positive.sum()
    nearest = similarity.fill_diagonal_(-torch.inf).amax(dim=1)
    return {
        "positive_similarity": positive.mean(),
        "negative_similarity": negatives / max(1, count * (count - 1)),
        "contrast_accuracy": (positive > nearest).float().mean(),
    }


@torch.no_grad()
def feature_std(embedding: Tensor) -> Tensor:
    """Standard deviation of the coordinates of [B, D] over the batch, times sqrt(D).

    Near 1 when unit vectors fill the sphere, 0 when they collapsed.
    """
    return embedding.std(dim=0, correction=0).mean() * math.sqrt(embedding.shape[1])


@torch.no_grad()
def prototype_figures(
    view: Tensor, prototypes: Tensor, assignments: Tensor, temperature: float
) -> dict[str, Tensor]:
    """Of unit vectors view [B, D] and prototypes [P, D], and assignments [M, B, P] of M other views
    that the view predicts.

    prototype_use: of this rank's views, see `prototype_use`. prediction_entropy: the mean of the
    predictions', in shares of log P, 1 where they tell nothing. prediction_accuracy: share of
    videos whose likeliest prototype is that of their mean assignment.

    The assignments' own use of the prototypes is no figure: Sinkhorn makes it even, whatever the
    views are, and evenest where all of them are one point.
    """
    with torch.autocast(view.device.type, enabled=False):
        logits = view @ prototypes.to(view.dtype).T / temperature
    nearest, among = logits.argmax(dim=1), len(prototypes)
    right = nearest == assignments.mean(dim=0).argmax(dim=1)
    return {
        "prototype_use": prototype_use(nearest, among),
        "prediction_entropy": _entropy(logits.softmax(dim=1)).mean() / math.log(among),
        "prediction_accuracy": right.float().mean(),
    }


@torch.no_grad()
def prototype_use(nearest: Tensor, among: int) -> Tensor:
    """How many of `among` prototypes N views use, as a share of how many N random picks use.

    nearest: [N], the number of the nearest prototype of each view. Prototypes are counted as exp of
    the entropy of their shares: so many, used evenly, have the same. 1 is as even as chance, 2 / 3
    is a third less. Where all views have one prototype, it is 1 over the number of random picks'.
    """
    counts = torch.zeros(among, device=nearest.device)
    counts.index_add_(0, nearest, torch.ones_like(nearest, dtype=counts.dtype))
    return torch.exp(_entropy(counts / len(nearest)) - entropy_by_chance(len(nearest), among))


@cache
def entropy_by_chance(picks: int, among: int) -> float:
    """Expected entropy of the shares that `picks` uniform, independent picks give `among` things.

    A pick shares its thing with c others, c of Binomial(picks - 1, 1 / among), and adds the log of
    their share: log picks - E log(1 + c).
    """
    others, log_hit, log_miss = picks - 1, -math.log(among), math.log1p(-1 / among)
    shared = (
        math.log1p(c)
        * math.exp(
            math.lgamma(picks) - math.lgamma(c + 1) - math.lgamma(picks - c)
            + c * log_hit + (others - c) * log_miss
        )
        for c in range(1, picks)
    )  # fmt: skip
    return math.log(picks) - math.fsum(shared)


def _entropy(shares: Tensor) -> Tensor:
    """Of [..., P] that sum to 1, in nats."""
    return -torch.special.xlogy(shares, shares).sum(dim=-1)
