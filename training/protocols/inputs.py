"""What is measured on what: the source of the weights, and two labelled sets that fit together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import DataError, Manifest
from pipeline.checksum import sha256
from training import checkpoint, config, weights
from training.errors import ConfigError

BASELINES = {
    "random": "the network before training",
    "pixels": "the clip itself, averaged down to 12 x 12 pixels",
}


@dataclass(frozen=True)
class Source:
    """Where an encoder comes from. name: a path, or one of BASELINES; sha256: what stands for it.

    state: the checkpoint of a run, if it is one.
    """

    name: str
    sha256: str
    recipe: config.Recipe
    state: checkpoint.Checkpoint | None


def load_source(name: str, recipe_path: str | None, overrides: list[str]) -> Source:
    """The checkpoint of a run, if it is one, and the recipe of the network.

    With a recipe the file is one of weights, of anybody's; exported ones have their recipe beside.
    """
    if name in BASELINES:
        if not recipe_path:
            raise ConfigError(
                f"error: --checkpoint {name} needs --recipe: it says network and clip"
            )
        return Source(name, name, config.load(recipe_path, overrides, staged=False), None)
    path, state = Path(name), None
    if recipe_path:
        recipe = config.load(recipe_path, overrides, staged=False)
    elif path.suffix == weights.SAFETENSORS:
        recipe = config.of_checkpoint(weights.recipe_beside(path), "", overrides)
    else:
        state = checkpoint.load(path)
        recipe = config.of_checkpoint(state.config, state.stage, overrides)
    if not path.is_file():
        weights.read(path)  # says what is wrong with it
    return Source(name, sha256(path), recipe, state)


def read_preset(path: str | None, protocol: str) -> tuple[dict[str, Any], list[str]]:
    """The options in a file of configs/eval, and its changes of the recipe as overrides.

    Raises ConfigError for a file of another protocol.
    """
    if not path:
        return {}, []
    given = config.read_yaml(Path(path))
    meant = given.pop("protocol", protocol)
    if meant != protocol:
        raise ConfigError(
            f"error: the preset is one of {meant}, not of {protocol} · {path} · run evaluate.py "
            f"{meant}"
        )
    options = given.pop("eval", {})
    return options, [f"{key}={_inline(value)}" for key, value in _dotted(given)]


def check_sets(train: Manifest, test: Manifest, *, overlap: bool) -> None:
    """Raise DataError unless a classifier of the training videos can be asked of the test videos.

    overlap: videos of both sets are allowed.
    """
    for manifest in (train, test):
        check_labels(manifest)
    check_classes(train, test)
    check_filled(train)
    if not overlap:
        check_apart(train, test)


def check_splits(manifests: Sequence[Manifest]) -> None:
    """Raise DataError unless these are splits of one data set, as far as their classes tell."""
    for other in manifests[1:]:
        if other.classes != manifests[0].classes:
            raise DataError(
                f"error: the splits have other classes, so that their mean says nothing · "
                f"{manifests[0].path} and {other.path} · measure each for itself"
            )


def check_labels(manifest: Manifest) -> None:
    """Raise DataError unless every video has a label."""
    missing = int((manifest.labels < 0).sum())
    if missing:
        raise DataError(
            f"error: evaluation needs labels, {missing} of {len(manifest)} videos have none · "
            f"{manifest.path} · index the class folders or a list with labels"
        )


def check_classes(train: Manifest, test: Manifest) -> None:
    """Raise DataError unless both manifests number the same classes alike."""
    if train.classes == test.classes:
        return
    missing, extra = set(train.classes) - set(test.classes), set(test.classes) - set(train.classes)
    raise DataError(
        f"error: train and test have other classes or another order: {len(missing)} only in train "
        f"{sorted(missing)[:3]}, {len(extra)} only in test {sorted(extra)[:3]} · {test.path} · "
        "index it again with --classes-from the training manifest"
    )


def check_filled(train: Manifest) -> None:
    """Raise DataError where a class has no training video: it could not be answered."""
    present = set(train.labels.tolist())
    empty = [name for number, name in enumerate(train.classes) if number not in present]
    if empty:
        raise DataError(
            f"error: {len(empty)} of {len(train.classes)} classes have no training video "
            f"{empty[:3]} · {train.path} · index videos of them, or both sets without them"
        )


def check_apart(train: Manifest, test: Manifest) -> None:
    """Raise DataError where a test video has frames of a training video: of the same bytes."""
    known = defaultdict(list)
    for content, first, end in _segments(train):
        known[content].append((first, end))
    both = [
        row
        for row, (content, first, end) in enumerate(_segments(test))
        if any(first < other_end and other < end for other, other_end in known.get(content, ()))
    ]
    if both:
        raise DataError(
            f"error: {len(both)} of {len(test)} test videos are training videos, too (as "
            f"{test[both[0]].key}) · {test.path} · python -m tools.verify lists them; "
            "--allow-overlap measures all the same"
        )


def _segments(manifest: Manifest) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Of every row the file's size and crc32, and which of its frames the row has: [first, end)."""
    for (size, crc32, first), frames in zip(
        manifest.contents, manifest.frames.tolist(), strict=True
    ):
        yield (size, crc32), first, first + frames


def _dotted(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values of nested groups."""
    pairs = []
    for key, value in tree.items():
        nested = isinstance(value, dict) and value
        pairs += _dotted(value, f"{prefix}{key}.") if nested else [(f"{prefix}{key}", value)]
    return pairs


def _inline(value: Any) -> str:
    """A plain value as YAML has it in one line."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)
