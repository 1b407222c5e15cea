"""What can befall a program: each fault is called in its process, before train.py is.

Faults are wrapped around the program from outside, in that process only: the program itself has
no code for them.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.loader import Loader
from training import checkpoint, parts
from training.protocols.under_way import UnderWay
from training.resume import StageState
from training.runlog import Metrics, ProgressLine

Fault = Callable[[], None]
SLEEP_SECONDS = 600.0


@dataclass(frozen=True)
class AfterStep:
    """Does something right after a step has been logged, and before it is saved."""

    number: int

    def __call__(self) -> None:
        original = ProgressLine.step

        def step(line, number, *rest):
            original(line, number, *rest)
            if number == self.number:
                self.act()

        ProgressLine.step = step

    def act(self) -> None:
        raise NotImplementedError


class KillAfter(AfterStep):
    def act(self) -> None:
        die()


@dataclass(frozen=True)
class SignalAfter(AfterStep):
    """Sends signals to its own process: the kernel delivers them as it does those of others."""

    signals: tuple[int, ...]

    def act(self) -> None:
        for number in self.signals:
            os.kill(os.getpid(), number)


class SleepAfter(AfterStep):
    def act(self) -> None:
        time.sleep(SLEEP_SECONDS)


@dataclass(frozen=True)
class NeverWaiting:
    """From one step to another, what makes the host wait for the GPU is an error."""

    first: int
    last: int

    def __call__(self) -> None:
        original = ProgressLine.step

        def step(line, number, *rest):
            original(line, number, *rest)
            if number in (self.first, self.last):
                mode = "error" if number == self.first else "default"
                torch.cuda.set_sync_debug_mode(mode)

        ProgressLine.step = step


@dataclass(frozen=True)
class OnRank:
    """A fault in one process of several."""

    rank: int
    fault: Fault

    def __call__(self) -> None:
        if int(os.environ["RANK"]) == self.rank:
            self.fault()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class KillBeforeFile:
    """Dies when the hash of a step's checkpoint is in place and its file is not."""

    step: int

    def __call__(self) -> None:
        original = os.replace

        def replace(source, target):
            original(source, target)
            if Path(target).name == f"step_{self.step:08d}.pt.sha256":
                die()

        os.replace = replace


@dataclass(frozen=True)
class KillInFile:
    """Dies when half of a step's checkpoint is on the disk."""

    step: int

    def __call__(self) -> None:
        original = os.fsync

        def fsync(descriptor):
            name = os.readlink(f"/proc/self/fd/{descriptor}")
            if f"step_{self.step:08d}.pt." in name and ".sha256" not in name:
                os.truncate(descriptor, os.fstat(descriptor).st_size // 2)
                die()
            original(descriptor)

        os.fsync = fsync


@dataclass(frozen=True)
class Record:
    """Appends [step, rank, videos of the batch] to a file for every step trained."""

    path: Path

    def __call__(self) -> None:
        batches, add = Loader.batches, Metrics.add
        rank, current = int(os.environ.get("RANK", 0)), []

        def recorded(loader, first, last):
            for batch in batches(loader, first, last):
                current[:] = batch.index.tolist()
                yield batch

        def noted(metrics, step, *rest):
            with self.path.open("a") as file:
                file.write(json.dumps([step, rank, current]) + "\n")
            add(metrics, step, *rest)

        Loader.batches, Metrics.add = recorded, noted


@dataclass(frozen=True)
class KeepStates:
    """Every process writes its own method state after each step to RANK_STEP.pt in a folder."""

    folder: Path

    def __call__(self) -> None:
        original, rank = StageState.is_due, os.environ.get("RANK", "0")

        def is_due(under_way, step):
            torch.save(under_way.method.state_dict(), self.folder / f"{rank}_{step}.pt")
            return original(under_way, step)

        StageState.is_due = is_due


@dataclass(frozen=True)
class NanLoss:
    """The loss of one step is reported as not a number."""

    step: int

    def __call__(self) -> None:
        add = Metrics.add

        def broken(metrics, step, stage, scalars):
            if step == self.step:
                scalars["loss"] = scalars["loss"] * float("nan")
            add(metrics, step, stage, scalars)

        Metrics.add = broken


@dataclass(frozen=True)
class DiskFullAt:
    """Saving at these steps fails as on a full disk."""

    steps: tuple[int, ...]

    def __init__(self, *steps: int):
        object.__setattr__(self, "steps", steps)

    def __call__(self) -> None:
        original = checkpoint.whole_file

        def full(path):
            if any(path.name == f"step_{step:08d}.pt" for step in self.steps):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(path)

        checkpoint.whole_file = full


@dataclass(frozen=True)
class FileLimit:
    """The kernel refuses to let a file grow above so many bytes, as it would on a full disk."""

    size_bytes: int

    def __call__(self) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size_bytes, hard))


@dataclass(frozen=True)
class FileLimitAt:
    """The same, only while the checkpoint of one step is saved."""

    step: int
    size_bytes: int

    def __call__(self) -> None:
        save = checkpoint.save

        def limited(folder, state, *, keep):
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            if state.step == self.step:
                FileLimit(self.size_bytes)()
            try:
                return save(folder, state, keep=keep)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        checkpoint.save = limited


@dataclass(frozen=True)
class KillAfterPart:
    """Dies when so many parts of an extraction are on the disk; each group of videos is one."""

    number: int

    def __call__(self) -> None:
        parts.PART_SECONDS = 0.0
        _die_after(self.number, parts.Parts, "_write")


@dataclass(frozen=True)
class KillAfterEpoch:
    """Dies when a classifier's training has been kept so many times."""

    number: int

    def __call__(self) -> None:
        _die_after(self.number, UnderWay, "save")


def _die_after(number: int, kind: type, name: str) -> None:
    """Let a method of a class run so many times."""
    original, calls = getattr(kind, name), []

    def counted(*args):
        original(*args)
        calls.append(1)
        if len(calls) == number:
            die()

    setattr(kind, name, counted)
