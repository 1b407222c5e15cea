"""A figure over the steps of a run as inline SVG, with the stages marked; no script, no library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDE, NARROW = (960, 320), (400, 270)  # the page shows one of them, by its own width
SMALL = (480, 220)  # of the charts that stand side by side
LEFT, RIGHT, TOP, BOTTOM = 58, 28, 34, 46  # margins around the plot, for ticks and labels
POINTS = 600  # a longer curve is drawn through the means of groups: more would not be seen
SMOOTHED_SHARE = 1 / 20  # of a stage's points are averaged for the smooth line
FEW_POINTS = 40  # of a curve are marked one by one, and not smoothed
END_SHARE = 1 / 20  # of the points make "the first" and "the last" value of the description


@dataclass(frozen=True)
class Curve:
    """One stage's values. step, value: [n]."""

    stage: str
    step: np.ndarray
    value: np.ndarray


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


def curves(points: Sequence[tuple[str, int, float]]) -> list[Curve]:
    """A curve of each stage from (stage, step, value), in the order of the steps."""
    found = []
    for stage in dict.fromkeys(stage for stage, _, _ in points):
        own = [(step, value) for name, step, value in points if name == stage]
        found.append(Curve(stage, *(np.array(column) for column in zip(*own, strict=True))))
    return found


def chart(curves: Sequence[Curve], *, name: str) -> str:
    """SVG of the stages' values, twice: for wide and for narrow pages."""
    wide = _drawn(curves, name, WIDE, kind="wide", about_ticks=8)
    return wide + "\n" + _drawn(curves, name, NARROW, kind="narrow", about_ticks=4)


def small_chart(curves: Sequence[Curve], *, name: str) -> str:
    """SVG under its name, for half a page or for all of a narrow one."""
    drawn = _drawn(curves, name, SMALL, kind="small", about_ticks=4)
    return f'<figure class="chart"><figcaption>{escape(name)}</figcaption>\n{drawn}</figure>'


def description(curves: Sequence[Curve], name: str) -> str:
    """The chart in words, for those who do not see it."""
    sentences = []
    for curve in curves:
        some = max(1, round(len(curve.value) * END_SHARE))
        start, end = curve.value[:some].mean(), curve.value[-some:].mean()
        steps = f"steps {curve.step[0]:,} to {curve.step[-1]:,}"
        sentences.append(f"stage {curve.stage}, {steps}: from {start:.3g} to {end:.3g}")
    return f"{name} over the steps. " + "; ".join(sentences) + "."


def smoothed(value: np.ndarray) -> np.ndarray:
    """Centred moving mean [n] of [n]; the window shrinks at both ends instead of reaching out."""
    half = max(1, round(len(value) * SMOOTHED_SHARE / 2))
    total = np.concatenate([[0.0], np.cumsum(value)])
    index = np.arange(len(value))
    reach = np.minimum(half, np.minimum(index, len(value) - 1 - index))
    return (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def thinned(curve: Curve) -> Curve:
    """The curve itself, or the means of groups of neighbours when it has too many points."""
    groups = min(POINTS, len(curve.step))
    parts = [np.array_split(values, groups) for values in (curve.step, curve.value)]
    step, value = (np.array([part.mean() for part in group]) for group in parts)
    return Curve(curve.stage, step, value)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers in [low, high], `about` as many as asked: steps of 1, 2 or 5 x 10^n."""
    if high <= low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _drawn(
    curves: Sequence[Curve], name: str, size: tuple[int, int], *, kind: str, about_ticks: int
) -> str:
    """One chart: every step in a thin line, a moving mean over it; of a few steps, the points."""
    axes = _axes(curves, size)
    parts = [*_grid(axes, about_ticks), *_stage_marks(curves, axes)]
    for curve in curves:
        thin = thinned(curve)
        if len(thin.step) < FEW_POINTS:
            parts.append(_line(thin.step, thin.value, axes, "smooth"))
            parts += _points(thin, axes)
        else:
            parts.append(_line(thin.step, thin.value, axes, "raw"))
            parts.append(_line(thin.step, smoothed(thin.value), axes, "smooth"))
    content = "\n".join([*parts, *_axis_labels(axes, "" if kind == "small" else name)])
    label = escape(description(curves, name), quote=True)
    box = f'viewBox="0 0 {axes.width} {axes.height}"'
    return f'<svg class="{kind}" {box} role="img" aria-label="{label}">\n{content}\n</svg>'


def _axes(curves: Sequence[Curve], size: tuple[int, int]) -> Axes:
    """Room for the smoothed lines and for 98 % of the steps; a few spikes are cut off."""
    value = np.concatenate([thinned(curve).value for curve in curves])
    smooth = np.concatenate([smoothed(thinned(curve).value) for curve in curves])
    low, high = np.quantile(value, [0.01, 0.99] if len(value) >= FEW_POINTS else [0, 1])
    low, high = min(low, smooth.min()), max(high, smooth.max())
    room = 0.08 * (high - low) or max(1.0, abs(high))
    first, last = min(curve.step[0] for curve in curves), max(curve.step[-1] for curve in curves)
    return Axes(*size, first, last, low - room, high + room)


def _grid(axes: Axes, about_ticks: int) -> list[str]:
    parts = []
    for value in ticks(axes.low, axes.high, 5):
        y = axes.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{axes.right}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 10}" y="{y + 4:.1f}">{value:g}</text>')
    base = axes.base
    for value in ticks(axes.first, axes.last, about_ticks):
        x = axes.x(value)
        parts.append(f'<path class="axis" d="M{x:.1f} {base}v5"/>')
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{base + 20}">{value:,.6g}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {base}H{axes.right}"/>')
    return parts


def _stage_marks(curves: Sequence[Curve], axes: Axes) -> list[str]:
    """A dashed line where a stage begins and its name at the top."""
    parts = []
    for number, curve in enumerate(curves):
        x = axes.x(curve.step[0])
        if number:
            parts.append(f'<path class="boundary" d="M{x:.1f} {TOP - 22}V{axes.base}"/>')
        # A short last stage has no room to its right: its name stands to its left.
        anchor, left = "start", x + (8 if number else 0)
        if number and x > LEFT + 0.8 * (axes.right - LEFT):
            anchor, left = "end", x - 8
        where = f'x="{left:.1f}" y="{TOP - 12}" text-anchor="{anchor}"'
        parts.append(f'<text class="stage" {where}>{escape(curve.stage)}</text>')
    return parts


def _line(step: np.ndarray, value: np.ndarray, axes: Axes, kind: str) -> str:
    """Values beyond the axes run along the edge."""
    y = np.clip(axes.y(value), TOP, axes.base)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(axes.x(step), y, strict=True))
    return f'<polyline class="{kind}" points="{points}"/>'


def _points(curve: Curve, axes: Axes) -> list[str]:
    return [
        f'<circle cx="{axes.x(step):.1f}" cy="{axes.y(value):.1f}" r="3"/>'
        for step, value in zip(curve.step, curve.value, strict=True)
    ]


def _axis_labels(axes: Axes, name: str) -> list[str]:
    """Those of the steps, and of the values where they have a name."""
    middle, center = (TOP + axes.base) / 2, (LEFT + axes.right) / 2
    labels = [f'<text class="label" x="{center:.0f}" y="{axes.height - 6}">step</text>']
    if name:
        where = f'transform="translate(14 {middle:.0f}) rotate(-90)"'
        labels.append(f'<text class="label" {where}>{escape(name)}</text>')
    return labels
