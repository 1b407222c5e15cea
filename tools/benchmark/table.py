"""Comparisons as tables for people, on a terminal or in Markdown."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from tools.benchmark.conditions import of_figure
from tools.benchmark.measure import Comparison, Spread


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
    against = [] if comparison.apart else ["ours is ... times as fast", "goal"]
    return [f"{figure}: median (20 %, 80 %)", *against, *_facts(comparison)]


def lines(comparison: Comparison) -> dict[str, list[str]]:
    """What stands under the headings, of every side by its name."""
    spread = comparison.milliseconds if comparison.timed else comparison.rate
    return {
        name: [
            shown(spread(name)),
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
        *([of_figure(comparison.conditions)] if comparison.conditions else []),
    ]


def verdicts(comparison: Comparison) -> list[str]:
    """Every goal, and whether it is reached."""
    speeds = [
        f"{comparison.ratio(name).p50:.3g} times as fast as {name} (goal: {goal:g} or more) "
        f"{_verdict(comparison, name)}"
        for name, goal in comparison.goals.items()
    ]
    return [f"{comparison.title}: {goal}" for goal in [*speeds, *map(str, comparison.limits)]]


def table(comparison: Comparison) -> Table:
    """For a terminal."""
    made = Table(title=comparison.title, title_justify="left", caption_justify="left")
    made.add_column("")
    for name in columns(comparison):
        made.add_column(name, justify="right")
    for name, cells in lines(comparison).items():
        made.add_row(f"[bold]{name}[/]" if name == comparison.ours else name, *cells)
    made.caption = Text("\n".join(notes(comparison)))  # as it is: brackets are no markup
    return made


def _facts(comparison: Comparison) -> list[str]:
    """Names of the facts of all sides, in the order in which they first come up."""
    return list(dict.fromkeys(fact for facts in comparison.facts.values() for fact in facts))


def _fact(comparison: Comparison, name: str, fact: str) -> str:
    value = comparison.facts.get(name, {}).get(fact)
    return "" if value is None else number(value)


def _against(comparison: Comparison, name: str) -> tuple[str, ...]:
    """Our ratio to a rival, and whether it is the goal's; nothing where sides are no rivals."""
    if comparison.apart:
        return ()
    if name == comparison.ours:
        return "", ""
    goal = comparison.goals.get(name)
    verdict = "" if goal is None else f"{goal:g} {_verdict(comparison, name)}"
    return shown(comparison.ratio(name)), verdict


def _verdict(comparison: Comparison, name: str) -> str:
    return "reached" if comparison.ratio(name).p50 >= comparison.goals[name] else "MISSED"


def shown(spread: Spread) -> str:
    return f"{number(spread.p50)} ({number(spread.p20)}, {number(spread.p80)})"


def number(value: float) -> str:
    """Three digits, and whole numbers whole."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
