"""From data to a picture, and the round numbers beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEFT, RIGHT, TOP, BOTTOM = 68, 28, 34, 46  # margins around the plot, for ticks and labels
MOST_DECIMALS = 5  # of a tick that is written out, as is one of less than MOST_WRITTEN
MOST_WRITTEN = 1e6


@dataclass(frozen=True)
class Axes:
    """Maps data to the picture. first, last: steps at the ends; low, high: values at the ends."""

    width: int
    height: int
    first: float
    last: float
    low: float
    high: float

    def x(self, step: np.ndarray | float) -> np.ndarray | float:
        share = (step - self.first) / max(1, self.last - self.first)
        return LEFT + share * (self.right - LEFT)

    def y(self, value: np.ndarray | float) -> np.ndarray | float:
        share = (value - self.low) / (self.high - self.low)
        return self.base - share * (self.base - TOP)

    @property
    def right(self) -> int:
        return self.width - RIGHT

    @property
    def base(self) -> int:
        return self.height - BOTTOM


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers in [low, high], `about` as many as asked: steps of 1, 2 or 5 x 10^n."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, math.floor(high / step + 1e-9) + 1)]


def labels(values: Sequence[float]) -> list[str]:
    """The ticks in words, each with as many decimals as tell it from its neighbours."""
    apart = values[1] - values[0] if len(values) > 1 else abs(values[0]) if values else 0
    decimals = max(0, math.ceil(-math.log10(apart) - 1e-9)) if apart else 0
    if decimals > MOST_DECIMALS or any(abs(value) >= MOST_WRITTEN for value in values):
        return [f"{value:.6g}" for value in values]
    return [f"{value:,.{decimals}f}" for value in values]


def grid(axes: Axes, about_ticks: int) -> list[str]:
    """Lines at round values, marks at round steps, and both in words."""
    parts = []
    values = ticks(axes.low, axes.high, 5)
    for value, text in zip(values, labels(values), strict=True):
        y = axes.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{axes.right}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 10}" y="{y + 4:.1f}">{text}</text>')
    base = axes.base
    for step in ticks(axes.first, axes.last, about_ticks):
        if step == round(step):  # none is between two steps
            x = axes.x(step)
            where = f'class="tick middle" x="{x:.1f}" y="{base + 20}"'
            parts.append(f'<path class="axis" d="M{x:.1f} {base}v5"/>')
            parts.append(f"<text {where}>{_short(step)}</text>")
    parts.append(f'<path class="axis" d="M{LEFT} {base}H{axes.right}"/>')
    return parts


def _short(step: float) -> str:
    """As 50,000 or 1.2 M."""
    return f"{step / 1e6:g} M" if step >= 1e6 else f"{step:,.0f}"
