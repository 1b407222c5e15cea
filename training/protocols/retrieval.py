"""Nearest neighbours: the test videos ask, the training videos answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from training.features import Features
from training.protocols.job import Job
from training.protocols.outcome import Outcome
from training.protocols.ranking import nearest
from training.protocols.views import Views

RANKS = (1, 5, 10, 20, 50)


@dataclass
class Options(Views):
    center: bool = False  # subtract each set's own mean feature first (ViCC)


def measure(job: Job) -> Outcome:
    """Recall at k by cosine similarity of mean features.

    Test videos ask and training videos answer in VCLR and in ViCC, whose clips and centring are
    options: configs/eval/vicc_retrieval.yaml.
    """
    train, test = job.both()
    if job.options.center:
        train, test = centered(train), centered(test)
    return asked(test, train)


def asked(test: Features, train: Features, ranks: tuple[int, ...] = RANKS) -> Outcome:
    """Which test videos have one of their class among the k nearest training videos, for all k."""
    ranks = tuple(k for k in ranks if k <= len(train.index))
    found = train.label[nearest(test.feature, train.feature, max(ranks))] == test.label[:, None]
    hits = {f"R@{k}": found[:, :k].any(1) for k in ranks}
    return Outcome(hits, chance(test, train, ranks), test.label, test.index)


def centered(features: Features) -> Features:
    """Features less the mean of their own set, scaled to unit length again."""
    raw = features.raw
    vector = F.normalize(raw - raw.mean(0), dim=1)
    return Features(vector, features.label, features.index, features.failed)


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
        shares[f"R@{k}"] = _mean_over(test.label, found)
    return shares


def _mean_over(label: Tensor, of_class: dict[int, float]) -> float:
    return sum(of_class[c] for c in label.tolist()) / len(label)
