"""Retrieval while training: do the videos of one class already lie together?

Every labelled video of a validation manifest asks all others of it for its nearest: one manifest is
enough and nothing is fitted. Measuring leaves the encoder as it was, and every step seeds its own
random numbers, so a run with it and a run without have the same weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from models.batchnorm import mean_statistics, running_statistics
from pipeline import Manifest, Place
from pipeline.errors import DataError
from training import distributed, features, protocols
from training.distributed import Process
from training.features import Features
from training.stages import Stage


class OnlineRetrieval:
    """The measurement of one stage. All processes make it together, each of its own videos.

    say: prints a line, as where too few videos decode. Raises DataError for a manifest in which no
    video could find one of its class.
    """

    def __init__(self, stage: Stage, process: Process, say: Callable[[str], None] = print):
        self.stage, self.process, self.say = stage, process, say
        config = stage.recipe.online
        self.every_steps = max(1, round(config.every_epochs * stage.steps_per_epoch))
        self.manifest = None
        if config.manifest:
            self.manifest = Manifest.read(config.manifest, config.split, one_split=True)
            if not _has_answers(self.manifest.labels):
                raise DataError(
                    "error: online retrieval needs two videos of a class, "
                    f"{self.manifest.path} has none · index labelled videos and name them in "
                    "online.manifest"
                )

    def describe(self) -> str:
        """What will be measured and when, in words."""
        if self.manifest is None:
            return "no retrieval while training: online.manifest is not set"
        return f"retrieval among {len(self.manifest)} videos every {self.every_steps} steps"

    def is_due(self, step: int) -> bool:
        """Whether to measure when `step` steps of the run are done."""
        if self.manifest is None:
            return False
        done = step - self.stage.first_step
        return step == self.stage.last_step or done % self.every_steps == 0

    def measure(self, encoder: nn.Module) -> dict[str, Tensor]:
        """knn_R@1 and knn_R@5, shares of the videos, and knn_failed, the number of those that do
        not decode: scalars for the log, the same in all processes, which all have to call.

        Where no two videos of a class decode there is the number alone, and a line says so.
        """
        found = self.extract(encoder)
        scalars = {"knn_failed": float(len(found.failed))}
        if _has_answers(found.label):
            shares = protocols.recall_among(found)
            scalars |= {f"knn_{name}": share for name, share in shares.items()}
        else:
            self.say(
                f"no retrieval: {len(found.failed)} of {found.videos} videos do not decode, and no "
                f"two of a class are left · {self.manifest.path} · mend or replace its videos"
            )
        # Beside the scalars of the step, which are where it ran.
        return {name: torch.tensor(s, device=self.process.device) for name, s in scalars.items()}

    def extract(self, encoder: nn.Module) -> Features:
        """Of all videos that decode, in every process: each makes those of its own share."""
        recipe, process = self.stage.recipe, self.process
        data = replace(recipe.data, batch_size=recipe.online.batch_size)
        with _evaluating(encoder), _same_statistics(encoder, process):
            own = features.extract_share(
                encoder,
                self.manifest,
                replace(recipe, data=data),
                clips=recipe.online.clips,
                place=Place(process.rank, process.world, str(process.device)),
                bar=False,
            )
        return features.joined(distributed.of_all_ranks(own, process))


def _has_answers(labels: np.ndarray | Tensor) -> bool:
    """Whether there are two videos of a class."""
    labels = labels[labels >= 0].tolist()
    return len(labels) > len(set(labels))


@contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and each module's own mode again after."""
    before = [(module, module.training) for module in encoder.modules()]
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def _same_statistics(encoder: nn.Module, process: Process) -> Iterator[None]:
    """Inside, the mean of the ranks' running statistics, as a checkpoint has it: features made
    with those of different ranks could not be compared. After, each rank's own again.
    """
    before = {name: tensor.cpu().clone() for name, tensor in running_statistics(encoder).items()}
    same = mean_statistics(distributed.of_all_ranks(before, process))
    try:
        _assign(encoder, same)
        yield
    finally:
        _assign(encoder, before)


@torch.no_grad()
def _assign(encoder: nn.Module, statistics: dict[str, Tensor]) -> None:
    for name, tensor in running_statistics(encoder).items():
        tensor.copy_(statistics[name])
