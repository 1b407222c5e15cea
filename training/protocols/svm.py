"""A linear support vector machine on mean features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline import DataError
from training.errors import ConfigError
from training.features import Features
from training.protocols.job import Job
from training.protocols.outcome import Outcome, classified
from training.protocols.views import Views


@dataclass
class Options(Views):
    c: float = 1.0  # cost of a training video on the wrong side
    l2: bool = False  # scale features to unit length first
    intercept: bool = False  # learn an offset; liblinear's command line has none


def measure(job: Job) -> Outcome:
    """Top-1 and top-5 of one-against-rest classifiers of liblinear.

    VCLR's (arXiv 2108.02722) code: liblinear -s 2 -c 1, which is L2-regularised squared hinge loss
    in the primal, on features that are not scaled. Raises ConfigError without scikit-learn.
    """
    machine = _machine(job.options)
    train, test = job.both()
    scores = decide(machine, train, test, job.classes, l2=job.options.l2)
    # Scores are no probabilities; `fuse` refuses them because none are written.
    outcome = classified(scores, test.label, test.index)
    return Outcome(outcome.hits, outcome.chance, outcome.label, outcome.index)


def decide(machine, train: Features, test: Features, classes: int, *, l2: bool) -> Tensor:
    """Scores [test videos, classes] of a machine fitted to the training videos.

    A class of which no training video decodes has -inf. Raises DataError where but one is left.
    """
    present = train.label.unique()
    if len(present) < 2:
        raise DataError(
            f"error: the protocol svm needs training videos of two classes, and those that decode "
            f"are of {len(present)}"
        )
    x, x_test = ((part.feature if l2 else part.raw).double().numpy() for part in (train, test))
    own = machine.fit(x, train.label.numpy()).decision_function(x_test)
    if own.ndim == 1:  # of two classes liblinear scores the second one only
        own = np.stack([-own, own], axis=1)
    scores = torch.full((len(x_test), classes), -torch.inf, dtype=torch.float64)
    scores[:, present] = torch.from_numpy(own)
    return scores


def _machine(options: Options):
    if not options.c > 0:
        raise ConfigError(f"error: eval.c: expected more than 0, got {options.c}")
    try:
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise ConfigError(
            "error: the protocol svm needs scikit-learn, which is not installed · pip install "
            "scikit-learn"
        ) from error
    return LinearSVC(C=options.c, loss="squared_hinge", dual=False, fit_intercept=options.intercept)
