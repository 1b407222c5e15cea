"""A classifier that sees few of the labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
import torch

from pipeline import Manifest
from pipeline.order import draws
from pipeline.windows import Rows
from training.errors import ConfigError
from training.features import Features
from training.protocols import finetune, fitting, linear
from training.protocols.fitting import Fitted
from training.protocols.job import Job
from training.protocols.linear import probe
from training.protocols.outcome import Outcome
from training.protocols.views import Views


@dataclass
class Options(finetune.Options):
    # lbfgs: a linear classifier on kept features; sgd: on augmented clips; finetune: all layers
    # (CVRL's paper)
    solver: Literal["lbfgs", "sgd", "finetune"] = "lbfgs"
    per_cent: list[float] = field(default_factory=lambda: [1.0, 10.0])  # of each class's labels
    list_seed: int = 0  # of the choice of videos, which nothing else changes


def measure(job: Job) -> Outcome:
    """`linear` or `finetune` with a part of every class's training videos; the shares that CVRL's
    paper takes. Its code has no such protocol, so that every solver's optimiser is finetune's.

    The videos of each part are listed by key in semi_<part>pct.txt. Raises ConfigError for a part
    that is none.
    """
    _check(job.options)
    manifest = job.sets["train"]
    lists = {
        per_cent: chosen(manifest.labels, per_cent, seed=job.options.list_seed)
        for per_cent in job.options.per_cent
    }
    if job.process.is_main:
        for per_cent, rows in lists.items():
            _write_list(job.folder / f"{_name(per_cent)}.txt", manifest, rows)
    if job.options.solver == "lbfgs":
        train, test = job.both()
        parts = {per_cent: part_of(train, rows) for per_cent, rows in lists.items()}
        _note(job, {per_cent: len(part.index) for per_cent, part in parts.items()})
        return _joined({p: probe(part, test, job.classes) for p, part in parts.items()})
    by = {"sgd": linear, "finetune": finetune}[job.options.solver]
    check = fitting.check if by is linear else finetune.check
    for rows in lists.values():
        check(job.options, Rows(manifest, rows))
    found = {p: _fitted(job, by, p, Rows(manifest, rows)) for p, rows in lists.items()}
    failed = {entry["key"] for entry in job.seen["train"]["failed"]}
    whole = np.array([key not in failed for key in manifest.keys])
    _note(job, {per_cent: int(whole[rows].sum()) for per_cent, rows in lists.items()})
    return _joined(found)


def _note(job: Job, videos: dict[float, int]) -> None:
    """Enter in the job how many labelled videos each part came to."""
    job.seen["train"]["labelled"] = {f"{part:g} %": number for part, number in videos.items()}


def _fitted(job: Job, by: ModuleType, per_cent: float, train: Rows) -> Outcome:
    return fitting.measure(job, *by.network(job), train=train, name=_name(per_cent))


def _joined(found: dict[float, Outcome]) -> Outcome:
    """The outcomes of all parts as one, each measure with its part's name."""
    hits, chance, settings = {}, {}, {}
    for per_cent, outcome in found.items():
        hits |= {f"{measure} of {per_cent:g} %": hit for measure, hit in outcome.hits.items()}
        chance |= {f"{name} of {per_cent:g} %": share for name, share in outcome.chance.items()}
        settings |= {f"{name} of {per_cent:g} %": v for name, v in outcome.settings.items()}
    return replace(outcome, hits=hits, chance=chance, settings=settings, probabilities=None)


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


def _name(per_cent: float) -> str:
    return f"semi_{per_cent:g}pct"


def _check(options: Options) -> None:
    outside = [share for share in options.per_cent if not 0 < share <= 100]
    if outside or not options.per_cent:
        raise ConfigError(
            f"error: eval.per_cent: expected numbers above 0 and up to 100, got {options.per_cent}"
        )
    if options.solver == "lbfgs":
        cure = "eval.solver=sgd or eval.solver=finetune"
        fitting.refuse_unused(options, finetune.Options, Views, cure)
    if options.solver == "sgd":
        fitting.refuse_unused(options, finetune.Options, Fitted, "eval.solver=finetune")
