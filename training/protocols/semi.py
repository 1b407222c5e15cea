"""A linear classifier that sees few of the labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pipeline import Manifest
from pipeline.order import draws
from training.errors import ConfigError
from training.features import Features
from training.protocols.job import Job
from training.protocols.linear import probe
from training.protocols.outcome import Outcome
from training.protocols.views import Views


@dataclass
class Options(Views):
    per_cent: list[float] = field(default_factory=lambda: [1.0, 10.0])  # of each class's labels
    list_seed: int = 0  # of the choice of videos, which nothing else changes


def measure(job: Job) -> Outcome:
    """`linear` with a part of every class's training videos; the shares that CVRL's paper takes.

    The videos of each part are listed by key in semi_<part>pct.txt. Raises ConfigError for a part
    that is none.
    """
    outside = [share for share in job.options.per_cent if not 0 < share <= 100]
    if outside or not job.options.per_cent:
        raise ConfigError(
            f"error: eval.per_cent: expected numbers above 0 and up to 100, got "
            f"{job.options.per_cent}"
        )
    train, test = job.both()
    hits, chance, settings = {}, {}, {}
    for per_cent in job.options.per_cent:
        rows = chosen(job.sets["train"].labels, per_cent, seed=job.options.list_seed)
        if job.process.is_main:
            _write_list(job.folder / f"semi_{per_cent:g}pct.txt", job.sets["train"], rows)
        found = probe(part_of(train, rows), test, job.classes)
        name = f"{per_cent:g} %"
        hits |= {f"{measure} of {name}": hit for measure, hit in found.hits.items()}
        chance |= {f"{measure} of {name}": share for measure, share in found.chance.items()}
        settings |= {f"weight_decay of {name}": found.settings["weight_decay"]}
    return Outcome(hits, chance, test.label, test.index, settings)


def chosen(labels: np.ndarray, per_cent: float, *, seed: int) -> np.ndarray:
    """Sorted rows of `per_cent` of every class, at least one of each: a pure function.

    A larger part holds every smaller one.
    """
    rows = []
    for label in np.unique(labels[labels >= 0]):
        own = np.flatnonzero(labels == label)
        order = draws(seed, 0, int(label), stream=0).permutation(len(own))
        rows.append(own[order[: max(1, round(len(own) * per_cent / 100))]])
    return np.sort(np.concatenate(rows))


def part_of(features: Features, rows: np.ndarray) -> Features:
    """The features of some rows of the manifest, as far as they decoded."""
    own = torch.isin(features.index, torch.from_numpy(rows))
    return Features(features.feature[own], features.label[own], features.index[own], failed=[])


def _write_list(path: Path, manifest: Manifest, rows: np.ndarray) -> None:
    keys = manifest.keys
    path.write_text("".join(f"{keys[row]}\n" for row in rows.tolist()), encoding="utf-8")
