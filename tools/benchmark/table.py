"""Comparisons as tables for people, on a terminal or in Markdown, and as JSON for the rest."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tools.benchmark.conditions import conditions
from tools.benchmark.measure import Comparison, Spread


class Record:
    """Comparisons as they come: each is shown and written at once, for a later one may fail."""

    def __init__(self, path: Path, console: Console):
        self.path, self.console = path, console
        self.comparisons: list[Comparison] = []
        self.not_measured: list[str] = []  # for lack of time
        self.more: dict = {}  # what else the file says

    def add(self, *comparisons: Comparison) -> None:
        for comparison in comparisons:
            self.console.print(_table(comparison))
        self.comparisons += comparisons
        self.write()

    def skip(self, what: str) -> None:
        self.console.print(f"no time is left for {what}")
        self.not_measured.append(what)
        self.write()

    def write(self) -> None:
        content = {
            **conditions(),
            **self.more,
            "comparisons": [comparison.plain() for comparison in self.comparisons],
            "not_measured": self.not_measured,
        }
        self.path.write_text(json.dumps(content, indent=2) + "\n")


def markdown(comparison: Comparison) -> str:
    """The same table in Markdown, under its title as a heading."""
    names = ["", *columns(comparison)]
    rows = [[name, *cells] for name, cells in lines(comparison).items()]
    table = [names, ["---", *["---:"] * (len(names) - 1)], *rows]
    return "\n".join(
        [
            f"### {comparison.title}",
            "",
            *("| " + " | ".join(row) + " |" for row in table),
            "",
            *(f"- {note}" for note in notes(comparison)),
            "",
        ]
    )


def columns(comparison: Comparison) -> list[str]:
    """Headings, without that of the sides' names."""
    figure = "ms" if comparison.timed else f"{comparison.unit}/s"
    ratio = "ours is ... times as fast"
    return [f"{figure}: median (20 %, 80 %)", ratio, "goal", *_facts(comparison)]


def lines(comparison: Comparison) -> dict[str, list[str]]:
    """What stands under the headings, of every side by its name."""
    spread = comparison.milliseconds if comparison.timed else comparison.rate
    return {
        name: [
            _shown(spread(name)),
            *_against(comparison, name),
            *(_fact(comparison, name, fact) for fact in _facts(comparison)),
        ]
        for name in comparison.rates
    }


def notes(comparison: Comparison) -> list[str]:
    """What stands below the table."""
    rounds = len(comparison.rates[comparison.ours])
    return [
        f"{rounds} rounds, all sides in each",
        *map(str, comparison.limits),
        *(f"left out: {name}: {why}" for name, why in comparison.left_out.items()),
    ]


def verdicts(comparison: Comparison) -> list[str]:
    """Every goal, and whether it is reached."""
    speeds = [
        f"{comparison.ratio(name).p50:.3g} times as fast as {name} (goal: {goal:g} or more) "
        f"{_verdict(comparison, name)}"
        for name, goal in comparison.goals.items()
    ]
    return [f"{comparison.title}: {goal}" for goal in [*speeds, *map(str, comparison.limits)]]


def _table(comparison: Comparison) -> Table:
    table = Table(title=comparison.title, title_justify="left", caption_justify="left")
    table.add_column("")
    for name in columns(comparison):
        table.add_column(name, justify="right")
    for name, cells in lines(comparison).items():
        table.add_row(f"[bold]{name}[/]" if name == comparison.ours else name, *cells)
    table.caption = Text("\n".join(notes(comparison)))  # as it is: brackets are no markup
    return table


def _facts(comparison: Comparison) -> list[str]:
    """Names of the facts of all sides, in the order in which they first come up."""
    return list(dict.fromkeys(fact for facts in comparison.facts.values() for fact in facts))


def _fact(comparison: Comparison, name: str, fact: str) -> str:
    value = comparison.facts.get(name, {}).get(fact)
    return "" if value is None else _number(value)


def _against(comparison: Comparison, name: str) -> tuple[str, str]:
    """Our ratio to a rival, and whether it is the goal's."""
    if name == comparison.ours:
        return "", ""
    goal = comparison.goals.get(name)
    verdict = "" if goal is None else f"{goal:g} {_verdict(comparison, name)}"
    return _shown(comparison.ratio(name)), verdict


def _verdict(comparison: Comparison, name: str) -> str:
    return "reached" if comparison.ratio(name).p50 >= comparison.goals[name] else "MISSED"


def _shown(spread: Spread) -> str:
    return f"{_number(spread.p50)} ({_number(spread.p20)}, {_number(spread.p80)})"


def _number(value: float) -> str:
    """Three digits, and whole numbers whole."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
