"""Runs of tools.shard in processes of their own, which tests may kill, starve and break.

The processes fork from a server that has imported everything once. Faults are wrapped around the
program from outside: the encoder and the packer that the workers get are those of this file.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import tools.shard.run
from pipeline.shards import spool
from pipeline.shards.shard import Packer, Shard
from pipeline.shards.spool import Encoder, Sample
from tools.shard.__main__ import main

LIMIT_SECONDS = 100.0


@dataclass(frozen=True)
class KillAt:
    """kill -9 of the run and of the process, at the `count`-th file whose name matches.

    moment: "half": half of it is written, under another name; "before", "after" it gets its name.
    """

    name: str
    moment: str
    count: int = 1

    def __call__(self, run: int) -> None:
        original, seen = os.replace, []

        def replace(source, target):
            hit = re.fullmatch(self.name, os.path.basename(target))
            seen.extend([target] if hit else [])
            now = hit and len(seen) == self.count
            if now and self.moment == "half":
                os.truncate(source, os.path.getsize(source) // 2)
            if now and self.moment != "after":
                kill(run)
            original(source, target)
            if now:
                kill(run)

        os.replace = replace


@dataclass(frozen=True)
class DieOnce:
    """The first worker that gets a matching key dies of SIGKILL, the next ones do not."""

    key: str
    flag: Path

    def __call__(self, key: str) -> None:
        if key == self.key and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class DieAlways:
    """Every worker that gets a matching key dies as of a decoder's fault."""

    key: str

    def __call__(self, key: str) -> None:
        if key == self.key:
            os.kill(os.getpid(), signal.SIGSEGV)


@dataclass(frozen=True)
class Hang:
    """A video on which every worker hangs, leaving its process's number in a file."""

    key: str
    pid: Path

    def __call__(self, key: str) -> None:
        if key == self.key:
            self.pid.write_text(f"{os.getpid()}")
            time.sleep(LIMIT_SECONDS)

    def wait(self) -> int:
        """The number, once it is there."""
        end = time.monotonic() + LIMIT_SECONDS
        while not (self.pid.exists() and self.pid.read_text()) and time.monotonic() < end:
            time.sleep(0.02)
        return int(self.pid.read_text())


@dataclass(frozen=True)
class FaultyEncoder(Encoder):
    video: Callable[[str], None] | None = None
    files: KillAt | None = None
    run: int = 0

    def __call__(self, sample: Sample):
        _arm(self.video, self.files, self.run)
        return Encoder.__call__(self, sample)


@dataclass(frozen=True)
class FaultyPacker(Packer):
    shard: Callable[[str], None] | None = None
    files: KillAt | None = None
    run: int = 0

    def __call__(self, shard: Shard):
        _arm(None, self.files, self.run)
        if self.shard:
            self.shard(shard.name)
        return Packer.__call__(self, shard)


def kill(run: int) -> None:
    os.kill(run, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


@cache
def _arm(video: Callable[[str], None] | None, files: KillAt | None, run: int) -> None:
    """Once in each worker process."""
    if files:
        files(run)
    if video:
        original = spool.transcode

        def transcode(row, *rest, **named):
            video(row.key)
            return original(row, *rest, **named)

        spool.transcode = transcode


class Run:
    """tools.shard with `arguments`, started at once; file_limit: bytes no file may exceed."""

    def __init__(
        self,
        log: Path,
        *arguments: object,
        video: Callable[[str], None] | None = None,
        shard: Callable[[str], None] | None = None,
        files: KillAt | None = None,
        file_limit: int | None = None,
    ):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.shard_runs"])
        self.log = log
        self.process = context.Process(
            target=_run,
            args=(str(log), [str(a) for a in arguments], video, shard, files, file_limit),
        )
        self.process.start()

    def wait(self) -> Run:
        self.process.join(LIMIT_SECONDS)
        if self.process.is_alive():
            self.process.kill()
            raise AssertionError(f"still running:\n{self.output}")
        return self

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def _run(log: str, arguments: list[str], video, shard, files, file_limit) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # The server ignores Ctrl-C, and blocks it if it was a loader's workers that started it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    faults = {"files": files, "run": os.getpid()}
    tools.shard.run.Encoder = partial(FaultyEncoder, video=video, **faults)
    tools.shard.run.Packer = partial(FaultyPacker, shard=shard, **faults)
    if files:
        files(os.getpid())
    if file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    raise SystemExit(main(arguments))


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, hidden ones included."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
