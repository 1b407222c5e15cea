"""Features under way: what an extraction had finished when it was killed, for the next one.

A part is a file of the videos that were finished since the part before. Which process of how many
made it does not matter: the groups of videos that go through the network together are the same.
"""

from __future__ import annotations

import shutil
import time
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from training import features
from training.features import Features

PART_SECONDS = 60.0  # of work that a kill loses at most, beside the groups that are under way


class Parts:
    """The parts of one set in a folder. key: all that its features depend on; group: videos that go
    through the network together.
    """

    def __init__(self, folder: Path, key: dict, *, group: int):
        self.folder, self.group = folder, group
        self._key = {**key, "group": group}
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []
        self._failed = 0
        self._since = time.monotonic()

    def found(self) -> list[Features]:
        """What is there of the same key, whole, and without a failed video that was mended since;
        `feature` is the mean before scaling.
        """
        stored = (features.kept(path, self._key) for path in sorted(self.folder.glob("*.npz")))
        return [part for part in stored if part is not None]

    def groups(self, parts: list[Features]) -> frozenset[int]:
        """The groups of videos that parts hold, those that failed as well."""
        rows = [row for part in parts for row in part.index.tolist()]
        rows += [entry["index"] for part in parts for entry in part.failed]
        return frozenset(row // self.group for row in rows)

    def add(self, mean: Tensor, label: Tensor, index: Tensor, failed: list[dict]) -> None:
        """A group is done; failed: all the videos that failed until now. Raises OSError."""
        self._pending.append((mean, label, index))
        if time.monotonic() - self._since >= PART_SECONDS:
            self._write(failed[self._failed :])
            self._failed, self._since = len(failed), time.monotonic()

    def remove(self) -> None:
        """The whole is in place: parts are of no use any more, those of other keys neither.

        What another evaluation has under way in the same folder loses what a kill would need.
        """
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, failed: list[dict]) -> None:
        mean, label, index = (torch.cat(own) for own in zip(*self._pending, strict=True))
        path = self.folder / f"from_{int(index[0]):08d}.npz"
        # Another evaluation in the same folder may be done and remove it: there is nothing to save.
        with suppress(FileNotFoundError):
            features.keep(path, self._key, Features(mean, label, index, failed))
        self._pending.clear()
