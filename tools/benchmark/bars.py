"""The sides of a comparison as bars: inline SVG without a script, for wide and for narrow pages."""

from __future__ import annotations

from html import escape

from tools.benchmark.measure import Comparison, Spread
from tools.benchmark.table import number
from training.report.axes import ticks

WIDE, NARROW = 960, 400  # the page shows one of them, by its own width
ROW, NAME, BAR = 46, 18, 14  # pixels: of a side, of its name above the bar, of the bar
AXIS = 40  # below the last row: ticks and what they count
VALUE = 70  # to the right of the longest bar, for its value


def bars(comparison: Comparison) -> str:
    """SVG of every side's median, with a line from its 20th to its 80th percentile; twice."""
    return _drawn(comparison, WIDE, kind="wide") + "\n" + _drawn(comparison, NARROW, kind="narrow")


def shown_unit(comparison: Comparison) -> str:
    """What the bars count."""
    if comparison.timed:
        return f"milliseconds for one of the {comparison.unit}; shorter is faster"
    return f"{comparison.unit} a second"


def spreads(comparison: Comparison) -> dict[str, Spread]:
    """Of every side, in the unit that is shown."""
    of = comparison.milliseconds if comparison.timed else comparison.rate
    return {name: of(name) for name in comparison.rates}


def description(comparison: Comparison) -> str:
    """The chart in words, for those who do not see it."""
    sides = (f"{name}: {number(one.p50)}" for name, one in spreads(comparison).items())
    return f"{comparison.title}, {shown_unit(comparison)}. " + "; ".join(sides) + "."


def _drawn(comparison: Comparison, width: int, *, kind: str) -> str:
    found = spreads(comparison)
    most = max(one.p80 for one in found.values())
    scale = (width - VALUE) / most
    base = ROW * len(found)
    parts = _grid(most, scale, base, about=8 if kind == "wide" else 4)
    for row, (name, spread) in enumerate(found.items()):
        ours = name == comparison.ours and not comparison.apart
        parts += _side(name, spread, scale, ROW * row, ours=ours)
    unit = escape(shown_unit(comparison))
    parts.append(f'<text class="unit" x="0" y="{base + AXIS - 6}">{unit}</text>')
    label = escape(description(comparison), quote=True)
    box = f'viewBox="0 0 {width} {base + AXIS}"'
    content = "\n".join(parts)
    return f'<svg class="{kind} rates" {box} role="img" aria-label="{label}">\n{content}\n</svg>'


def _grid(most: float, scale: float, base: int, *, about: int) -> list[str]:
    parts = []
    for value in ticks(0.0, most, about):
        x = value * scale
        parts.append(f'<path class="grid" d="M{x:.1f} 0V{base}"/>')
        anchor = "" if value else ' style="text-anchor:start"'
        parts.append(
            f'<text class="tick middle" x="{x:.1f}" y="{base + 16}"{anchor}>{value:,.6g}</text>'
        )
    return parts


def _side(name: str, spread: Spread, scale: float, top: int, *, ours: bool) -> list[str]:
    """Name, bar, whisker and value."""
    kind = "ours" if ours else "theirs"
    start, middle, end = (value * scale for value in (spread.p20, spread.p50, spread.p80))
    bar, half = top + NAME + 4, top + NAME + 4 + BAR / 2
    return [
        f'<text class="side {kind}" x="0" y="{top + NAME - 2}">{escape(name)}</text>',
        f'<rect class="{kind}" x="0" y="{bar}" width="{middle:.1f}" height="{BAR}" rx="2"/>',
        f'<path class="whisker" d="M{start:.1f} {half - 4}v8M{start:.1f} {half}H{end:.1f}'
        f'M{end:.1f} {half - 4}v8"/>',
        f'<text class="value" x="{max(middle, end) + 8:.1f}" y="{half + 4.5}">'
        f"{number(spread.p50)}</text>",
    ]
