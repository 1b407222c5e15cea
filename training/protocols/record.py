"""The result of a protocol as one JSON file, and as lines on the terminal.

Equal measurements give equal bytes: no times, no orders that vary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.whole import whole_file
from training.errors import ConfigError
from training.features import Features, digest_of, stream_of
from training.protocols.job import Job, Part
from training.protocols.origin import versions
from training.protocols.outcome import LEVEL, Outcome, interval_of_mean
from training.runlog import environment

CROPS = {  # by augment.eval_crops
    1: "central square",
    3: "three squares along the long side",
    5: "four corners and the centre",
    10: "four corners and the centre, and their mirror images",
}
SHOWN_FAILURES = 5
INTERVALS = f"intervals_{100 * LEVEL:.0f}"
TRAINING = "training"  # how the clips were made that a classifier was trained on


def content_of(job: Job, outcome: Outcome) -> dict[str, Any]:
    """All that is known of a result, in plain values."""
    recipe, source = job.recipe, job.source
    views = {"frames": recipe.clip.frames, "stride": recipe.clip.stride,
             "size": recipe.augment.size, "crops": recipe.augment.eval_crops,
             "crop": CROPS[recipe.augment.eval_crops], "mean_of": outcome.mean_of,
             "eval_scale": recipe.augment.eval_scale, "stream": stream_of(recipe)}  # fmt: skip
    if job.flow:
        views["flow"] = {name: job.flow[name] for name in ("operator", "encoding")}
    content = {
        "protocol": job.protocol,
        "options": job.settings(),
        "checkpoint": source.name,
        "checkpoint_sha256": source.sha256,
        **figures(outcome, job.sets["test"].classes),
        "views": views,
        "classes": list(job.sets["test"].classes),
    }
    for part in ("train", "test"):
        content[part] = counts(job, part)
    if job.options.trains_on_clips:
        content[TRAINING] = job.training_views
    content["recipe"] = recipe.plain()
    content["environment"] = {**environment(), "libraries": versions()}
    content["digest"] = digest_of(content)
    return content


def figures(outcome: Outcome, classes: list[str]) -> dict[str, Any]:
    """Shares, what the protocol chose, intervals, chance, and the shares of every class."""
    return {
        "result": {**outcome.shares, **outcome.settings},
        INTERVALS: outcome.intervals,
        "chance": outcome.chance,
        "per_class": outcome.per_class(classes),
    }


def counts(job: Job, part: Part) -> dict[str, Any]:
    """Which videos of a set were looked at and how, and which failed."""
    manifest, seen = job.sets[part], job.seen[part]
    return {
        "manifest": manifest.path.name,
        "fingerprint": manifest.fingerprint,
        "split": manifest.split,
        "evaluated": len(manifest) - len(seen["failed"]),
        "of": len(manifest),
        **seen,
    }


def mean_of(contents: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean over several splits of one data set, as papers print it, its interval, and each
    split's counts.

    Of the measures that all splits have: R@50 needs 50 training videos.
    """
    first = contents[0]
    shared = ("protocol", "options", "checkpoint", "checkpoint_sha256", "views", "classes",
              TRAINING, "environment")  # fmt: skip
    content = {name: first[name] for name in shared if name in first}
    if "joined" in first:  # of every split
        of_a_split = ("result", "digest")
        content["joined"] = [
            {name: one[name] for name in one if name not in of_a_split} for one in first["joined"]
        ]
    common = [m for m in first["chance"] if all(m in one["chance"] for one in contents)]
    for name in ("result", "chance"):
        content[name] = {
            measure: sum(one[name][measure] for one in contents) / len(contents)
            for measure in common
        }
    content[INTERVALS] = {
        measure: interval_of_mean([_right(one, measure) for one in contents]) for measure in common
    }
    content["splits"] = [one["result"] for one in contents]
    content |= {part: [one[part] for one in contents] for part in ("train", "test")}
    content["digest"] = digest_of(content)
    return content


