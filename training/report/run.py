"""What a run has left in its folder so far."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline import DataError, Manifest
from pipeline.quarantine import Quarantine
from training import config, stages, step_lines
from training.errors import ConfigError
from training.report.known import data_set, title
from training.timing import TIMING


@dataclass(frozen=True)
class Run:
    """metrics, times: an entry of each step, see `runlog` and `timing`; no entries before the first
    step. quarantined: videos that did not decode. train, online: the training videos, and
    those that ask each other meanwhile; None where their manifest is no longer there.
    """

    folder: Path
    recipe: config.Recipe
    metrics: list[dict]
    times: list[dict]
    quarantined: list[dict]
    environment: dict
    train: Manifest | None
    online: Manifest | None

    @cached_property
    def schedule(self) -> Sequence[stages.Stage]:
        """The stages; none where the number of videos is not known."""
        return stages.plan(self.recipe, len(self.train)) if self.train else []

    @property
    def step(self) -> int:
        """Steps done."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def is_done(self) -> bool:
        """Whether its last step is; no, where the number of steps is not known."""
        return bool(self.schedule) and self.step >= self.schedule[-1].last_step

    @property
    def lost(self) -> int:
        """The first step with a figure that is not finite; 0 where there is none."""
        wrong = (
            entry["step"]
            for entry in self.metrics
            if not all(math.isfinite(v) for v in entry.values() if isinstance(v, float))
        )
        return next(wrong, 0)

    @cached_property
    def data_set(self) -> str:
        """The name of the training videos' data set, where it is one that is known."""
        key = data_set(self.train.classes) if self.train else ""
        return title(key) if key else ""

    @property
    def described_data(self) -> str:
        """The data set's name, else how many videos; empty where they are not here now."""
        return self.data_set or (f"{len(self.train):,} other videos" if self.train else "")

    @property
    def seconds(self) -> float:
        """Time of all steps, over all attempts."""
        return sum(entry["seconds"] for entry in self.times)

    @cached_property
    def clips(self) -> dict[str, int]:
        """Clips that the network has seen, by stage; of runs that were timed."""
        seen: dict[str, float] = {}
        stage = self._stage_of_step
        for entry in self.times:
            if (name := stage.get(entry["step"])) is not None:
                seen[name] = seen.get(name, 0.0) + entry["seconds"] * entry["clips_per_second"]
        return {name: round(clips) for name, clips in seen.items()}

    @cached_property
    def _stage_of_step(self) -> dict[int, str]:
        return {entry["step"]: entry["stage"] for entry in self.metrics}

    def online_chance(self, k: int) -> float | None:
        """R@k while training of answers in random order, over the videos that decode and those that
        do not; None where nobody knows the videos, or a stage has others.
        """
        recipes = [self.recipe, *(stage.recipe for stage in self.schedule)]
        if self.online is None or len({(r.online.manifest, r.online.split) for r in recipes}) > 1:
            return None
        labels = self.online.labels
        _, videos = np.unique(labels[labels >= 0], return_counts=True)
        others = int(videos.sum()) - 1
        if k > others:
            return None
        missed = (m * math.comb(others + 1 - m, k) for m in videos.tolist())
        return 1 - sum(missed) / (math.comb(others, k) * (others + 1))

    def series(self, name: str) -> list[tuple[str, int, float]]:
        """(stage, step, value) of every step that has the figure `name`."""
        stage = self._stage_of_step
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
        train=_manifest(recipe.data.train, recipe.data.split),
        online=_manifest(recipe.online.manifest, recipe.online.split),
    )


def _manifest(path: str, split: str) -> Manifest | None:
    try:
        return Manifest.read(path, split, one_split=True) if path else None
    except DataError:  # moved since, or on another machine: the page is the poorer for it
        return None
