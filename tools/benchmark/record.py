"""What a command has measured so far: on the terminal, as JSON and as a page."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console

from pipeline.whole import whole_file
from tools.benchmark.conditions import conditions
from tools.benchmark.measure import Comparison
from tools.benchmark.page import page
from tools.benchmark.table import table
from tools.benchmark.workings import Workings


class Record:
    """Comparisons as they come: each is shown and written at once, for a later one may fail.

    path: of the JSON; the page is beside it and ends in .html.
    """

    def __init__(self, path: Path, console: Console):
        self.path, self.console = path, console
        self.comparisons: list[Comparison] = []
        self.workings: list[Workings] = []
        self.not_measured: list[str] = []  # for lack of time
        self.more: dict = {}  # what else the file says

    @property
    def page(self) -> Path:
        return self.path.with_suffix(".html")

    def add(self, *comparisons: Comparison) -> None:
        for comparison in comparisons:
            comparison.conditions = conditions()
            self.console.print(table(comparison))
        self.comparisons += comparisons
        self.write()

    def explain(self, workings: Workings) -> None:
        self.console.print(workings.table())
        self.workings.append(workings)
        self.write()

    def skip(self, what: str) -> None:
        self.console.print(f"no time is left for {what}")
        self.not_measured.append(what)
        self.write()

    def write(self) -> None:
        facts = conditions()
        content = {
            **facts,
            **self.more,
            "comparisons": [comparison.plain() for comparison in self.comparisons],
            "workings": [workings.plain() for workings in self.workings],
            "not_measured": self.not_measured,
        }
        self.path.write_text(json.dumps(content, indent=2) + "\n")
        text = page(
            self.path.stem,
            facts,
            comparisons=self.comparisons,
            workings=self.workings,
            not_measured=self.not_measured,
        )
        with whole_file(self.page, sync=False) as file:
            file.write(text.encode())
