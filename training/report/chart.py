"""A figure over the steps of a run as inline SVG, with the stages marked; no script, no library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from training.report.axes import BOTTOM, LEFT, TOP, Axes, grid

WIDE, NARROW = (960, 320), (400, 270)  # the page shows one of them, by its own width
SMALL = (480, 220)  # of the charts that stand side by side
POINTS = 600  # of a chart: a longer curve is drawn through the means of groups of neighbours
SMOOTHED_SHARE = 1 / 20  # of a stage's points are averaged for the smooth line
FEW_POINTS = 40  # of a curve are marked one by one, and not smoothed
END_SHARE = 1 / 20  # of the points make "the first" and "the last" value of the description
MOST_STRETCHED = 3
LETTER = 8  # pixels of a letter of a stage's name, amply


@dataclass(frozen=True)
class Curve:
    """One stage's values. step, value: [n]; a value may be NaN or infinite."""

    stage: str
    step: np.ndarray
    value: np.ndarray

    @property
    def finite(self) -> Curve:
        """Those points that can be drawn."""
        seen = np.isfinite(self.value)
        return Curve(self.stage, self.step[seen], self.value[seen])

    @property
    def lost(self) -> np.ndarray:
        """Steps whose value is not finite."""
        return self.step[~np.isfinite(self.value)]


@dataclass(frozen=True)
class Steps:
    """What the horizontal axes of a page share. stages: the name and first step of each."""

    first: int
    last: int
    stages: tuple[tuple[str, int], ...]


def curves(points: Sequence[tuple[str, int, float]]) -> list[Curve]:
    """A curve of each stage from (stage, step, value), in the order of the steps."""
    own: dict[str, list[tuple[int, float]]] = {}
    for stage, step, value in points:
        own.setdefault(stage, []).append((step, value))
    return [
        Curve(stage, *(np.array(column) for column in zip(*pairs, strict=True)))
        for stage, pairs in own.items()
    ]


def steps_of(curves: Sequence[Curve]) -> Steps:
    """From the first step to the last of any curve."""
    stages = tuple((curve.stage, int(curve.step[0])) for curve in curves)
    return Steps(stages[0][1], int(max(curve.step[-1] for curve in curves)), stages)


def chart(curves: Sequence[Curve], *, name: str, steps: Steps | None = None) -> str:
    """SVG of the stages' values, twice: for wide and for narrow pages."""
    wide = _drawn(curves, name, WIDE, kind="wide", about_ticks=8, steps=steps)
    return wide + "\n" + _drawn(curves, name, NARROW, kind="narrow", about_ticks=4, steps=steps)


def small_chart(
    curves: Sequence[Curve], *, name: str, steps: Steps | None = None, chance: float | None = None
) -> str:
    """SVG under its name, for half a page or for all of a narrow one. chance: what answers in
    random order would reach, a line.
    """
    drawn = _drawn(curves, name, SMALL, kind="small", about_ticks=4, steps=steps, chance=chance)
    return f'<figure class="chart"><figcaption>{escape(name)}</figcaption>\n{drawn}</figure>'


def description(curves: Sequence[Curve], name: str, chance: float | None = None) -> str:
    """The chart in words, for those who do not see it."""
    parts = [*map(_told, curves), *([f"by chance {chance:.3g}"] if chance is not None else [])]
    return f"{name} over the steps. {'; '.join(parts)}."


def smoothed(value: np.ndarray) -> np.ndarray:
    """Centred moving mean [n] of [n]; the window shrinks at both ends instead of reaching out."""
    half = max(1, round(len(value) * SMOOTHED_SHARE / 2))
    total = np.concatenate([[0.0], np.cumsum(value)])
    index = np.arange(len(value))
    reach = np.minimum(half, np.minimum(index, len(value) - 1 - index))
    return (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)


def thinned(curve: Curve, points: int = POINTS) -> Curve:
    """The curve itself, or the means of groups of neighbours when it has more than `points`."""
    groups = min(points, len(curve.step))
    if not groups:
        return curve
    parts = [np.array_split(values, groups) for values in (curve.step, curve.value)]
    step, value = (np.array([part.mean() for part in group]) for group in parts)
    return Curve(curve.stage, step, value)


def _told(curve: Curve) -> str:
    """From where to where a curve goes."""
    value, lost = curve.finite.value, curve.lost
    parts = []
    if len(value):
        some = max(1, round(len(value) * END_SHARE))
        parts.append(f"from {value[:some].mean():.3g} to {value[-some:].mean():.3g}")
    if len(lost):
        parts.append(f"not finite at {len(lost):,} of them")
    steps = f"steps {curve.step[0]:,} to {curve.step[-1]:,}"
    return f"stage {curve.stage}, {steps}: {', '.join(parts)}"


