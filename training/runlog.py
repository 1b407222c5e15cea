"""The run folder: what a run writes, and what tells two runs apart.

    config.yaml  env.json  log.txt  metrics.jsonl  timing.jsonl  quarantine.jsonl  checkpoints/

Scalars are copied from the device without waiting and are read a few steps later.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import platform
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import torch
from rich.console import Console

from pipeline import Batch
from pipeline.whole import whole_file
from training import checkpoint
from training.config import Recipe
from training.errors import ConfigError, NumericError
from training.live import LiveView, shares
from training.loggers import Loggers
from training.readback import Readback
from training.stages import Stage
from training.step_lines import StepLines
from training.timing import TIMING, Pace, Stopwatch

READ_AFTER_STEPS = 4
Read = Callable[[int, dict[str, float]], None]


class RunFolder:
    """One run's folder, locked against a second run for as long as this process lives."""

    def __init__(self, path: str | Path, *, writer: bool = True):
        self.path = Path(path)
        self.writer = writer
        self.console = Console(highlight=False, soft_wrap=True, quiet=not writer)
        if writer:
            self._make()
            self._lock = _lock(self.path / "lock")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def has_run(self) -> bool:
        """Whether an earlier run has left something here."""
        return bool(checkpoint.files(self.checkpoints)) or self.metrics.exists()

    def say(self, line: str) -> None:
        """Print a line and keep it in log.txt. A full disk costs the line, not the run."""
        if not self.writer:
            return
        self.console.print(line, markup=False)
        try:
            with (self.path / "log.txt").open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        except OSError as error:
            self.console.print(f"log.txt: {error.strerror}", markup=False)

    def write_json(self, name: str, content: dict) -> None:
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, content: str) -> None:
        """Write a file, or raise ConfigError and leave the one that is there."""
        if not self.writer:
            return
        try:
            with whole_file(self.path / name, sync=False) as file:
                file.write(content.encode())
        except OSError as error:
            raise ConfigError(
                f"error: cannot write {name} · {self.path} · {error.strerror} · free some space, "
                "or choose another run.dir"
            ) from error

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"error: cannot write the run folder · {self.path} · {error.strerror} · choose "
                "another with run.dir=..."
            ) from error


class Metrics:
    """metrics.jsonl: one line a step with every scalar, in full precision, none twice.

    read: is called with a step and its scalars when they have been read.
    """

    def __init__(self, folder: RunFolder, *, step: int, read: Read = lambda step, scalars: None):
        self.folder, self.read = folder, read
        self.last: dict[str, float] = {}
        self._waiting: deque[tuple[int, str, list[str], Readback]] = deque()
        if folder.writer:
            self._lines = StepLines(folder.metrics, step=step, say=folder.say)

    def add(self, step: int, stage: str, scalars: dict[str, torch.Tensor]) -> None:
        """Take the scalars of a step; raise NumericError when an earlier one is not finite."""
        self._waiting.append((step, stage, list(scalars), Readback(_together(scalars.values()))))
        while len(self._waiting) > READ_AFTER_STEPS:
            self._read_oldest()

    def flush(self) -> None:
        """Read and write everything; call before a checkpoint, so that no step is missing."""
        while self._waiting:
            self._read_oldest()

    def _read_oldest(self) -> None:
        step, stage, names, values = self._waiting.popleft()
        self.last = dict(zip(names, values.tolist(), strict=True))
        if self.folder.writer:
            self._lines.write(step, {"stage": stage, **self.last})
            self.read(step, self.last)
        wrong = [name for name, value in self.last.items() if not math.isfinite(value)]
        if wrong:
            good = checkpoint.files(self.folder.checkpoints)
            raise NumericError(
                f"error: {', '.join(wrong)} is not finite at step {step} of stage '{stage}' · "
                f"last good checkpoint: {good[-1] if good else 'none yet'} · lower optim.lr"
            )


@torch.no_grad()
def _together(scalars: Iterable[torch.Tensor]) -> torch.Tensor:
    """Scalars of any dtype in one tensor that holds each exactly. float32, as nearly all are, join
    before they are widened: two operations, however many there are.
    """
    kept = (torch.float32, torch.float64)
    return torch.stack([s if s.dtype in kept else s.double() for s in scalars]).double()


