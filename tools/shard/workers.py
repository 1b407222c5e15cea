"""Where the work is done: processes of this machine or a Dask cluster, both as an Executor.

A worker process may die: a decoder crashes, memory runs out, someone kills it. What was under way
is then done again one by one in a process of its own, which tells the guilty from the others.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED as FIRST
from concurrent.futures import CancelledError, Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.shards.shard import libraries
from tools.pool import supervised_map
from tools.shard.errors import Refused

AHEAD = 2  # tasks per worker under way, so that none waits for the next
CONNECT_SECONDS = 30


@dataclass(frozen=True)
class Workers:
    """open: gives an executor for a while. width: its workers. deaths: what it raises for one."""

    open: Callable[[], AbstractContextManager[Executor]]
    width: int
    deaths: tuple[type[BaseException], ...]

    def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        alone: Callable[[Any], Any],
        timeout_seconds: float,
    ) -> Iterator[tuple[Any, Any]]:
        """(item, function(item)) in the order of completion.

        What is under way while a worker dies is done by `alone` instead, each in one process. In
        place of a result stands tools.pool.Stuck or Crashed where that process takes longer than
        `timeout_seconds` or dies as well.
        """
        waiting = deque(items)
        while waiting:
            lost: list[Any] = []
            with self.open() as executor:
                yield from self._together(executor, function, waiting, lost)
            if lost:
                what = f"a worker process died; what it may have died of ({len(lost)}) is tried"
                print(f"{what} again one by one", file=sys.stderr, flush=True)
                again = supervised_map(alone, lost, jobs=1, timeout_seconds=timeout_seconds)
                yield from ((lost[index], outcome) for index, outcome in again)

    def _together(
        self, executor: Executor, function: Callable, waiting: deque, lost: list
    ) -> Iterator[tuple[Any, Any]]:
        """Until nothing is left or a worker died; `lost` gets what was under way then."""
        running = {}
        while running or (waiting and not lost):
            while waiting and not lost and len(running) < AHEAD * self.width:
                item = waiting.popleft()
                try:
                    running[executor.submit(function, item)] = item
                except self.deaths:
                    lost.append(item)
            for future in wait(running, return_when=FIRST).done:
                item = running.pop(future)
                try:
                    outcome = future.result()
                except self.deaths:
                    lost.append(item)
                else:
                    yield item, outcome


def local(jobs: int) -> Workers:
    """`jobs` processes of this machine."""
    return Workers(lambda: _processes(jobs), jobs, (BrokenProcessPool,))


@contextmanager
def _processes(jobs: int) -> Iterator[Executor]:
    """Workers end with the lifeline, whether the block ends, fails, or this process is killed."""
    # Not fork: this process has threads (a progress bar), whose locks a fork would freeze.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.shards.shard"])
    theirs, lifeline = context.Pipe(duplex=False)
    with theirs, lifeline:
        executor = ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_begin_worker, initargs=(theirs,)
        )
        try:
            yield executor
        finally:
            lifeline.close()
            executor.shutdown(cancel_futures=True)


def _begin_worker(lifeline: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    lifeline.poll(None)
    os._exit(0)


@contextmanager
def dask(address: str, folder: Path) -> Iterator[Workers]:
    """The workers of the Dask cluster whose scheduler listens at `address`.

    Raises Refused when Dask is not installed, nobody listens, or the workers lack this program,
    its library versions or `folder`.
    """
    try:
        from distributed import Client, KilledWorker
    except ModuleNotFoundError as error:
        raise Refused(
            "error: --dask needs a package that is not installed · distributed · pip install "
            "distributed"
        ) from error
    try:
        client = Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise Refused(
            f"error: no Dask scheduler answers ({reason}) · {address} · start one: dask scheduler"
        ) from error
    with client:
        _check_cluster(client, address, folder)
        width = sum(client.nthreads().values())
        try:
            yield Workers(lambda: client.get_executor(pure=False), width, (KilledWorker,))
        except CancelledError as error:
            raise Refused(
                f"error: the connection to the Dask cluster is lost · {address} · give the same "
                "command again: it continues"
            ) from error


def _check_cluster(client: Any, address: str, folder: Path) -> None:
    here = libraries()
    answers = client.run(_environment, str(folder), on_error="return")
    if not answers:
        raise Refused(f"error: the cluster has no workers · {address} · start: dask worker")
    for worker, answer in answers.items():
        if isinstance(answer, BaseException):
            what, cure = f"cannot load this program ({answer})", "start it in this folder"
        elif not answer[0]:
            what, cure = f"does not see {folder}", "use a folder that all machines share"
        elif answer[1] != here:
            other = sorted(answer[1].items() - here.items())
            versions = ", ".join(f"{name} {version}" for name, version in other)
            what, cure = f"has {versions}", "install the versions of this machine"
        else:
            continue
        raise Refused(f"error: a worker {what} · {worker} · {cure}")


def _environment(folder: str) -> tuple[bool, dict[str, str]]:
    return os.path.isdir(folder), libraries()
