"""The host stage in worker processes: started at once, watched, and gone when the trainer is gone.

torch's DataLoader carries the batches. What it leaves open is closed here: errors in one line, a
decoder that hangs, signals to the whole group, and workers whose trainer was killed.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker, util

import torch

from pipeline.errors import DataError
from pipeline.sample import EvaluationStage, HostBatch, TrainingStage

# Beside the time for its videos, a batch may wait for its worker's imports.
WORKER_START_SECONDS = 60.0
POLL_SECONDS = 5.0  # how soon a dead worker is noticed
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
TIMED_OUT = "DataLoader timed out"


def host_batches(
    stage: TrainingStage | EvaluationStage,
    steps: range,
    *,
    workers: int,
    ahead: int,
    decode_timeout_seconds: float,
) -> Iterator[HostBatch]:
    """Items `steps` of a stage, in order, made by `workers` processes; 0: in this one.

    ahead: batches that each worker makes ready before they are asked for. Raises DataError for a
    worker that died, and for a batch that takes longer than all its videos may together.
    """
    context = multiprocessing.get_context("forkserver") if workers else None
    if context:
        _start_server(context)
    limit = WORKER_START_SECONDS + decode_timeout_seconds * stage.size
    loader = torch.utils.data.DataLoader(
        _Reporting(stage),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context=context,
        prefetch_factor=ahead if workers else None,
        worker_init_fn=_begin_worker,
        timeout=POLL_SECONDS if workers else 0,
    )
    batches = iter(loader)
    for step in steps:
        try:
            batch = _next_within(limit, batches)
        except RuntimeError as error:
            if (line := _trouble(error, step, limit)) is None:
                raise
            _kill_workers()  # one that hangs would keep this process from its end
            raise DataError(line) from error
        if isinstance(batch, DataError):
            raise batch
        yield batch


class _Reporting(torch.utils.data.Dataset):
    """A stage whose DataError is an item: raised in a worker it would come out as a traceback."""

    def __init__(self, stage: torch.utils.data.Dataset):
        self.stage = stage

    def __getitem__(self, step: int) -> HostBatch | DataError:
        try:
            return self.stage[step]
        except DataError as error:
            return error


def _next_within(limit_seconds: float, batches: Iterator) -> HostBatch | DataError:
    """The next batch. DataLoader looks for dead workers only at its time-out, so that is short."""
    deadline = time.monotonic() + limit_seconds
    while True:
        try:
            return next(batches)
        except RuntimeError as error:
            if not str(error).startswith(TIMED_OUT) or time.monotonic() > deadline:
                raise


def _trouble(error: RuntimeError, step: int, limit_seconds: float) -> str | None:
    """What DataLoader says of a worker that died or hangs, in one line; None for other errors."""
    text = " ".join(str(error).split())
    if text.startswith(TIMED_OUT):
        return (
            f"error: batch {step} did not come within {limit_seconds:g} s · a video of it hangs "
            "its decoder, or the disk does not answer · run python -m tools.index again, or raise "
            "data.decode_timeout_seconds"
        )
    if text.startswith("DataLoader worker"):
        return (
            f"error: a data worker died while reading batch {step} · {text} · out of memory, or a "
            "decoder crash: lower data.workers or run python -m tools.index again"
        )
    return None


def _start_server(context: multiprocessing.context.ForkServerContext) -> None:
    """Workers fork from a server that has already imported torch: they start at once.

    Ctrl-C and batch systems signal every process of a group, and the trainer needs its data up to
    the end of the step: the server and so its workers are started with these signals blocked.
    """
    context.set_forkserver_preload(["pipeline.sample"])
    resource_tracker.ensure_running()  # unblocks signals, so it comes first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # At a process's end multiprocessing sends SIGTERM to its workers and waits for them: blocked,
    # that would be for ever. These finalizers run before it, in whichever process trains.
    util.Finalize(None, _kill_workers, exitpriority=1)


def _kill_workers() -> None:
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


def _begin_worker(_: int) -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    """torch watches the parent process, which here is the server; the trainer is what may die."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _as_it_is(batch: HostBatch | DataError) -> HostBatch | DataError:
    return batch