def _right(content: dict[str, Any], measure: str) -> tuple[int, int]:
    """How many test videos were answered rightly, of how many."""
    videos = content["test"]["evaluated"]
    return round(content["result"][measure] * videos), videos


def write(folder: Path, content: dict[str, Any], outcome: Outcome | None = None) -> Path:
    """<protocol>.json and, where there are any, <protocol>_probabilities.npz of the same digest."""
    protocol = content["protocol"]
    if outcome is not None and outcome.probabilities is not None:
        with whole_file(folder / f"{protocol}_probabilities.npz") as file:
            np.savez(
                file,
                digest=content["digest"],
                probabilities=outcome.probabilities.float().numpy(),
                label=outcome.label.numpy(),
                index=outcome.index.numpy(),
            )
    path = folder / f"{protocol}.json"
    with whole_file(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    return path


@dataclass(frozen=True)
class Stored:
    """A result that was read again."""

    folder: Path
    content: dict[str, Any] = field(repr=False)

    def probabilities(self) -> Features:
        """Those of every test video, as features. Raises ConfigError for those of another run."""
        protocol = self.content["protocol"]
        path = self.folder / f"{protocol}_probabilities.npz"
        if not path.exists():
            raise ConfigError(f"error: no probabilities beside {protocol}.json · {path}")
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["digest"]) != self.content["digest"]:
                raise ConfigError(
                    f"error: they are not of the {protocol}.json beside them · {path} · run "
                    f"evaluate.py {protocol} again"
                )
            names = ("probabilities", "label", "index")
            return Features(*(torch.from_numpy(stored[name]) for name in names), failed=[])


def read(folder: Path, protocol: str) -> Stored:
    """The result of a protocol in a folder. Raises ConfigError where there is none."""
    return Stored(folder, read_content(folder / f"{protocol}.json"))


def read_content(path: Path) -> dict[str, Any]:
    """What a result file says. Raises ConfigError for one that is missing or of other programs."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"error: no result of evaluate.py · {path} · run the protocol first"
        ) from error
    if not isinstance(content, dict) or not {"protocol", "digest", "result"} <= set(content):
        raise ConfigError(
            f"error: a JSON file, but no result of this version of evaluate.py · {path} · run the "
            "protocol again"
        )
    return content


def lines(content: dict[str, Any], path: Path) -> list[str]:
    """What the terminal is told: denominators first, then every share beside chance."""
    shares = "  ".join(share_line(content, name) for name in content["chance"])
    splits = f", mean of {len(content['splits'])} splits" if "splits" in content else ""
    told = f"{content['protocol']} of {content['checkpoint']}{splits}: {shares}"
    return [*([] if splits else count_lines(content)), told, f"written to {path}"]


def count_lines(content: dict[str, Any]) -> list[str]:
    """How many videos of each set were measured, and which failed."""
    told = []
    for part in ("train", "test"):
        if part in content:
            known = content[part]
            names = ", ".join(entry["path"] for entry in known["failed"][:SHOWN_FAILURES])
            failed = f", failed {len(known['failed'])} ({names})" if known["failed"] else ""
            few = f", labels of {labels}" if (labels := labelled(known)) else ""
            told.append(f"{part}: evaluated {known['evaluated']}/{known['of']}{failed}{few}")
    return told


def labelled(known: dict[str, Any]) -> str:
    """Of `semi`, how many videos every part of the labels comes to, as 101 (1 %), 954 (10 %).

    At least one of a class is taken, so that a part may be larger than its name.
    """
    return ", ".join(f"{number} ({part})" for part, number in known.get("labelled", {}).items())


def share_line(content: dict[str, Any], name: str) -> str:
    """As R@1 62.1 % (chance 1.0; 95 % interval 60.5 to 63.6)."""
    share, chance = 100 * content["result"][name], 100 * content["chance"][name]
    low, high = (100 * end for end in content[INTERVALS][name])
    between = f"{100 * LEVEL:.0f} % interval {low:.1f} to {high:.1f}"
    return f"{name} {share:.1f} % (chance {chance:.1f}; {between})"
