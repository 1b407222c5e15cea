"""What a protocol finds: which test videos it answers rightly, and how exact that share is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from training.protocols.ranking import place_of

LEVEL = 0.95  # of the interval beside each share
TOP = (1, 5)


@dataclass(frozen=True)
class Outcome:
    """hits: for each measure [n] bool, whether it counts the test video as answered rightly.

    chance: the share that blind answers would have. label, index: [n] class and manifest row of the
    test videos. settings: what the protocol chose, as the weight decay. probabilities: [n, classes]
    of protocols that have them. mean_of: what the views of a test video were averaged as: features,
    probabilities or logits.
    """

    hits: dict[str, Tensor]
    chance: dict[str, float]
    label: Tensor
    index: Tensor
    settings: dict[str, float] = field(default_factory=dict)
    probabilities: Tensor | None = None
    mean_of: str = "features"

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the evaluated test videos, from 0 to 1, by measure."""
        return {name: hit.double().mean().item() for name, hit in self.hits.items()}

    @property
    def intervals(self) -> dict[str, list[float]]:
        """The 95 % bootstrap interval of each share."""
        return {name: interval(int(hit.sum()), len(hit)) for name, hit in self.hits.items()}

    def per_class(self, classes: list[str]) -> dict[str, dict[str, float]]:
        """Number of test videos and shares of every class that has any."""
        table = {}
        for number, name in enumerate(classes):
            own = self.label == number
            if videos := int(own.sum()):
                shares = {m: hit[own].double().mean().item() for m, hit in self.hits.items()}
                table[name] = {"videos": videos, **shares}
        return table


def classified(
    probabilities: Tensor, label: Tensor, index: Tensor, settings: dict[str, float] | None = None
) -> Outcome:
    """Top-1 and top-5 accuracy of probabilities or scores [n, classes], beside a blind guess."""
    classes = probabilities.shape[1]
    place = place_of(probabilities, label)
    tops = [k for k in TOP if k <= classes]
    return Outcome(
        hits={f"top-{k}": place < k for k in tops},
        chance={f"top-{k}": k / classes for k in tops},
        label=label,
        index=index,
        settings=settings or {},
        probabilities=probabilities,
    )


def interval(right: int, of: int, level: float = LEVEL) -> list[float]:
    """Percentile bootstrap interval of the share `right` of `of`, without drawing anything.

    A resample of 0s and 1s has Binomial(of, right / of) of the 1s, so the interval of infinitely
    many resamples is between two quantiles of that (Efron and Tibshirani, 1993, chapter 13). Test
    videos count as independent: of clips cut from one recording the interval is too narrow.
    """
    share = right / of
    if share in (0.0, 1.0):
        return [share, share]
    counts = np.arange(of + 1)
    factorial = np.concatenate([[0.0], np.log(np.arange(1, of + 1)).cumsum()])
    chosen = factorial[of] - factorial - factorial[::-1]
    log_density = chosen + counts * math.log(share) + (of - counts) * math.log1p(-share)
    below = np.exp(log_density).cumsum()
    tail = (1 - level) / 2
    low, high = np.searchsorted(below / below[-1], [tail, 1 - tail])
    return [int(low) / of, int(high) / of]