class ProgressLine:
    """A live view on a terminal, and plain lines elsewhere. A retrieval is a line on both."""

    def __init__(self, folder: RunFolder, *, first: int, total: int, every: int):
        self.folder, self.total, self.every = folder, total, every
        self.pace = Pace(done=first, total=total)
        on_terminal = folder.writer and folder.console.is_terminal
        self.view = LiveView(folder.console, first=first, total=total) if on_terminal else None

    def __enter__(self) -> ProgressLine:
        if self.view:
            self.view.__enter__()
        return self

    def __exit__(self, *error) -> None:
        if self.view:
            self.view.__exit__(*error)

    def step(
        self, step: int, stage: Stage, scalars: dict[str, float], times: dict[str, float]
    ) -> None:
        """Show that `step` is done. scalars: the newest that have been read. times: its own."""
        if self.view:
            self.view.step(step, stage, scalars, times)
            return
        self.pace.step(step, times)
        if step % self.every == 0 or step == self.total:
            figures = {k: f"{v:.4g}" for k, v in scalars.items() if not k.startswith("knn_")}
            figures |= {"lr": f"{stage.lr(step - 1):.3g}", **self.pace.rates()}
            shown = "  ".join(f"{name} {value}" for name, value in figures.items())
            pace = f"{self.pace.step_seconds:.3f} s/step  {self.pace.left()} left"
            self.folder.say(f"step {step}/{self.total}  {stage.name}  {shown}  {pace}")

    def read(self, step: int, scalars: dict[str, float]) -> None:
        """Tell of the retrieval in the scalars of a step, if there is one."""
        if found := shares(scalars):
            shown = "  ".join(f"{name} {value}" for name, value in found.items())
            self.folder.say(f"retrieval at step {step}: {shown}")


class Journal:
    """What a run tells while it trains: its metrics and times on disk, its progress on the
    terminal, and whatever loggers the recipe asks for.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, *, world: int, first: int, last: int):
        self.folder, self.stopwatch = folder, Stopwatch(world)
        every = recipe.run.log_every_steps
        loggers = Loggers(recipe, folder.path, first=first, say=folder.say, on=folder.writer)
        line = ProgressLine(folder, first=first, total=last, every=every)

        # Of the two alone: a circle through the journal would keep the folder locked after it.
        def read(step: int, scalars: dict[str, float]) -> None:
            loggers.add(step, scalars)
            line.read(step, scalars)

        self.loggers, self.line = loggers, line
        self.metrics = Metrics(folder, step=first, read=read)
        if folder.writer:
            self._times = StepLines(folder.path / TIMING, step=first, say=folder.say)

    def __enter__(self) -> Journal:
        self.line.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.line.__exit__(*error)
        self.loggers.close()

    def watched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, timed: see `Stopwatch`."""
        return self.stopwatch.watched(batches)

    def add(self, step: int, stage: Stage, scalars: dict[str, torch.Tensor]) -> None:
        """Note that `step` is done; the scalars shown are the newest that have been read."""
        times = self.stopwatch.lap()
        self.metrics.add(step, stage.name, scalars)
        if self.folder.writer:
            self._times.write(step, times)
            self.loggers.note(step, {"lr": stage.lr(step - 1), **times})
        self.line.step(step, stage, self.metrics.last, times)

    def flush(self) -> None:
        """See `Metrics.flush`."""
        self.metrics.flush()


def environment() -> dict:
    """Versions and hardware, for env.json and the checkpoint. No variables, no secrets."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a plain string loads with weights_only
        "cuda": torch.version.cuda or "",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": str(torch.get_num_threads()),
        "git": _git_commit(),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


@cache
def _git_commit() -> str:
    """Of the program as it was started: every checkpoint names the same."""
    folder = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def _lock(path: Path):
    """Take the lock file, or raise ConfigError naming who has it. The kernel frees it on exit."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ConfigError(
            f"error: the run folder is in use by {holder} · {path.parent} · wait for that run, or "
            "choose another with run.dir=..."
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file
