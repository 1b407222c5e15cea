"""What a run has left in its folder so far."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline import DataError, Manifest
from pipeline.quarantine import Quarantine
from training import config, stages, step_lines
from training.errors import ConfigError
from training.timing import TIMING


@dataclass(frozen=True)
class Run:
    """metrics, times: an entry of each step, see `runlog` and `timing`; no entries before the first
    step. quarantined: videos that did not decode. train: the training videos; None where their
    manifest is no longer there.
    """

    folder: Path
    recipe: config.Recipe
    metrics: list[dict]
    times: list[dict]
    quarantined: list[dict]
    environment: dict
    train: Manifest | None

    @cached_property
    def schedule(self) -> Sequence[stages.Stage]:
        """The stages; none where the number of videos is not known."""
        return stages.plan(self.recipe, len(self.train)) if self.train else []

    @property
    def step(self) -> int:
        """Steps done."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def seconds(self) -> float:
        """Time of all steps, over all attempts."""
        return sum(entry["seconds"] for entry in self.times)

    @property
    def clips(self) -> int:
        """Clips that the network has seen."""
        return round(sum(entry["seconds"] * entry["clips_per_second"] for entry in self.times))

    def series(self, name: str) -> list[tuple[str, int, float]]:
        """(stage, step, value) of every step that has the figure `name`."""
        stage = {entry["step"]: entry["stage"] for entry in self.metrics}
        entries = self.times if self.times and name in self.times[0] else self.metrics
        return [
            (stage[entry["step"]], entry["step"], entry[name])
            for entry in entries
            if name in entry and entry["step"] in stage
        ]


def read_run(folder: Path) -> Run:
    """Read the folder, whether or not the run goes on meanwhile. Raises ConfigError."""
    if not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"error: no run folder: config.yaml is missing · {folder} · name the run.dir of a "
            "training that has begun"
        )
    recipe = config.load(folder / "config.yaml", [])
    environment = folder / "env.json"
    known = Quarantine(folder / "quarantine.jsonl", videos=0, max_bad_fraction=1).known
    return Run(
        folder=folder,
        recipe=recipe,
        metrics=step_lines.read(folder / "metrics.jsonl"),
        times=step_lines.read(folder / TIMING),
        quarantined=list(known.values()),
        environment=json.loads(environment.read_text()) if environment.exists() else {},
        train=_manifest(recipe),
    )


def _manifest(recipe: config.Recipe) -> Manifest | None:
    try:
        return Manifest.read(recipe.data.train, recipe.data.split, one_split=True)
    except DataError:  # moved since, or on another machine: the page is the poorer for it
        return None
