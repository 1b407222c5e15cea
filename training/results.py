"""What evaluate.py wrote about one encoder, read back for a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROTOCOLS = ("retrieval", "linear")
MEASURES = {"R@1": "R@1", "R@5": "R@5", "R@10": "R@10", "top-1": "linear top-1"}


@dataclass(frozen=True)
class Measured:
    """Shares from 0 to 1 of `evaluated` test videos, by measure, and those of chance.

    of: test videos in the manifest. gallery: training videos that were searched.
    """

    name: str
    folder: Path
    share: dict[str, float]
    chance: dict[str, float]
    evaluated: int
    of: int
    gallery: int
    classes: list[str]


def read_measured(name: str, folder: str | Path) -> Measured:
    """The retrieval and linear results in an output folder of evaluate.py, under a name."""
    folder = Path(folder)
    contents = [json.loads((folder / f"{protocol}.json").read_text()) for protocol in PROTOCOLS]
    first = contents[0]
    return Measured(
        name=name,
        folder=folder,
        share={measure: value for one in contents for measure, value in one["result"].items()},
        chance={measure: value for one in contents for measure, value in one["chance"].items()},
        evaluated=first["test"]["evaluated"],
        of=first["test"]["of"],
        gallery=first["train"]["evaluated"],
        classes=first["classes"],
    )


def measures(rows: Sequence[Measured]) -> list[str]:
    """The measures of the table that all rows have: R@10 needs ten training videos."""
    return [measure for measure in MEASURES if all(measure in row.share for row in rows)]


def gain(
    pretrained: Measured, baselines: Sequence[Measured], measure: str
) -> tuple[float, Measured]:
    """Points above the best baseline, and that baseline."""
    best = max(baselines, key=lambda row: row.share[measure])
    return 100 * (pretrained.share[measure] - best.share[measure]), best
