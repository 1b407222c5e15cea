"""What a protocol gets: an encoder, two labelled sets, options, and features that are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pipeline import Manifest
from pipeline.flow.operator import choose_operator
from training import features
from training.config import Recipe
from training.distributed import Process, of_all_ranks
from training.errors import CheckpointError
from training.features import Features, build_encoder, flow_of, stream_of
from training.protocols.inputs import Source
from training.protocols.views import Sampling, Views, extract, sampling_of, sized

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Job:
    """options: of the protocol, a `Views`. folder: where features and results are kept.

    seen: of each set that was looked at, which videos failed, and how it was looked at.
    """

    protocol: str
    source: Source
    options: Views | Any
    sets: dict[Part, Manifest]
    folder: Path
    process: Process
    seen: dict[Part, dict[str, Any]] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """With views of the size that evaluation asks for."""
        return sized(self.source.recipe, self.options)

    @property
    def classes(self) -> int:
        return len(self.sets["train"].classes)

    @property
    def flow(self) -> dict[str, Any]:
        """Settings of the flow that the encoder takes, with the operator that `auto` comes to on
        this device; empty: it takes pictures.
        """
        settings = flow_of(self.recipe)
        if settings is None:
            return {}
        operator, _ = choose_operator(settings.operator, str(self.process.device))
        return asdict(settings) | {"operator": operator}

    def check_flow(self) -> None:
        """Raise CheckpointError where `auto` comes to another operator than that of the training.

        One that is asked for by name is the user's choice.
        """
        state = self.source.state
        trained = state.flow.get("operator") if state else None
        now = self.flow.get("operator")
        if now and trained and now != trained and self.recipe.flow.operator == "auto":
            raise CheckpointError(
                f"error: the checkpoint was trained on flow by {trained}, here it would be by {now}"
                f" · {self.source.name} · set flow.operator={trained}, or flow.operator={now} to "
                "measure it so"
            )

    def encoder(self) -> nn.Module:
        """A new copy of the network that is measured."""
        return build_encoder(self.source.name, self.source.recipe, self.source.state)

    def sampling(self, part: Part) -> Sampling:
        return sampling_of(part, self.options, self.recipe)

    def key(self, part: Part) -> dict:
        """All that the features of a set depend on."""
        plain, manifest = self.recipe.plain(), self.sets[part]
        parts = ("clip", "augment", "backbone")
        return {
            "checkpoint": self.source.sha256,
            "manifest": manifest.fingerprint,
            "split": sorted(manifest.keys) if manifest.split else "",
            "clips": self.sampling(part).described(),
            "seed": self.recipe.run.seed,
            "stream": stream_of(self.recipe),
            **({"flow": flow} if (flow := self.flow) else {}),
            **{name: plain[name] for name in parts},
        }

    def features(self, part: Part) -> Features:
        """Features of a set: from its file where nothing has changed, else made anew."""

        def make() -> Features:
            return extract(
                self.encoder(), self.sets[part], self.recipe, sampling=self.sampling(part),
                process=self.process,
            )  # fmt: skip

        key = self.key(part)
        found = self._kept(self.folder / f"features_{part}.npz", key, make)
        self.note(part, found.failed)
        self.seen[part]["features"] = features.digest_of(key)
        return found

    def note(self, part: Part, failed: list[dict]) -> None:
        """Enter in `seen` that a set was looked at as the options say."""
        self.seen[part] = {"failed": failed, **self.sampling(part).described()}

    def both(self) -> tuple[Features, Features]:
        """Features of the training and of the test videos."""
        return self.features("train"), self.features("test")

    def settings(self) -> dict:
        """The options in plain values, for the result."""
        return asdict(self.options)

    def _kept(self, path: Path, key: dict, make: Callable[[], Features]) -> Features:
        """The main process reads and writes; what it finds, all of them have."""
        own = features.kept(path, key) if self.process.is_main else None
        stored = of_all_ranks(own, self.process)[0]
        if stored is not None:
            return stored
        made = make()
        if self.process.is_main:
            features.keep(path, key, made)
        return made
