"""Mean and spread of several demos: does pretraining win every time, or was one seed lucky?

python -m tools.spread demo/seeds/0 demo/seeds/1 demo/seeds/2
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from training.errors import ConfigError
from training.results import MEASURES, Measured, gain, measures, read_measured

ROWS = {"random": "random network", "pretrained": "pretrained", "pixels": "raw pixels"}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.spread", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of demos")
    folders = parser.parse_args(argv).folders
    try:
        found = {key: [read(name, key, folder) for folder in folders] for key, name in ROWS.items()}
    except ConfigError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    show(found)
    return 0


def read(name: str, key: str, folder: Path) -> Measured:
    """One row of one demo's table. Raises ConfigError when the demo has not ended."""
    try:
        return read_measured(name, folder / "eval" / key)
    except OSError as error:
        raise ConfigError(f"error: no finished demo · {folder} · {error}") from error


def show(found: dict[str, list[Measured]]) -> None:
    """A table of means, with the lowest and the highest of all seeds, and the gain per seed."""
    columns = measures([row for rows in found.values() for row in rows])
    seeds = len(found["pretrained"])
    table = Table(title=f"mean of {seeds} seeds (lowest to highest)")
    table.add_column("per cent")
    for measure in columns:
        table.add_column(MEASURES[measure], justify="right")
    for key, rows in found.items():
        table.add_row(ROWS[key], *[_span([100 * r.share[m] for r in rows]) for m in columns])
    Console().print(table)
    gains = [
        gain(pretrained, (random, pixels), "R@1")[0]
        for random, pretrained, pixels in zip(*(found[key] for key in ROWS), strict=True)
    ]
    print(f"R@1: pretrained {_span(gains)} points over the better baseline")


def _span(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    sys.exit(main())
