"""Evaluation protocols on cached features: nearest neighbours and a linear probe."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.features import Features

RANKS = (1, 5, 10, 20, 50)
CHUNK = 1024  # queries compared at once
DECAYS = tuple(10.0**power for power in range(-7, 0))  # tried on the held-out part
HELD_OUT = 5  # every fifth training video chooses the decay; the test list is never seen


def nearest(query: Tensor, gallery: Tensor, k: int) -> Tensor:
    """Rows of the gallery [G, D] nearest to each query [Q, D] by cosine, best first: [Q, k]."""
    chunks = [(part @ gallery.T).topk(k).indices for part in query.split(CHUNK)]
    return torch.cat(chunks)


def recall(test: Features, train: Features, ranks: tuple[int, ...] = RANKS) -> dict[str, float]:
    """R@k: share of test videos with one of their class among the k nearest training videos."""
    ranks = tuple(k for k in ranks if k <= len(train.index))
    found = train.label[nearest(test.feature, train.feature, max(ranks))] == test.label[:, None]
    return {f"R@{k}": found[:, :k].any(1).double().mean().item() for k in ranks}


def recall_among(features: Features, ranks: tuple[int, ...] = (1, 5)) -> dict[str, float]:
    """R@k where every labelled video asks all the others of its own set; none of fewer than two."""
    labelled = features.label >= 0
    feature, label = features.feature[labelled], features.label[labelled]
    ranks = tuple(k for k in ranks if k < len(label))
    if not ranks:
        return {}
    answers = nearest(feature, feature, max(ranks) + 1)
    # A video is no answer to itself; a copy of it may come before it.
    itself = answers == torch.arange(len(label))[:, None]
    itself[:, -1] |= ~itself.any(1)
    found = (label[answers] == label[:, None])[~itself].view(len(label), -1)
    return {f"R@{k}": found[:, :k].any(1).double().mean().item() for k in ranks}


def chance(test: Features, train: Features, ranks: tuple[int, ...] = RANKS) -> dict[str, float]:
    """R@k of answers in random order: 1 - C(n - m, k) / C(n, k) with m of n of the query's class.

    Averaged over the test videos, so that unequal classes count as they are.
    """
    n = len(train.index)
    same = {int(c): int((train.label == c).sum()) for c in test.label.unique()}
    shares = {}
    for k in ranks:
        if k > n:
            continue
        found = {c: 1 - math.comb(n - m, k) / math.comb(n, k) for c, m in same.items()}
        shares[f"R@{k}"] = sum(found[int(c)] for c in test.label) / len(test.label)
    return shares


def linear_probe(train: Features, test: Features, classes: int) -> dict[str, float]:
    """Top-1 and top-5 accuracy of multinomial logistic regression on standardised features.

    The weight decay is the one that does best on every fifth training video after fitting the
    others; then all training videos are fitted. Deterministic: L-BFGS from zero.
    """
    mean, std = train.feature.mean(0), train.feature.std(0).clamp_min(1e-8)
    x, x_test = (train.feature - mean) / std, (test.feature - mean) / std
    held = torch.arange(len(x)) % HELD_OUT == 0
    scores = {}
    for decay in DECAYS:
        model = _fit(x[~held], train.label[~held], classes, decay)
        scores[decay] = _top(model(x[held]), train.label[held], 1)
    decay = max(scores, key=scores.get)
    logits = _fit(x, train.label, classes, decay)(x_test)
    accuracy = {f"top-{k}": _top(logits, test.label, k) for k in (1, 5) if k <= classes}
    return {**accuracy, "weight_decay": decay}


def _fit(x: Tensor, label: Tensor, classes: int, decay: float) -> nn.Linear:
    """Minimises cross entropy + decay / 2 |W|^2."""
    model = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=100, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), label) + decay / 2 * model.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return model.requires_grad_(False)


def _top(logits: Tensor, label: Tensor, k: int) -> float:
    return (logits.topk(k).indices == label[:, None]).any(1).double().mean().item()
