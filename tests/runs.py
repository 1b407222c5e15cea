"""Programs in processes of their own, trainings above all, which tests may kill, stop and watch.

The processes fork from a server that has imported torch, DALI and train.py once, so a real
process that can really be killed costs some ten milliseconds.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch._dynamo  # an optimiser imports it, in 1 s
import yaml

import pipeline.graph  # noqa: F401  DALI, in 1 s
import train
from tests.faults import Fault
from training import checkpoint

ROOT = Path(train.__file__).parent
SMOKE = ROOT / "configs" / "smoke.yaml"
LIMIT_SECONDS = 240.0  # of one training: only to end a test that hangs


class Run:
    """train.py, or another program, with `args`, started at once; `faults` are called in the
    process before it.
    """

    def __init__(
        self,
        *args: object,
        program: str = "train",
        faults: Sequence[Fault] = (),
        env: Mapping[str, str] = {},
    ):
        handle, name = tempfile.mkstemp(prefix="kinema-test-", suffix=".log")
        os.close(handle)
        self._log = Path(name)
        #: Exit code, or minus the number of the signal that ended the process; None: it runs.
        self.code: int | None = None
        self.pid: int = _server().ask([program, *map(str, args)], tuple(faults), dict(env), name)

    def wait(self) -> Run:
        end = time.monotonic() + LIMIT_SECONDS
        while self.is_alive() and time.monotonic() < end:
            time.sleep(0.005)
        if self.is_alive():
            self.send(signal.SIGKILL)
            raise AssertionError(f"still running after {LIMIT_SECONDS} s:\n{self.output}")
        self.output  # noqa: B018  read before the file goes
        self._log.unlink(missing_ok=True)
        return self

    def wait_for(self, text: str) -> Run:
        """Returns once the process has printed `text`."""
        end = time.monotonic() + LIMIT_SECONDS
        while text not in self.output:
            assert self.is_alive() and time.monotonic() < end, self.output
            time.sleep(0.01)
        return self

    def is_alive(self) -> bool:
        if self.code is None:
            self.code = _server().ask(self.pid)
        return self.code is None

    def send(self, number: int) -> Run:
        os.kill(self.pid, number)
        return self

    def send_group(self, number: int) -> Run:
        os.killpg(self.pid, number)
        return self

    @property
    def output(self) -> str:
        """What it has printed so far, both streams."""
        if self._log.exists():
            self._output = self._log.read_text()
        return self._output


class Server:
    """The process that trainings fork from. multiprocessing's own has only one, for the loader."""

    def __init__(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        number = theirs.fileno()
        command = [sys.executable, "-c", f"from tests import runs; runs.serve({number})"]
        self.process = subprocess.Popen(command, cwd=ROOT, pass_fds=[number])
        theirs.close()
        atexit.register(self.stop)

    def ask(self, *request: object) -> int | None:
        """What `serve` answers to a request."""
        self.connection.send(request)
        return self.connection.recv()

    def stop(self) -> None:
        self.connection.close()
        self.process.wait()


@cache
def _server() -> Server:
    return Server()


def serve(number: int) -> None:
    """Start trainings and say how they ended, until the tests close the connection.

    (program and args, faults, env, log) is answered by a process id, (process id,) by its exit
    code or None.
    """
    connection = Connection(number)
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        if len(request) == 1:
            ended, status = os.waitpid(request[0], os.WNOHANG)
            connection.send(os.waitstatus_to_exitcode(status) if ended else None)
        elif pid := os.fork():
            connection.send(pid)
        else:
            connection.close()
            _main(*request)


def _main(args: list[str], faults: tuple[Fault, ...], env: dict[str, str], log: str) -> None:
    """Become the program: a process as any other, with its own end."""
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    program, *args = args
    sys.argv = [f"{program}.py", *args]
    os.environ.update(env)
    for fault in faults:
        fault()
    sys.exit(import_module(program).main(args))


def run(*args: object, **named) -> Run:
    """A training, waited for."""
    return Run(*args, **named).wait()


def finished(*args: object, **named) -> Run:
    """A training that must end well."""
    done = run(*args, **named)
    assert done.code == 0, done.output
    return done


def run_ranks(
    *args: object,
    world: int = 2,
    own: Sequence[Sequence[str]] = (),
    program: str = "train",
    faults: Sequence[Fault] = (),
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
            program=program,
            faults=faults,
            env={**place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(world)
    ]
    return [rank.wait() for rank in ranks]


def smoke(data: Path, folder: Path, *more: str) -> list[str]:
    """Arguments of the run of seconds: 12 steps of 4 samples in two stages, saved every 2."""
    return [str(SMOKE), f"data.train={data}", f"run.dir={folder}", *more]


# What configs/smoke.yaml says of another method than VideoMoCo, and of its clips.
TINY = {
    "cvrl": {
        "clip": {"sampling": "interval"},
        "method": {"hidden_layers": 1, "hidden_dim": 8},
    },
    "vclr": {
        "clip": {"frames": 1, "sampling": "segments"},
        "method": {"queue_size": 30, "momentum": 0.9, "split_groups": 2},
    },
    # 0.4 epochs a step: prototypes move from the third step on, the queue takes part in the last.
    "vicc": {
        "clip": {"sampling": "random"},
        "method": {
            "prototypes": [5, 7],
            "freeze_epochs": 0.8,
            "queue_size": 8,
            "queue_epoch": 1.2,
        },
    },
    "videomoco": {"clip": {}, "method": {"queue_size": 18, "momentum": 0.9, "split_groups": 2}},
}


@cache
def tiny_recipe(method: str) -> Path:
    """configs/smoke.yaml with another method, in one stage of 4 steps."""
    recipe = yaml.safe_load(SMOKE.read_text())
    own = TINY[method]
    recipe["clip"] |= own["clip"]
    recipe["method"] = {"name": method, "dim": 8, **own["method"]}
    recipe["run"] = {**recipe["run"], "steps": 4, "stages": {}}
    path = Path(tempfile.mkdtemp(prefix="kinema-test-")) / f"{method}.yaml"
    atexit.register(shutil.rmtree, path.parent)
    path.write_text(yaml.safe_dump(recipe))
    return path


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


def samples(path: Path, *, rank: int = 0) -> dict[int, list[int]]:
    """Step -> videos. A step trained again after a restart must have seen the same ones."""
    seen: dict[int, list[int]] = {}
    for line in path.read_text().splitlines():
        step, of_rank, videos = json.loads(line)
        if of_rank == rank:
            assert seen.setdefault(step, videos) == videos, f"step {step} saw other videos"
    return seen


def assert_same_run(folder: Path, whole: Path) -> None:
    """Every scalar of every step, in full precision, and the last state in every bit."""
    assert (folder / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert_same_state(newest(folder), newest(whole))
    if (folder / "samples").exists():
        assert samples(folder / "samples") == samples(whole / "samples")
