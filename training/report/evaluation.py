"""What evaluate.py found of one encoder: results, features and answers, and the videos of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import DataError, Manifest
from training import features
from training.errors import ConfigError
from training.features import Features
from training.protocols import MEASURES, nearest
from training.protocols.inputs import BASELINES
from training.protocols.record import Stored, read_content

# Of several, the answers that are looked at class by class: those of a trained classifier first.
CLASSIFIERS = {
    "finetune": "fine-tuning",
    "linear": "the linear probe",
    "svm": "the linear SVM",
    "knn": "a vote of the nearest training videos",
}
PARENTS = 3  # folders above an evaluation in which its manifests are looked for


@dataclass(frozen=True)
class Answers:
    """What the encoder takes each test video for. label, given: [n] classes, true and answered;
    how: who answered, in words.
    """

    label: np.ndarray
    given: np.ndarray
    classes: list[str]
    how: str


@dataclass(frozen=True)
class Evaluation:
    """results: by protocol, what its JSON file says; of several splits, their mean."""

    name: str
    folder: Path
    results: dict[str, dict[str, Any]] = field(repr=False)

    @property
    def checkpoint(self) -> str:
        return next(iter(self.results.values()))["checkpoint"]

    @property
    def is_baseline(self) -> bool:
        return self.checkpoint in BASELINES

    @property
    def classes(self) -> list[str]:
        return next(iter(self.results.values()))["classes"]

    @property
    def failed(self) -> list[dict]:
        """Videos that failed in any of its protocols, each once."""
        parts = [one for part in ("train", "test") for one in self.parts(part)]
        return list({place_of(e): e for part in parts for e in part["failed"]}.values())

    @cached_property
    def details(self) -> Path:
        """Where features and answers are; of several splits, those of the first."""
        first = self.folder / "split1"
        return first if first.is_dir() else self.folder

    def features(self, part: str) -> Features | None:
        """Those that were kept, if any."""
        path = self.details / f"features_{part}.npz"
        return features.read(path)[1] if path.exists() else None

    def manifest(self, part: str, folders: Sequence[Path]) -> Manifest | None:
        """The videos of a set: the manifest of the same name and fingerprint, looked for in
        `folders` and above the evaluation.
        """
        known = self.parts(part)[0]
        above = [self.folder.resolve(), *self.folder.resolve().parents[:PARENTS]]
        for folder in [*folders, *above]:
            path = folder / known["manifest"]
            try:
                found = Manifest.read(path, known["split"]) if path.is_file() else None
            except DataError:
                continue
            if found is not None and found.fingerprint == known["fingerprint"]:
                return found
        return None

    @cached_property
    def answers(self) -> Answers | None:
        """Those of the first protocol of CLASSIFIERS there is; None where none left any."""
        for protocol, how in CLASSIFIERS.items():
            path = self.details / f"{protocol}.json"
            if path.exists() and path.with_name(f"{protocol}_probabilities.npz").exists():
                found = Stored(self.details, read_content(path)).probabilities()
                given = found.feature.numpy().argmax(1)
                return Answers(found.label.numpy(), given, self.classes, how)
        return self._nearest()

    def _nearest(self) -> Answers | None:
        test, train = self.features("test"), self.features("train")
        if test is None or train is None:
            return None
        given = train.label[nearest(test.feature, train.feature, 1)[:, 0]]
        return Answers(
            test.label.numpy(), given.numpy(), self.classes, "the nearest training video"
        )

    def parts(self, part: str) -> list[dict]:
        """Of every protocol, and of every split where there are several."""
        found = [result[part] for result in self.results.values()]
        return [one for entry in found for one in (entry if isinstance(entry, list) else [entry])]


def read_evaluation(folder: str | Path, name: str = "") -> Evaluation:
    """The results in an output folder of evaluate.py. Raises ConfigError where there is none."""
    folder = Path(folder)
    paths = {protocol: folder / f"{protocol}.json" for protocol in MEASURES}
    results = {name: read_content(path) for name, path in paths.items() if path.exists()}
    if not results:
        raise ConfigError(
            f"error: no result of evaluate.py · {folder} · name a folder that it wrote with -o"
        )
    return Evaluation(name or folder.resolve().name, folder, results)


def place_of(failed: dict) -> tuple[str, str]:
    """What a video that failed is known by: many may be in one file, a shard."""
    return failed["path"], failed.get("key", "")


def best(evaluations: Sequence[Evaluation]) -> Evaluation:
    """The one that the page is about: the first that is no baseline."""
    return next((one for one in evaluations if not one.is_baseline), evaluations[0])
