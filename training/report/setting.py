"""What an accuracy depends on besides data set and protocol, and in what two differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from training.config import differences
from training.report.evaluation import Evaluation
from training.report.run import Run

PAPERS_WIDTH = 64  # channels of the first stage
# Views of a result or a published number, by name, and how a difference in one is called.
VIEWS = {
    "frames": "frames",
    "stride": "stride",
    "size": "size",
    "train": "clips of training videos",
    "test": "clips of test videos",
    "clips": "number of clips",
    "step": "distance of windows",
    "crops": "crops",
    "eval_scale": "part of a frame",
}


@dataclass(frozen=True)
class Setting:
    """Words as of training/published.yaml; an empty one, and a missing view, is not known.

    network: a key of models/backbones; trained_on: name of a data set; splits: how many of the data
    set were measured; 0: not known. views: as `VIEWS` has them. options: of the protocol, `eval.*`.
    """

    network: str = ""
    width: int = PAPERS_WIDTH
    stream: str = ""
    trained_on: str = ""
    splits: int = 0
    views: dict[str, int | str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def differing(self, own: Setting) -> list[str]:
        """What is another one here than in `own`, as far as it is known of both."""
        found = [name for name, (one, other) in self._pairs(own).items() if one and other != one]
        options = ", ".join(self._options(own, known=True))
        return [*found, *([f"options ({options})"] if options else [])]

    def unknown(self, own: Setting) -> list[str]:
        """What cannot be compared, since nobody says it of one or of the other."""
        always = ("network", "stream", "pretraining data", "number of splits",
                  VIEWS["frames"], VIEWS["size"], VIEWS["test"])  # fmt: skip
        found = [name for name in always if not all(self._pairs(own)[name])]
        unknown = not self.options or any(self._options(own, known=False))
        return [*found, *(["options"] if unknown else [])]

    @property
    def _sized_network(self) -> tuple[str, int] | None:
        return (self.network, self.width) if self.network else None

    def _options(self, own: Setting, *, known: bool) -> list[str]:
        """Options here that are others in `own`; or those that are not known of it."""
        pairs = differences(self.options, own.options)
        return [
            name
            for name, (one, other) in pairs.items()
            if one is not None and (other is not None) == known
        ]

    def _pairs(self, own: Setting) -> dict[str, tuple]:
        """Here and in `own`, by name; both None where one of them is not known."""
        pairs = {
            "network": (self._sized_network, own._sized_network),
            "stream": (self.stream, own.stream),
            "pretraining data": (self.trained_on, own.trained_on),
            "number of splits": (self.splits, own.splits),
        }
        for key, words in VIEWS.items():
            pairs[words] = (self.views.get(key), own.views.get(key))
        return {name: pair if all(pair) else (None, None) for name, pair in pairs.items()}


def setting_of(one: Evaluation, protocol: str, run: Run | None) -> Setting:
    """That of an evaluation of the run's encoder."""
    result = one.results[protocol]
    recipe = result.get("recipe") or (run.recipe.plain() if run else {})
    backbone = recipe.get("backbone", {})
    views = _listed(result["views"])
    streams = [str(view.get("stream", "")) for view in views]
    return Setting(
        network=backbone.get("name", ""),
        width=backbone.get("width", PAPERS_WIDTH),
        stream=" + ".join(sorted(streams, reverse=True)),
        trained_on=run.described_data if run else "",
        splits=len(_listed(result["test"])),
        views=_views(result, views[0]),
        options=result["options"],
    )


def _views(result: dict[str, Any], first: dict[str, Any]) -> dict[str, int | str]:
    test, train = (_listed(result[part])[0] for part in ("test", "train"))
    found = {name: first.get(name) for name in ("frames", "stride", "size", "crops", "eval_scale")}
    found |= {"test": test.get("sampling"), "train": train.get("sampling")}
    found |= {"clips": test.get("clips"), "step": test.get("step")}
    return {name: value for name, value in found.items() if value}


def _listed(one: Any) -> list:
    """Of several splits or streams there is a list."""
    return one if isinstance(one, list) else [one]
