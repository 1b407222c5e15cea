"""What a protocol finds: which test videos it answers rightly, and how exact that share is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from training.protocols.ranking import place_of

LEVEL = 0.95  # of the interval beside each share
TOP = (1, 5)
TICKS = 100_000  # of a share in the interval of a mean: steps of a thousandth of a point


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
    low, high = _quantiles(_resampled(right, of), level)
    return [low / of, high / of]


def interval_of_mean(counts: Sequence[tuple[int, int]], level: float = LEVEL) -> list[float]:
    """The same for the mean of several shares, (right, of) each, of infinitely many resamples of
    every one by itself: their densities are convolved, on a grid of TICKS.

    They count as independent, too. UCF101's three test lists have no group of videos in common, but
    HMDB51's overlap: of 90 places, 3 videos of brush_hair and 7 of pour have two. As many in every
    class make the interval too narrow by up to sqrt(1 + 2 x 5 / 90) - 1, or 5 %.
    """
    size = TICKS * len(counts) + 1
    spectrum = np.ones(size // 2 + 1, dtype=np.complex128)
    for right, of in counts:
        ticks = np.rint(np.arange(of + 1) * (TICKS / of)).astype(np.int64)
        spectrum *= np.fft.rfft(np.bincount(ticks, _resampled(right, of), size))
    low, high = _quantiles(np.fft.irfft(spectrum, size), level)
    return [low / (size - 1), high / (size - 1)]


def _resampled(right: int, of: int) -> np.ndarray:
    """[of + 1] probability of every number of right answers in a resample, but for a factor."""
    share, counts = right / of, np.arange(of + 1)
    if share in (0.0, 1.0):
        return (counts == right).astype(np.float64)
    factorial = np.concatenate([[0.0], np.log(np.arange(1, of + 1)).cumsum()])
    chosen = factorial[of] - factorial - factorial[::-1]
    return np.exp(chosen + counts * math.log(share) + (of - counts) * math.log1p(-share))


def _quantiles(density: np.ndarray, level: float) -> list[int]:
    """The places between which a share `level` of the density is."""
    below, tail = density.cumsum(), (1 - level) / 2
    return np.searchsorted(below / below[-1], [tail, 1 - tail]).tolist()
