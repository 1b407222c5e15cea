"""A linear classifier on a frozen encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline import DataError
from training.errors import ConfigError
from training.features import Features
from training.protocols import fitting
from training.protocols.fitting import Fitted, Frozen, classifier
from training.protocols.job import Job
from training.protocols.outcome import Outcome, classified
from training.protocols.ranking import place_of
from training.protocols.views import Views

DECAYS = tuple(10.0**power for power in range(-7, 0))  # tried on the held-out part
HELD_OUT = 5  # every fifth training video chooses the decay; the test list is never seen


@dataclass
class Options(Fitted):
    # lbfgs: on the mean feature of a video, to the optimum; sgd: on augmented clips (CVRL, ViCC)
    solver: Literal["lbfgs", "sgd"] = "lbfgs"


def measure(job: Job) -> Outcome:
    """Top-1 and top-5 accuracy of a linear classifier.

    lbfgs: multinomial logistic regression on kept features, see `probe`. sgd: as CVRL and ViCC
    train it, on a new augmented clip of every video in each epoch; configs/eval/cvrl_linear.yaml
    and vicc_linear.yaml. Raises ConfigError for options that would have no effect.
    """
    if job.options.solver == "lbfgs":
        fitting.refuse_unused(job.options, Fitted, Views, "eval.solver=sgd")
        return probe(*job.both(), job.classes)
    fitting.check(job.options, job.sets["train"])
    return fitting.measure(job, *network(job))


def network(job: Job) -> tuple[list[tuple[nn.Module, float]], nn.Module]:
    """What is trained, at which share of the rate, and the frozen encoder with a new classifier.

    Raises ConfigError for a baseline without a network.
    """
    encoder = job.encoder()
    if not hasattr(encoder, "feature_dim"):
        raise ConfigError(
            f"error: eval.solver=sgd trains behind a network, and {job.source.name} is none · use "
            "eval.solver=lbfgs"
        )
    head = classifier(encoder.feature_dim, job.classes, job.options, seed=job.recipe.run.seed)
    return [(head, 1.0)], nn.Sequential(Frozen(encoder), head)


def probe(train: Features, test: Features, classes: int) -> Outcome:
    """Multinomial logistic regression on standardised features.

    The weight decay is the one that does best on every fifth training video after fitting the
    others; then all training videos are fitted. Deterministic: L-BFGS from zero. Raises DataError
    for a single training video.
    """
    if len(train.index) < 2:
        raise DataError(
            f"error: a linear classifier needs 2 training videos, here is {len(train.index)} · "
            "take more, or a larger part of the labels"
        )
    mean, std = train.feature.mean(0), train.feature.std(0).clamp_min(1e-8)
    x, x_test = (train.feature - mean) / std, (test.feature - mean) / std
    decay = chosen_decay(x, train.label, classes)
    logits = fit(x, train.label, classes, decay)(x_test)
    probabilities = logits.softmax(dim=1)
    return classified(probabilities, test.label, test.index, {"weight_decay": decay})


def chosen_decay(x: Tensor, label: Tensor, classes: int) -> float:
    """The weight decay that does best on the held-out videos; the smallest of equal ones."""
    held = torch.arange(len(x)) % HELD_OUT == 0
    scores = {}
    for decay in DECAYS:
        model = fit(x[~held], label[~held], classes, decay)
        scores[decay] = (place_of(model(x[held]), label[held]) == 0).double().mean().item()
    return max(scores, key=scores.get)


def fit(x: Tensor, label: Tensor, classes: int, decay: float) -> nn.Linear:
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
