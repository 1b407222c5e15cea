"""RGB and flow together: the results of two encoders of the same videos, joined late."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from training import features
from training.errors import ConfigError
from training.features import Features, digest_of, failed_once
from training.protocols import record, retrieval
from training.protocols.origin import versions
from training.protocols.outcome import Outcome, classified
from training.protocols.record import Stored

SAME = ("protocol", "classes")  # what two results have to share to be joined
# What is told of each of the two, as far as it has it.
JOINED = ("checkpoint", "options", "views", record.TRAINING, "result", "digest")
PARTS = ("train", "test")
OF_A_PART = ("fingerprint", "split")
OF_SAMPLING = ("sampling", "clips", "step", "seed")  # told of the joined result where both agree


def measure(folders: list[Path], protocol: str) -> tuple[dict[str, Any], Outcome]:
    """The joined result of two folders, as ViCC's code joins its streams.

    Retrieval: sum of the cosine similarities. Classification: mean of the probabilities. Videos
    that failed in either are left out and listed. Raises ConfigError for results that do not fit
    together.
    """
    results = [record.read(folder, protocol) for folder in folders]
    for result in results:
        check_single(result)
    check_alike(*results)
    join = similarities if protocol == "retrieval" else probabilities
    outcome, failed = join(results)
    return content_of(results, outcome, failed), outcome


def check_single(result: Stored) -> None:
    """Raise ConfigError for what is itself made of several results."""
    kinds = {"splits": "a mean over splits", "joined": "a joined result"}
    for name, what in kinds.items():
        if name in result.content:
            raise ConfigError(
                f"error: {what} is not joined with another · {result.folder} · give the folder of "
                "a single one"
            )


def check_alike(one: Stored, other: Stored) -> None:
    """Raise ConfigError naming what differs: protocol, classes, videos, options of retrieval."""
    pairs = {name: (one.content[name], other.content[name]) for name in SAME}
    for part in PARTS:
        for name in OF_A_PART:
            pairs[f"{part}.{name}"] = (one.content[part][name], other.content[part][name])
    if one.content["protocol"] == "retrieval":
        pairs["options"] = (one.content["options"], other.content["options"])
    different = [name for name, (left, right) in pairs.items() if left != right]
    if different:
        raise ConfigError(
            f"error: the results differ in {', '.join(different)} and cannot be joined · "
            f"{one.folder} and {other.folder} · measure both with the same command"
        )


def similarities(results: list[Stored]) -> tuple[Outcome, dict[str, list[dict]]]:
    """Recall at k by the sum of both cosines."""
    own = {part: [_features(result, part) for result in results] for part in PARTS}
    joined = {part: side_by_side(own[part], results) for part in PARTS}
    failed = {part: _failed(own[part]) for part in PARTS}
    return retrieval.asked(joined["test"], joined["train"]), failed


def side_by_side(own: list[Features], results: list[Stored]) -> Features:
    """The videos of one set that all results have, by `summed`; centred first where retrieval was
    to be.
    """
    common = _common(own)
    if results[0].content["options"]["center"]:
        common = [retrieval.centered(one) for one in common]
    return summed(common)


def summed(parts: list[Features]) -> Features:
    """Features whose dot products are the sums of the parts' cosines: side by side."""
    feature = torch.cat([part.feature for part in parts], dim=1)
    return replace(parts[0], feature=feature, length=None)


def probabilities(results: list[Stored]) -> tuple[Outcome, dict[str, list[dict]]]:
    """Top-1 and top-5 of the mean of both probabilities."""
    found = [result.probabilities() for result in results]
    listed = {
        part: failed_once([e for result in results for e in result.content[part]["failed"]])
        for part in PARTS
    }
    one, other = _common(found)
    return classified((one.feature + other.feature) / 2, one.label, one.index), listed


def content_of(
    results: list[Stored], outcome: Outcome, failed: dict[str, list[dict]]
) -> dict[str, Any]:
    """As the result of a single encoder, and what it was joined from."""
    first = results[0].content
    content = {
        "protocol": first["protocol"],
        "options": first["options"],
        "checkpoint": " + ".join(result.content["checkpoint"] for result in results),
        "checkpoint_sha256": " + ".join(result.content["checkpoint_sha256"] for result in results),
        "joined": [
            {name: result.content[name] for name in JOINED if name in result.content}
            for result in results
        ],
        **record.figures(outcome, first["classes"]),
        "views": [result.content["views"] for result in results],
        "classes": first["classes"],
    }
    if record.TRAINING in first:
        content[record.TRAINING] = first[record.TRAINING]
    for part in PARTS:
        of = first[part]["of"]
        known = {name: first[part][name] for name in ("manifest", *OF_A_PART)}
        known |= {
            name: first[part][name]
            for name in OF_SAMPLING
            if all(result.content[part].get(name) == first[part].get(name) for result in results)
            and name in first[part]
        }
        counted = {"evaluated": of - len(failed[part]), "of": of, "failed": failed[part]}
        content[part] = known | counted
        if first["protocol"] == "retrieval":
            content[part]["features"] = digest_of(key_of_features(results, part))
    content["environment"] = {**record.environment(), "libraries": versions()}
    content["digest"] = digest_of(content)
    return content


def keep_features(folders: list[Path], folder: Path) -> None:
    """Write the features that a joined retrieval was measured with as those of a single encoder,
    for the pictures of a report. Centred ones are so already.
    """
    results = [record.read(one, "retrieval") for one in folders]
    for part in PARTS:
        joined = side_by_side([_features(result, part) for result in results], results)
        scaled = replace(joined, feature=F.normalize(joined.feature, dim=1))
        features.keep(folder / f"features_{part}.npz", key_of_features(results, part), scaled)


def key_of_features(results: list[Stored], part: str) -> dict[str, Any]:
    """All that the joined features of a set depend on."""
    joined = [result.content[part]["features"] for result in results]
    return {"joined": joined, "center": results[0].content["options"]["center"]}


def _features(result: Stored, part: str) -> Features:
    """The kept features that a retrieval was measured with."""
    path = result.folder / f"features_{part}.npz"
    if not path.exists():
        raise ConfigError(f"error: no features beside retrieval.json · {path} · measure it again")
    digest, found = features.read(path)
    if digest != result.content[part]["features"]:
        raise ConfigError(
            f"error: the features are not those of retrieval.json beside them · {path} · run "
            "evaluate.py retrieval again"
        )
    return found


def _common(parts: list[Features]) -> list[Features]:
    """The videos that all parts have, in the order of the manifest."""
    rows = set.intersection(*(set(part.index.tolist()) for part in parts))
    wanted = torch.tensor(sorted(rows), dtype=torch.int64)
    return [_rows(part, torch.isin(part.index, wanted)) for part in parts]


def _rows(part: Features, chosen: Tensor) -> Features:
    length = None if part.length is None else part.length[chosen]
    label, index = part.label[chosen], part.index[chosen]
    return Features(part.feature[chosen], label, index, part.failed, length)


def _failed(parts: list[Features]) -> list[dict]:
    return failed_once([entry for part in parts for entry in part.failed])
