"""Figures that show how a training does: detached scalars that stay on the device."""

from __future__ import annotations

import math

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

    assignment_entropy: of the mean assignment of this rank's batch, 1 where all prototypes are used
    evenly. prediction_entropy: the mean of the predictions', 1 where they tell nothing. Both are
    divided by log P. prediction_accuracy: share of videos whose likeliest prototype is that of
    their mean assignment.
    """
    with torch.autocast(view.device.type, enabled=False):
        logits = view @ prototypes.to(view.dtype).T / temperature
    target = assignments.mean(dim=0)  # [B, P]
    right = logits.argmax(dim=1) == target.argmax(dim=1)
    return {
        "assignment_entropy": _entropy(target.mean(dim=0)),
        "prediction_entropy": _entropy(logits.softmax(dim=1)).mean(),
        "prediction_accuracy": right.float().mean(),
    }


def _entropy(shares: Tensor) -> Tensor:
    """Of [..., P] that sum to 1, in shares of log P, its most."""
    return -torch.special.xlogy(shares, shares).sum(dim=-1) / math.log(shares.shape[-1])
