"""What a protocol gets: an encoder, two labelled sets, options, and features that are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pipeline import Manifest
from pipeline.flow.operator import choose_operator
from pipeline.windows import Rows
from training import features
from training.config import Recipe
from training.distributed import Process, of_main
from training.errors import CheckpointError
from training.features import Features, build_encoder, flow_of, stream_of
from training.parts import Parts
from training.protocols.inputs import Source
from training.protocols.layer import at_stage
from training.protocols.origin import made_with
from training.protocols.views import Sampling, Views, extract, sampling_of, sized

Part = Literal["train", "test"]
# What does not change a classifier that is trained on clips: views of test videos and what is said
# of them, pretraining, and what stands in another place of the key.
NOT_TRAINED_ON = ("clips", "train", "test", "window_step", "size", "mean_of", "train_size",
                  "per_cent", "list_seed", "eval_scale", "eval_crops", "views")  # fmt: skip


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
        """A new copy of the network that is measured, as far as the stage that is asked for."""
        encoder = build_encoder(self.source.name, self.source.recipe, self.source.state)
        return at_stage(encoder, self.options.layer)

    def sampling(self, part: Part) -> Sampling:
        return sampling_of(part, self.options, self.recipe)

    def key(self, part: Part) -> dict:
        """All that the features of a set depend on."""
        manifest = self.sets[part]
        return {
            **self.of_set(part),
            **self.of_network(),
            **made_with(manifest, self.recipe, self.process),
            "clips": self.sampling(part).described(),
            "layer": self.options.layer,
        }

    def of_set(self, part: Part) -> dict:
        """What stands for a set: its fingerprint is of all splits of its manifest."""
        manifest = self.sets[part]
        return {
            "manifest": manifest.fingerprint,
            "split": sorted(manifest.keys) if manifest.split else "",
        }

    def of_network(self) -> dict:
        """What stands for the network, and for its views."""
        plain = self.recipe.plain()
        return {
            "checkpoint": self.source.sha256,
            "seed": self.recipe.run.seed,
            "stream": stream_of(self.recipe),
            **({"flow": flow} if (flow := self.flow) else {}),
            **{name: plain[name] for name in ("clip", "augment", "backbone")},
        }

    def key_of_training(self, train: Manifest | Rows) -> dict:
        """All that a classifier depends on that is trained on clips of some videos.

        How test videos are looked at is no part of it: centre and ten crops are of one training.
        """
        return {
            **self.of_set("train"),
            **self.of_network(),
            **made_with(self.sets["train"], self.recipe, self.process),
            "augment": self.training_views,
            "protocol": self.protocol,
            "options": _trained_on(self.settings()),
            "rows": train.rows.tolist() if isinstance(train, Rows) else "all",
            "arithmetic": self.recipe.run.precision,
        }

    @property
    def training_views(self) -> dict:
        """How the clips are made that a classifier is trained on. `eval.size` is of others."""
        augment = self.source.recipe.plain()["augment"]
        size = self.options.train_size or augment["size"]
        return _trained_on(augment) | {"size": size}

    def features(self, part: Part) -> Features:
        """Features of a set: from its file where nothing has changed, else made anew."""
        key = self.key(part)
        found = self.outputs(f"features_{part}", part, key, self.encoder)
        self.note(part, found.failed)
        self.seen[part]["features"] = features.digest_of(key)
        return found

    def outputs(
        self, name: str, part: Part, key: dict, network: Callable[[], nn.Module]
    ) -> Features:
        """What a network says of every video of a set, from `name`.npz where it is of this key.

        The main process reads and writes; what it finds, all of them have. What a killed
        process had made of it is not made again.
        """
        path = self.folder / f"{name}.npz"
        own = features.kept(path, key) if self.process.is_main else None
        stored = of_main(own, self.process)
        if stored is not None:
            return stored
        parts = self.parts(name, key)
        made = extract(
            network(), self.sets[part], self.recipe, sampling=self.sampling(part),
            process=self.process, parts=parts,
        )  # fmt: skip
        if self.process.is_main:
            features.keep(path, key, made)
            parts.remove()
        return made

    def parts(self, name: str, key: dict) -> Parts:
        """Where an extraction that is under way leaves what it has."""
        group = self.recipe.data.batch_size
        return Parts(self.folder / f"{name}.parts", key, group=group)

    def note(self, part: Part, failed: list[dict]) -> None:
        """Enter in `seen` that a set was looked at as the options say."""
        self.seen[part] = {"failed": failed, **self.sampling(part).described()}

    def both(self) -> tuple[Features, Features]:
        """Features of the training and of the test videos."""
        return self.features("train"), self.features("test")

    def settings(self) -> dict:
        """The options in plain values, for the result."""
        return asdict(self.options)


def _trained_on(settings: dict) -> dict:
    return {name: value for name, value in settings.items() if name not in NOT_TRAINED_ON}