def _drawn(
    curves: Sequence[Curve],
    name: str,
    size: tuple[int, int],
    *,
    kind: str,
    about_ticks: int,
    steps: Steps | None,
    chance: float | None = None,
) -> str:
    """One chart: every step in a thin line, a moving mean over it; of a few steps, the points."""
    steps = steps or steps_of(curves)
    thin = _thin(curves)
    axes = _axes(thin, size, steps, chance)
    parts = [*grid(axes, about_ticks), *_stage_marks(steps, axes), *_chance_mark(chance, axes)]
    for curve in thin:
        if len(curve.step) < FEW_POINTS:
            parts.append(_line(curve.step, curve.value, axes, "smooth"))
            parts += _points(curve, axes)
        else:
            parts.append(_line(curve.step, curve.value, axes, "raw"))
            parts.append(_line(curve.step, smoothed(curve.value), axes, "smooth"))
    parts += _lost_marks(curves, axes)
    content = "\n".join([*parts, *_axis_labels(axes, "" if kind == "small" else name)])
    label = escape(description(curves, name, chance), quote=True)
    box = f'viewBox="0 0 {axes.width} {axes.height}"'
    return f'<svg class="{kind}" {box} role="img" aria-label="{label}">\n{content}\n</svg>'


def _thin(curves: Sequence[Curve]) -> list[Curve]:
    """What can be drawn, with about POINTS points in all: each stage has its share of them."""
    shown = [curve.finite for curve in curves]
    of = sum(len(curve.step) for curve in shown)
    return [
        thinned(curve, max(FEW_POINTS, POINTS * len(curve.step) // of))
        for curve in shown
        if len(curve.step)
    ]


def _axes(thin: Sequence[Curve], size: tuple[int, int], steps: Steps, chance: float | None) -> Axes:
    """Room for 96 % of the steps, and for all of the smoothed lines unless that would leave the
    rest a part of 1 / MOST_STRETCHED; spikes are cut off. What is never below 0 has no room there.
    """
    if not thin:
        return Axes(*size, steps.first, steps.last, 0.0, 1.0)
    value = np.concatenate([curve.value for curve in thin])
    smooth = np.concatenate([smoothed(curve.value) for curve in thin])
    ends = [0.02, 0.98] if len(value) >= FEW_POINTS else [0, 1]
    low, high = np.quantile(value, ends, method="nearest")
    lowest, highest = min(low, smooth.min()), max(high, smooth.max())
    if highest - lowest <= MOST_STRETCHED * (high - low) or high == low:
        low, high = lowest, highest
    if chance is not None:
        low, high = min(low, chance), max(high, chance)
    room = 0.08 * (high - low) or max(1.0, abs(high))
    bottom = max(0.0, low - room) if value.min() >= 0 else low - room
    return Axes(*size, steps.first, steps.last, bottom, high + room)


def _stage_marks(steps: Steps, axes: Axes) -> list[str]:
    """A dashed line where a stage begins, and at the top its name, or its number for want of room;
    nothing where even that has none.
    """
    parts, starts = [], [axes.x(first) for _, first in steps.stages]
    for number, ((name, _), x, end) in enumerate(
        zip(steps.stages, starts, [*starts[1:], axes.right], strict=True), 1
    ):
        if number > 1:
            parts.append(f'<path class="boundary" d="M{x:.1f} {TOP - 22}V{axes.base}"/>')
        left = x + (8 if number > 1 else 0)
        fitting = [text for text in (name, str(number)) if LETTER * len(text) <= end - left]
        if fitting:
            where = f'x="{left:.1f}" y="{TOP - 12}"'
            parts.append(f'<text class="stage" {where}>{escape(fitting[0])}</text>')
    return parts


def _chance_mark(chance: float | None, axes: Axes) -> list[str]:
    """A dotted line over all steps, with its name where it ends; none where nothing is drawn."""
    if chance is None or not axes.low <= chance <= axes.high:
        return []
    y = axes.y(chance)
    return [
        f'<path class="by-chance" d="M{LEFT} {y:.1f}H{axes.right}"/>',
        f'<text class="tick" x="{axes.right}" y="{y - 5:.1f}">chance</text>',
    ]


def _line(step: np.ndarray, value: np.ndarray, axes: Axes, kind: str) -> str:
    """Values beyond the axes run along the edge."""
    y = np.clip(axes.y(value), TOP, axes.base)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(axes.x(step), y, strict=True))
    return f'<polyline class="{kind}" points="{points}"/>'


def _points(curve: Curve, axes: Axes) -> list[str]:
    return [
        f'<circle cx="{axes.x(step):.1f}" cy="{y:.1f}" r="3"/>'
        for step, y in zip(curve.step, np.clip(axes.y(curve.value), TOP, axes.base), strict=True)
    ]


def _lost_marks(curves: Sequence[Curve], axes: Axes) -> list[str]:
    """A line at the first step of each stage whose value is not finite, and the step in words."""
    parts = []
    for step in (int(curve.lost[0]) for curve in curves if len(curve.lost)):
        x = axes.x(step)
        right = x > (LEFT + axes.right) / 2
        where = f'x="{x - 6 if right else x + 6:.1f}" y="{TOP + 14}"'
        where += f' text-anchor="{"end" if right else "start"}"'
        parts.append(f'<path class="lost" d="M{x:.1f} {TOP}V{axes.base}"/>')
        parts.append(f'<text class="lost" {where}>not finite at step {step:,}</text>')
    return parts


def _axis_labels(axes: Axes, name: str) -> list[str]:
    """Those of the steps, and of the values where they have a name."""
    middle, center = (TOP + axes.base) / 2, (LEFT + axes.right) / 2
    labels = [f'<text class="label" x="{center:.0f}" y="{axes.base + BOTTOM - 6}">step</text>']
    if name:
        where = f'transform="translate(12 {middle:.0f}) rotate(-90)"'
        labels.append(f'<text class="label" {where}>{escape(name)}</text>')
    return labels
