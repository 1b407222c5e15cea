"""A function mapped over items in processes that may hang or die without harm to the others."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from pipeline.watch import ending

READY = "ready"


@dataclass(frozen=True, slots=True)
class Stuck:
    """The function took longer than `seconds`; its process was killed."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Crashed:
    """The function's process died, or the function raised; `reason` says how."""

    reason: str


class _Worker:
    """One process and its item. deadline: when the item becomes overdue; None while idle."""

    def __init__(self, context, function: Callable[[Any], Any]):
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.started = False
        self.index: int | None = None
        self.deadline: float | None = None

    def give(self, index: int, item: Any, timeout_seconds: float) -> None:
        self.index, self.deadline = index, time.monotonic() + timeout_seconds
        # A process that died in this instant is found by its closed pipe when it should answer.
        with suppress(BrokenPipeError):
            self.connection.send(item)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def supervised_map(
    function: Callable[[Any], Any], items: Sequence[Any], *, jobs: int, timeout_seconds: float
) -> Iterator[tuple[int, Any]]:
    """(index, function(items[index])) in the order of completion, over `jobs` processes.

    In place of a result stands Stuck when an item took longer than `timeout_seconds`, and Crashed
    when its process died or the function raised. Raises RuntimeError when no process can start.
    """
    # Not fork: the caller may have threads (a progress bar), whose locks a fork would freeze.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    waiting = deque(enumerate(items))
    workers = [_Worker(context, function) for _ in range(min(jobs, len(items)))]
    try:
        while waiting or any(worker.index is not None for worker in workers):
            for worker in _eventful(workers):
                outcome = _collect(worker, timeout_seconds)
                if worker.index is not None:
                    yield worker.index, outcome
                    worker.index = worker.deadline = None
                if isinstance(outcome, Stuck) or worker.connection.closed:
                    worker.kill()
                    workers[workers.index(worker)] = _Worker(context, function)
                elif waiting:
                    worker.give(*waiting.popleft(), timeout_seconds)
    finally:
        for worker in workers:
            worker.kill()


def _eventful(workers: list[_Worker]) -> list[_Worker]:
    """Workers that have answered, died or run out of time; waits for the first of them."""
    deadlines = [worker.deadline for worker in workers if worker.deadline is not None]
    patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
    ready = wait([worker.connection for worker in workers], patience)
    now = time.monotonic()
    return [w for w in workers if w.connection in ready or (w.deadline or now + 1) <= now]


def _collect(worker: _Worker, timeout_seconds: float) -> Any:
    """The outcome of the worker's item; READY when it has only just started."""
    if not worker.connection.poll():
        return Stuck(timeout_seconds)
    try:
        outcome = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        if not worker.started:
            raise RuntimeError(f"a worker process cannot start: {ending(worker.process)}") from None
        worker.connection.close()
        return Crashed(ending(worker.process))
    worker.started = True
    return outcome


def _serve(function: Callable[[Any], Any], connection: Connection) -> None:
    """The worker process: answer items until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    connection.send(READY)
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        connection.send(_outcome(function, item))


def _outcome(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        return function(item)
    except Exception as error:
        return Crashed(f"{type(error).__name__}: {error}")
