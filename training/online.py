"""Retrieval while training: do the videos of one class already lie together?

Every labelled video of a validation manifest asks all others of it for its nearest: one manifest is
enough and nothing is fitted. Measuring leaves the encoder as it was, and every step seeds its own
random numbers, so a run with it and a run without have the same weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline import Manifest
from pipeline.errors import DataError
from training import protocols
from training.distributed import Process
from training.features import extract
from training.stages import Stage


class OnlineRetrieval:
    """The measurement of one stage. The main process alone makes it; the others wait for it.

    Raises DataError for a manifest in which no video could find one of its class.
    """

    def __init__(self, stage: Stage, process: Process):
        self.stage, self.process = stage, process
        config = stage.recipe.online
        self.every_steps = max(1, round(config.every_epochs * stage.steps_per_epoch))
        self.manifest = None
        if config.manifest:
            self.manifest = Manifest.read(config.manifest, config.split, one_split=True)
            _check_labels(self.manifest)

    def describe(self) -> str:
        """What will be measured and when, in words."""
        if self.manifest is None:
            return "no retrieval while training: online.manifest is not set"
        return f"retrieval among {len(self.manifest)} videos every {self.every_steps} steps"

    def is_due(self, step: int) -> bool:
        """Whether to measure when `step` steps of the run are done."""
        if self.manifest is None or not self.process.is_main:
            return False
        done = step - self.stage.first_step
        return step == self.stage.last_step or done % self.every_steps == 0

    def measure(self, encoder: nn.Module) -> dict[str, Tensor]:
        """knn_R@1 and knn_R@5: shares of the videos, scalars for the log."""
        recipe = self.stage.recipe
        with _evaluating(encoder):
            features = extract(
                encoder,
                self.manifest,
                recipe,
                clips=recipe.online.clips,
                device=self.process.device,
            )
        shares = protocols.recall_among(features)
        return {f"knn_{name}": torch.tensor(share) for name, share in shares.items()}


def _check_labels(manifest: Manifest) -> None:
    labels = manifest.labels[manifest.labels >= 0]
    if len(labels) == len(set(labels.tolist())):
        raise DataError(
            f"error: online retrieval needs two videos of a class, {manifest.path} has none · "
            "index labelled videos and name them in online.manifest"
        )


@contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and each module's own mode again after."""
    before = [(module, module.training) for module in encoder.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
