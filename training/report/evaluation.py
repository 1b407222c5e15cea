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
from training.protocols.retrieval import centered

# Of several, the answers that are looked at class by class: those of a trained classifier first.
CLASSIFIERS = {
    "finetune": "fine-tuning",
    "linear": "the linear probe",
    "svm": "the linear SVM",
    "knn": "a vote of the nearest training videos",
}
PARTS = ("train", "test")
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
class Kept:
    """Features of a set as a protocol compared them; None: `why` says in words what is missing."""

    features: Features | None
    why: str = ""


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
        """Whether nothing of it was trained; of two that were joined, of neither."""
        return all(name in BASELINES for name in self.checkpoint.split(" + "))

    @property
    def classes(self) -> list[str]:
        return next(iter(self.results.values()))["classes"]

    @property
    def failed(self) -> list[dict]:
        """Videos that failed in any of its protocols, each once."""
        results = [(name, part) for name in self.results for part in PARTS]
        parts = [one for name, part in results for one in self._sets(name, part)]
        return list({place_of(e): e for part in parts for e in part["failed"]}.values())

    @property
    def compared(self) -> str:
        """The protocol whose features are looked at: the first that was measured on kept ones;
        empty where none was.
        """
        return next((name for name in self.results if "features" in self._set(name, "test")), "")

    @property
    def videos(self) -> list[tuple[str, str]]:
        """What stands for the videos of both sets of `compared`, and for their order."""
        sets = [self._set(self.compared, part) for part in PARTS]
        return [(one["fingerprint"], one["split"]) for one in sets]

    def kept(self, part: str) -> Kept:
        """The features of a set that `compared` was measured on, centred where it centred them.

        Something later with other options may have replaced the file.
        """
        if not (protocol := self.compared):
            return Kept(None, f"no result of {self.name} was measured on features that are kept")
        path = self._folder(protocol) / f"features_{part}.npz"
        if not path.exists():
            return Kept(None, f"{path.name} of {self.name} is not beside its {protocol}.json")
        digest, found = features.read(path)
        owners = [one for one in self.results if self._set(one, part).get("features") == digest]
        if protocol in owners:
            return Kept(self._as_compared(found))
        of = f"its {owners[0]}" if owners else "no result here"
        return Kept(None, f"{path.name} of {self.name} is of {of} and not of its {protocol}: run "
                          f"evaluate.py {protocol} again")  # fmt: skip

    def manifest(self, part: str, folders: Sequence[Path]) -> Manifest | None:
        """The videos of a set of `compared`: the manifest of the same name and fingerprint, looked
        for in `folders` and above the evaluation.
        """
        if not self.compared:
            return None
        known = self._set(self.compared, part)
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
            if protocol not in self.results:
                continue
            path = self._folder(protocol) / f"{protocol}.json"
            if path.exists() and path.with_name(f"{protocol}_probabilities.npz").exists():
                found = Stored(path.parent, read_content(path)).probabilities()
                given = found.feature.numpy().argmax(1)
                return Answers(found.label.numpy(), given, self.classes, self._told(how, protocol))
        return self._nearest()

    def _nearest(self) -> Answers | None:
        train, test = (self.kept(part).features for part in PARTS)
        if test is None or train is None:
            return None
        given = train.label[nearest(test.feature, train.feature, 1)[:, 0]]
        how = self._told("the nearest training video", self.compared)
        return Answers(test.label.numpy(), given.numpy(), self.classes, how)

    def _as_compared(self, found: Features) -> Features:
        """Joined ones were centred before they were kept."""
        result = self.results[self.compared]
        center = result["options"].get("center", False) and "joined" not in result
        return centered(found) if center else found

    def _told(self, how: str, protocol: str) -> str:
        first = ", on the first of the splits" if self._folder(protocol) != self.folder else ""
        return f"{how}{first}"

    def _folder(self, protocol: str) -> Path:
        """Where its features and answers are; of several splits, those of the first."""
        return self.folder / "split1" if "splits" in self.results[protocol] else self.folder

    def _set(self, protocol: str, part: str) -> dict:
        """What a result says of a set; of several splits, of that of the first."""
        return self._sets(protocol, part)[0]

    def _sets(self, protocol: str, part: str) -> list[dict]:
        """Of every split where there are several."""
        found = self.results[protocol][part]
        return found if isinstance(found, list) else [found]


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
