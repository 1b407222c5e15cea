"""Fair comparisons: all sides take turns in every round, so a busy machine is busy for all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

QUANTILES = (0.2, 0.5, 0.8)


class NotInstalled(Exception):
    """A rival that is not on this machine; its text says how to get it."""


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


@dataclass(frozen=True)
class Limit:
    """A goal that is no ratio of speeds: `value` is to be `most` or less, or `least` or more."""

    what: str
    value: float
    most: float | None = None
    least: float | None = None

    def __post_init__(self) -> None:
        assert (self.most is None) != (self.least is None), f"{self.what}: one bound, not two"

    @classmethod
    def of_ratio(cls, what: str, ratio: Spread, most: float) -> Limit:
        """The median of a ratio's rounds; `what` also tells their spread."""
        spread = f"20 % to 80 % of the rounds {ratio.p20:.3g} to {ratio.p80:.3g}"
        return cls(f"{what} ({spread})", ratio.p50, most)

    @property
    def reached(self) -> bool:
        return self.value >= self.least if self.most is None else self.value <= self.most

    def __str__(self) -> str:
        goal = f"{self.least:g} or more" if self.most is None else f"{self.most:g} or less"
        verdict = "reached" if self.reached else "MISSED"
        return f"{self.what}: {self.value:.3g} (goal: {goal}) {verdict}"


@dataclass
class Comparison:
    """Rates of all sides, a list with one entry a round each; the first side is ours.

    unit: what is counted, such as "clips". goals: least ratio to reach against each rival named.
    facts: other things worth a column; a side may lack one. limits: goals beside speed. left_out:
    why a side that belongs here has no figures. timed: shown as milliseconds a unit, not as rates.
    apart: the sides are parts or sizes of one thing and no rivals, so no ratio is shown. series:
    figures by their name over the work done, as (step, value). conditions: what it was measured on,
    and by which command; empty until a record has it.
    """

    title: str
    unit: str
    goals: dict[str, float] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    limits: list[Limit] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    timed: bool = False
    apart: bool = False
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    conditions: dict = field(default_factory=dict)

    @property
    def ours(self) -> str:
        return next(iter(self.rates))

    def rate(self, name: str) -> Spread:
        """Units a second."""
        return Spread.of(self.rates[name])

    def milliseconds(self, name: str) -> Spread:
        """Of one unit."""
        return Spread.of([1e3 / rate for rate in self.rates[name]])

    def ratio(self, rival: str) -> Spread:
        """Our rate over the rival's in the same round: slow rounds slow both."""
        pairs = zip(self.rates[self.ours], self.rates[rival], strict=True)
        return Spread.of([ours / theirs for ours, theirs in pairs])

    def plain(self) -> dict:
        """For JSON, and `of_plain`."""
        sides = {}
        for name, rates in self.rates.items():
            side = sides[name] = {"rate": vars(self.rate(name)), "rates": rates}
            if self.timed:
                side["milliseconds"] = vars(self.milliseconds(name))
            if name != self.ours and not self.apart:
                side |= {"ratio": vars(self.ratio(name)), "goal": self.goals.get(name)}
            side["facts"] = self.facts.get(name, {})
        return {
            "title": self.title,
            "unit": self.unit,
            "timed": self.timed,
            "apart": self.apart,
            "ours": self.ours,
            "rounds": len(self.rates[self.ours]),
            "sides": sides,
            "limits": [vars(limit) | {"reached": limit.reached} for limit in self.limits],
            "left_out": self.left_out,
            "series": self.series,
            "conditions": self.conditions,
        }

    @classmethod
    def of_plain(cls, plain: dict) -> Comparison:
        sides = plain["sides"]
        return cls(
            title=plain["title"],
            unit=plain["unit"],
            timed=plain["timed"],
            goals={name: side["goal"] for name, side in sides.items() if side.get("goal")},
            rates={name: side["rates"] for name, side in sides.items()},
            facts={name: side["facts"] for name, side in sides.items()},
            limits=[
                Limit(one["what"], one["value"], one["most"], one.get("least"))
                for one in plain["limits"]
            ],
            left_out=plain["left_out"],
            apart=plain["apart"],
            series={name: [(n, x) for n, x in points] for name, points in plain["series"].items()},
            conditions=plain.get("conditions", {}),
        )


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


Rate = Callable[[Callable[[], float]], float]


def rate_of_one(run: Callable[[], float]) -> float:
    """Units a second of a single run."""
    start = time.perf_counter()
    units = run()
    return units / (time.perf_counter() - start)


def rate_of_many(
    run: Callable[[], float],
    *,
    least_seconds: float = 0.02,
    finish: Callable[[], None] | None = None,
) -> float:
    """Units a second over as many runs as take `least_seconds` together.

    finish: waits for what the runs have left to a GPU.
    """
    start, units = time.perf_counter(), 0.0
    while time.perf_counter() - start < least_seconds or not units:
        units += run()
    if finish:
        finish()
    return units / (time.perf_counter() - start)


def compare(
    title: str,
    sides: Sequence[Side],
    *,
    unit: str,
    rounds: int,
    goals: dict[str, float] | None = None,
    warm_up: bool = True,
    rate: Rate = rate_of_one,
) -> Comparison:
    """Runs every side once to warm up, then `rounds` times in turn, each round in another order.

    warm_up: off for work that takes long and starts in a process of its own anyway.
    rate: takes one turn of a side and returns its units a second.
    """
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    if warm_up:
        for side in sides:
            side.run()
    for number in range(rounds):
        first = number % len(sides)
        for side in [*sides[first:], *sides[:first]]:
            rates[side.name].append(rate(side.run))
    return Comparison(title, unit, goals or {}, rates)
