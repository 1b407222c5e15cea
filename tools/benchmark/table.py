"""Comparisons as a table for people and as JSON for everything else."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tools.benchmark.measure import Comparison, Spread

PACKAGES = ("torch", "nvidia-dali-cuda130", "av", "numpy", "pyarrow", "decord2", "imageio-ffmpeg")


def print_tables(comparisons: Sequence[Comparison], console: Console) -> None:
    for comparison in comparisons:
        console.print(_table(comparison))


def write_json(path: Path, comparisons: Sequence[Comparison]) -> None:
    content = {**conditions(), "comparisons": [one.plain() for one in comparisons]}
    path.write_text(json.dumps(content, indent=2) + "\n")


def conditions() -> dict:
    """Hardware, versions and the command: without them a figure says nothing."""
    return {
        "command": " ".join(["python -m tools.benchmark", *sys.argv[1:]]),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _table(comparison: Comparison) -> Table:
    table = Table(title=comparison.title, title_justify="left")
    table.add_column("")
    more = list(comparison.facts.get(comparison.ours, {}))
    ratio = "ours is ... times as fast"
    for name in (f"{comparison.unit}/s: median (20 %, 80 %)", ratio, "goal", *more):
        table.add_column(name, justify="right")
    for name in comparison.rates:
        facts = [f"{comparison.facts[name][fact]:.3g}" for fact in more]
        shown = [_shown(comparison.rate(name)), *_against(comparison, name), *facts]
        table.add_row(f"[bold]{name}[/]" if name == comparison.ours else name, *shown)
    table.caption = f"{len(comparison.rates[comparison.ours])} rounds, all sides in each"
    return table


def _against(comparison: Comparison, name: str) -> tuple[str, str]:
    """Our ratio to a rival, and whether it is the goal's."""
    if name == comparison.ours:
        return "", ""
    ratio, goal = comparison.ratio(name), comparison.goals.get(name)
    verdict = "" if goal is None else f"{goal:g} {'reached' if ratio.p50 >= goal else 'MISSED'}"
    return _shown(ratio), verdict


def _shown(spread: Spread) -> str:
    return f"{spread.p50:.3g} ({spread.p20:.3g}, {spread.p80:.3g})"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
