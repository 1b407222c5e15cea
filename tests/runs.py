"""Trainings in processes of their own, which tests may kill, stop, starve and watch.

The processes fork from a server that has imported torch, DALI and train.py once, so a real
process that can really be killed costs some ten milliseconds. Faults are wrapped around the
program from outside, in that process only: the program itself has no code for them.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._dynamo  # an optimiser imports it, in 1 s

import pipeline.graph  # noqa: F401  DALI, in 1 s
import train
from pipeline.loader import Loader
from training import checkpoint
from training.runlog import Metrics, ProgressLine

ROOT = Path(train.__file__).parent
SMOKE = ROOT / "configs" / "smoke.yaml"
LIMIT_SECONDS = 240.0  # of one training: only to end a test that hangs

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.runs"])

Fault = Callable[[], None]


class Run:
    """train.py with `args`, started at once; `faults` are called in the process before it."""

    def __init__(self, *args: object, faults: Sequence[Fault] = (), env: Mapping[str, str] = {}):
        handle, name = tempfile.mkstemp(prefix="kinema-test-", suffix=".log")
        os.close(handle)
        self._log = Path(name)
        arguments = [str(arg) for arg in args]
        self.process = _context.Process(
            target=_main, args=(arguments, tuple(faults), dict(env), name)
        )
        self.process.start()

    def wait(self) -> Run:
        self.process.join(LIMIT_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {LIMIT_SECONDS} s:\n{self.output}")
        self.output  # noqa: B018  read before the file goes
        self._log.unlink(missing_ok=True)
        return self

    def wait_for(self, text: str) -> Run:
        """Returns once the process has printed `text`."""
        end = time.monotonic() + LIMIT_SECONDS
        while text not in self.output:
            assert self.process.is_alive() and time.monotonic() < end, self.output
            time.sleep(0.01)
        return self

    def send(self, number: int) -> Run:
        os.kill(self.process.pid, number)
        return self

    def send_group(self, number: int) -> Run:
        os.killpg(self.process.pid, number)
        return self

    @property
    def code(self) -> int:
        """Exit code, or minus the number of the signal that ended the process."""
        return self.process.exitcode

    @property
    def output(self) -> str:
        """What it has printed so far, both streams."""
        if self._log.exists():
            self._output = self._log.read_text()
        return self._output


def run(*args: object, faults: Sequence[Fault] = (), env: Mapping[str, str] = {}) -> Run:
    """A training, waited for."""
    return Run(*args, faults=faults, env=env).wait()


def finished(*args: object, faults: Sequence[Fault] = ()) -> Run:
    """A training that must end well."""
    done = run(*args, faults=faults)
    assert done.code == 0, done.output
    return done


def run_ranks(
    *args: object, world: int = 2, own: Sequence[Sequence[str]] = (), faults: Sequence[Fault] = ()
) -> list[Run]:
    """One training in `world` processes over gloo. own: arguments of each rank besides `args`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        Run(
            *args,
            *(own[rank] if own else ()),
            faults=faults,
            env={**place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]
    return [rank.wait() for rank in ranks]


def _main(args: list[str], faults: tuple[Fault, ...], env: dict[str, str], log: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = ["train.py", *args]
    os.environ.update(env)
    torch.set_num_threads(1)
    for fault in faults:
        fault()
    sys.exit(train.main(args))


# What a run leaves behind


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def newest(folder: Path) -> checkpoint.Checkpoint:
    passed_over: list[str] = []
    state = checkpoint.newest(folder / "checkpoints", passed_over.append)
    assert state and not passed_over, passed_over
    return state


def flat(tree: object, name: str = "") -> dict[str, object]:
    """Leaves of nested dicts and lists by dotted names."""
    if isinstance(tree, dict):
        pairs = tree.items()
    elif isinstance(tree, (list, tuple)):
        pairs = enumerate(tree)
    else:
        return {name: tree}
    leaves = {}
    for key, value in pairs:
        leaves |= flat(value, f"{name}.{key}" if name else str(key))
    return leaves


def assert_same_state(a: checkpoint.Checkpoint, b: checkpoint.Checkpoint) -> None:
    """Step, method and optimiser agree in every bit."""
    assert (a.step, a.stage) == (b.step, b.stage)
    for part in ("method", "optimizer"):
        left, right = flat(getattr(a, part)), flat(getattr(b, part))
        assert left.keys() == right.keys()
        for name, value in left.items():
            other = right[name]
            if isinstance(value, torch.Tensor):
                assert value.dtype == other.dtype and torch.equal(value, other), f"{part}.{name}"
            else:
                assert value == other, f"{part}.{name}"


# Faults: each is called in the process of the training, before it starts


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
        time.sleep(LIMIT_SECONDS)


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
        original = checkpoint._write

        def write(path, content):
            original(path, content)
            if path.name == f"step_{self.step:08d}.pt.sha256":
                die()

        checkpoint._write = write


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


def samples(path: Path, *, rank: int = 0) -> dict[int, list[int]]:
    """Step -> videos. A step trained again after a restart must have seen the same ones."""
    seen: dict[int, list[int]] = {}
    for line in path.read_text().splitlines():
        step, of_rank, videos = json.loads(line)
        if of_rank == rank:
            assert seen.setdefault(step, videos) == videos, f"step {step} saw other videos"
    return seen


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
        original = checkpoint._write

        def write(path, content):
            if any(path.name == f"step_{step:08d}.pt" for step in self.steps):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(path, content)

        checkpoint._write = write


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
