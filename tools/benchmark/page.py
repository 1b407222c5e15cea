"""What was measured as one HTML file that needs nothing else: bars, tables, goals, conditions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from string import Template

from tools.benchmark.bars import bars
from tools.benchmark.conditions import in_words
from tools.benchmark.measure import Comparison
from tools.benchmark.table import columns, lines, notes, verdicts
from tools.benchmark.workings import Workings
from training.report.chart import curves, small_chart
from training.report.page import TEMPLATE

# What the report's page has no rule for.
STYLE = """
.rates rect { fill: var(--soft); fill-opacity: .45; }
.rates rect.ours { fill: var(--accent); fill-opacity: 1; }
svg .side, svg .value { fill: var(--ink); }
svg .side.ours { font-weight: 650; }
.whisker { stroke: var(--ink); stroke-width: 1.2; fill: none; }
.figures { margin-top: 1.2rem; font-size: .875rem; }
.figures td, .figures th { min-width: 5.5em; padding-bottom: .6rem; text-align: right; }
.figures th:first-child { text-align: left; }
.figures thead th { white-space: normal; vertical-align: bottom; }
.figures .ours > * { font-weight: 650; }
.figures .how { text-align: left; white-space: normal; min-width: 16em; }
.goals { list-style: none; margin: 0; padding: 0; }
.goals li { padding: .3rem 0 .3rem 1.6em; text-indent: -1.6em; overflow-wrap: anywhere; }
.goals b { display: inline-block; width: 1.6em; text-indent: 0; }
.reached b { color: var(--right); }
.missed b { color: var(--wrong); }
.note ul { margin: 0; padding-left: 1.2em; }
"""
MISSED = "MISSED"


def page(
    name: str,
    facts: dict,
    *,
    comparisons: Sequence[Comparison],
    workings: Sequence[Workings] = (),
    not_measured: Sequence[str] = (),
) -> str:
    """The whole page. name: of the command or of the device; facts: see `conditions`."""
    goals = [verdict for one in comparisons for verdict in verdicts(one)]
    return _template().substitute(
        title=escape(f"Benchmark: {name}"),
        lead=_lead(goals),
        summary="",
        sections="\n".join(_sections(facts, goals, comparisons, workings, not_measured)),
        environment=escape(f"{in_words(facts)} · {facts['command']}"),
    )


def _template() -> Template:
    """The page of a run, with rules of this one's own."""
    report = TEMPLATE.read_text(encoding="utf-8")
    return Template(report.replace("</style>", STYLE + "</style>"))


def _lead(goals: Sequence[str]) -> str:
    if not goals:
        return "Figures without a goal."
    reached = sum(not goal.endswith(MISSED) for goal in goals)
    return f"<strong>{reached} of {len(goals)}</strong> goals are reached."


def _sections(
    facts: dict,
    goals: Sequence[str],
    comparisons: Sequence[Comparison],
    workings: Sequence[Workings],
    not_measured: Sequence[str],
) -> Iterator[str]:
    if goals:
        yield _section("Goals", _goals(goals))
    for comparison in comparisons:
        drawn = f"{bars(comparison)}\n{_figures(comparison)}{_series(comparison)}"
        yield _section(comparison.title, drawn + _listed(notes(comparison)))
    for one in workings:
        yield _section(one.title, _arithmetic(one) + _listed(one.notes))
    if not_measured:
        yield _section("No time was left for", _listed(not_measured))
    yield _section("Measured on", f"<dl>{_conditions(facts)}</dl>")


def _goals(goals: Sequence[str]) -> str:
    items = []
    for goal in goals:
        kind, mark = ("missed", "✗") if goal.endswith(MISSED) else ("reached", "✓")
        items.append(f'<li class="{kind}"><b>{mark}</b>{escape(goal)}</li>')
    return f'<ul class="goals">{"".join(items)}</ul>'


def _figures(comparison: Comparison) -> str:
    """The cells that a terminal shows."""
    rows = []
    for name, cells in lines(comparison).items():
        ours = name == comparison.ours and not comparison.apart
        row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        kind = ' class="ours"' if ours else ""
        rows.append(f'<tr{kind}><th scope="row">{escape(name)}</th>{row}</tr>')
    return _table(["", *columns(comparison)], rows, label="Figures")


def _arithmetic(workings: Workings) -> str:
    rows = []
    for figure in workings.figures:
        what, value, how = map(escape, figure.cells())
        cells = f'<td>{value}</td><td class="how">{how}</td>'
        rows.append(f'<tr><th scope="row">{what}</th>{cells}</tr>')
    return _table(["", "figure", "how"], rows, label="Arithmetic")


def _table(names: Sequence[str], rows: Sequence[str], *, label: str) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    where = f'class="scroll" tabindex="0" role="region" aria-label="{label}"'
    return f'<div {where}><table class="figures">{table}</table></div>'


def _series(comparison: Comparison) -> str:
    drawn = "".join(
        small_chart(curves([("", step, value) for step, value in points]), name=name)
        for name, points in comparison.series.items()
    )
    return f'<div class="charts">{drawn}</div>' if drawn else ""


def _listed(items: Sequence[str]) -> str:
    listed = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f'<div class="note"><ul>{listed}</ul></div>' if items else ""


def _conditions(facts: dict) -> str:
    settings = {**facts, **facts["versions"], **facts["threading"]}
    del settings["versions"], settings["threading"]
    pairs = ((name, str(value)) for name, value in settings.items() if value)
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>"
