"""Classification by the weighted vote of the k nearest training videos."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.errors import ConfigError
from training.features import Features
from training.protocols.job import Job
from training.protocols.outcome import Outcome, classified
from training.protocols.ranking import ranked
from training.protocols.views import Views


@dataclass
class Options(Views):
    k: int = 20  # neighbours that vote
    temperature: float = 0.07  # of a vote exp(cosine / temperature)


def measure(job: Job) -> Outcome:
    """Every neighbour votes for its class with exp(cosine / temperature).

    Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR
    2018, section 3.4, whose temperature is 0.07; k = 20 is what later image papers take. Raises
    ConfigError where the gallery has fewer than k videos.
    """
    options = job.options
    if options.k < 1 or not options.temperature > 0:
        raise ConfigError(
            f"error: eval.k={options.k} eval.temperature={options.temperature}: expected 1 "
            "neighbour or more and a temperature above 0"
        )
    _check_gallery(options.k, len(job.sets["train"]))
    train, test = job.both()
    _check_gallery(options.k, len(train.index))
    votes = vote(test, train, job.classes, k=options.k, temperature=options.temperature)
    return classified(votes, test.label, test.index)


def vote(test: Features, train: Features, classes: int, *, k: int, temperature: float) -> Tensor:
    """Shares [test videos, classes] of the votes, float64."""
    similarity, rows = ranked(test.feature, train.feature, k)
    # Less the largest: the shares stay the same, and no exponential overflows.
    weight = ((similarity - similarity[:, :1]) / temperature).exp()
    votes = torch.zeros(len(test.index), classes, dtype=torch.float64)
    votes.scatter_add_(1, train.label[rows], weight)
    return votes / votes.sum(1, keepdim=True)


def _check_gallery(k: int, videos: int) -> None:
    if k > videos:
        raise ConfigError(
            f"error: eval.k: {k} neighbours of a gallery of {videos} videos · lower eval.k"
        )
