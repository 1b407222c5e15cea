"""Fair comparisons: all sides take turns in every round, so a busy machine is busy for all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

QUANTILES = (0.2, 0.5, 0.8)


@dataclass(frozen=True)
class Side:
    """One way to do the work. run: does it once and returns how many units it did."""

    name: str
    run: Callable[[], float]


@dataclass(frozen=True)
class Spread:
    """20th, 50th and 80th percentile."""

    p20: float
    p50: float
    p80: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(*(float(q) for q in np.quantile(values, QUANTILES)))


@dataclass
class Comparison:
    """Rates of all sides, a list with one entry a round each; the first side is ours.

    unit: what is counted, such as "clips". goals: least ratio to reach against each rival named.
    facts: other things worth a column, of each side the same ones.
    """

    title: str
    unit: str
    goals: dict[str, float] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def ours(self) -> str:
        return next(iter(self.rates))

    def rate(self, name: str) -> Spread:
        """Units a second."""
        return Spread.of(self.rates[name])

    def ratio(self, rival: str) -> Spread:
        """Our rate over the rival's in the same round: slow rounds slow both."""
        pairs = zip(self.rates[self.ours], self.rates[rival], strict=True)
        return Spread.of([ours / theirs for ours, theirs in pairs])

    def plain(self) -> dict:
        """For JSON."""
        sides = {}
        for name, rates in self.rates.items():
            sides[name] = {
                "rate": vars(self.rate(name)),
                "rates": rates,
                **self.facts.get(name, {}),
            }
            if name != self.ours:
                sides[name] |= {"ratio": vars(self.ratio(name)), "goal": self.goals.get(name)}
        return {"title": self.title, "unit": self.unit, "ours": self.ours, "sides": sides}


@contextmanager
def one_core() -> Iterator[None]:
    """Keeps this process, and those it starts, on one core: the ffmpeg program works in several
    threads whatever it is told, so equal threads would not be equal means.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compare(
    title: str,
    sides: Sequence[Side],
    *,
    unit: str,
    rounds: int,
    goals: dict[str, float] | None = None,
    warm_up: bool = True,
) -> Comparison:
    """Runs every side once to warm up, then `rounds` times in turn, each round in another order.

    warm_up: off for work that takes long and starts in a process of its own anyway.
    """
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    if warm_up:
        for side in sides:
            side.run()
    for number in range(rounds):
        first = number % len(sides)
        for side in [*sides[first:], *sides[:first]]:
            start = time.perf_counter()
            units = side.run()
            rates[side.name].append(units / (time.perf_counter() - start))
    return Comparison(title, unit, goals or {}, rates)
