"""Figures that are computed and not measured, each with its arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from rich.table import Table
from rich.text import Text

from tools.benchmark.table import number


@dataclass(frozen=True)
class Figure:
    """how: the arithmetic, with its numbers."""

    what: str
    value: float
    unit: str
    how: str

    def cells(self) -> tuple[str, str, str]:
        """What it is, its value with the unit, its arithmetic."""
        return self.what, f"{number(self.value)} {self.unit}".strip(), self.how


@dataclass(frozen=True)
class Workings:
    """notes: what was taken for granted."""

    title: str
    figures: Sequence[Figure]
    notes: Sequence[str] = field(default_factory=list)

    def plain(self) -> dict:
        """For JSON, and `of_plain`."""
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: dict) -> Workings:
        return cls(plain["title"], [Figure(**one) for one in plain["figures"]], plain["notes"])

    def table(self) -> Table:
        """For a terminal."""
        made = Table(title=self.title, title_justify="left", caption_justify="left")
        for name, side in (("", "left"), ("figure", "right"), ("how", "left")):
            made.add_column(name, justify=side)
        for one in self.figures:
            made.add_row(*map(Text, one.cells()))
        made.caption = Text("\n".join(self.notes))
        return made

    def markdown(self) -> str:
        """The same table in Markdown, under its title as a heading."""
        rows = [("", "figure", "how"), ("---", "---:", "---"), *(f.cells() for f in self.figures)]
        table = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join([f"### {self.title}", "", *table, "", *(f"- {n}" for n in self.notes), ""])
