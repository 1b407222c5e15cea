"""The training of a classifier as far as it is: one file, from which a killed one goes on."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from pipeline.whole import whole_file
from training.distributed import Process, of_all_ranks, of_main
from training.features import digest_of, mended


@dataclass(frozen=True)
class UnderWay:
    """path: the file, PROTOCOL_training.pt. key: all that the training depends on.

    What it holds in the end is the trained network, so that the same command trains no second time.
    """

    path: Path
    key: dict
    process: Process

    def load(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> tuple[int, list[dict]]:
        """Give both the state of the last epoch; its step and the damaged videos met until then.

        Step 0 where there is no file of this key, where it is damaged, and where a damaged video
        was mended since.
        """
        state = of_main(self._read() if self.process.is_main else None, self.process)
        if state is None:
            return 0, []
        model.load_state_dict(state["model"])
        for optimizer, own_state in zip(optimizers, state["optimizers"], strict=False):
            optimizer.load_state_dict(own_state)
        return state["step"], state["damaged"]

    def save(
        self,
        step: int,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        damaged: list[dict],
    ) -> None:
        """All processes call it, the main one writes. Raises OSError on a full disk."""
        found = of_all_ranks(damaged, self.process)
        if not self.process.is_main:
            return
        state = {
            "digest": digest_of(self.key),
            "step": step,
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "damaged": [entry for entries in found for entry in entries],
        }
        buffer = io.BytesIO()  # of a file, torch would store the name, and bytes would differ
        torch.save(state, buffer)
        with whole_file(self.path) as file:
            file.write(buffer.getbuffer())

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            same = state["digest"] == digest_of(self.key)
        except Exception:  # a damaged pickle can trip torch's unpickler in any way
            return None
        since = self.path.stat().st_mtime
        return state if same and not mended(state["damaged"], since) else None
