"""Worker processes, one seat each: what a seat has made waits there, and a process that dies is
replaced by one that goes on where it ended.

Every seat has a pipe of its own: a process that is killed, in the midst of a batch or not, blocks
no other. Pictures travel as memory without a name, which nothing leaves behind and /dev/shm does
not limit.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing.process
import os
import pickle
import queue
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing import parent_process, reduction, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess

import numpy as np
import torch

from pipeline import watch
from pipeline.errors import DataError
from pipeline.sample import EvaluationStage, HostBatch, TrainingStage
from pipeline.track import NOTHING

HostStage = TrainingStage | EvaluationStage


@dataclass(frozen=True)
class Ended:
    """In place of a batch: the process that should have made it is no more."""

    process: BaseProcess


class Seat:
    """Where one worker process after the other makes the batches `steps` of a stage, in order.

    ahead: batches that it makes before they are asked for.
    """

    def __init__(self, context: BaseContext, stage: HostStage, steps: Sequence[int], ahead: int):
        self.context, self.steps, self.ahead = context, steps, ahead
        self.inbox: queue.SimpleQueue[HostBatch | Exception | Ended] = queue.SimpleQueue()
        self.note = watch.Note(context)
        self.made = self.taken = 0
        self.start(stage)

    def start(self, stage: HostStage) -> None:
        """A new process, for what is still to be made."""
        self.note.leave()
        self._seen, self.unmoved_polls, self._stuck = -1, 0, False
        self._connection, theirs = self.context.Pipe()
        room = self.ahead - (self.made - self.taken)
        work = stage, self.steps[self.made :], room, self.note, theirs
        self.process = self.context.Process(target=_serve, args=work, daemon=True)
        self.process.start()
        theirs.close()
        self._reader = threading.Thread(target=self._receive, daemon=True)
        self._reader.start()

    def end(self, timeout_seconds: float) -> str | None:
        """Kill the process, if it lives. Returns how it ended; None: it has not, in this time, and
        will not be waited for again.
        """
        self.process.kill()
        how = watch.ending(self.process, 0 if self._stuck else timeout_seconds)
        self._stuck = how is None
        if how:
            self._reader.join()
            self._connection.close()
        return how

    def leave(self, timeout_seconds: float) -> None:
        """`end`, or else let nobody wait for the process any more."""
        if self.end(timeout_seconds) is None:
            # When this process ends, multiprocessing joins all of its children and, from Python
            # 3.12.10 on, the tracker whose pipe they hold, however long that takes.
            multiprocessing.process._children.discard(self.process)
            resource_tracker._resource_tracker._fd = None

    def take(self, timeout_seconds: float) -> HostBatch | Exception | Ended:
        """The next batch, or what came in its place. Raises queue.Empty where there is none yet."""
        return self.inbox.get(timeout=timeout_seconds)

    def go_on(self) -> None:
        """A batch was taken: make one more. Never waits: no more than `ahead` are on their way."""
        self.taken += 1
        with contextlib.suppress(OSError):  # of a process that died: the inbox will say so
            self._connection.send(None)

    def look(self) -> None:
        """Once a poll: does the process move from video to video?"""
        turn = self.note.turn
        self.unmoved_polls = self.unmoved_polls + 1 if turn == self._seen else 0
        self._seen = turn

    def _receive(self) -> None:
        last: Exception | Ended = Ended(self.process)
        try:
            while True:
                item = _received(self._connection)
                self.made += 1
                self.inbox.put(item)
        except (EOFError, ConnectionResetError):
            pass
        except Exception as error:
            # Without a number it is the end of the pipe within a message. Else the fault is the
            # trainer's own, as of one that may open no more files, and no worker is to blame.
            if getattr(error, "errno", 0) is not None:
                last = error
        self.inbox.put(last)


def _received(connection: Connection) -> HostBatch | Exception:
    item, size = connection.recv()
    if not size:
        return item
    descriptor = reduction.recv_handle(connection)
    try:
        memory = mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
    return replace(item, pixels=np.frombuffer(memory, np.uint8))


def _send(connection: Connection, item: HostBatch | Exception) -> None:
    """The inverse of `_received`."""
    if isinstance(item, Exception) or not len(item.pixels):
        connection.send((item, 0))
        return
    with open(os.memfd_create("batch"), "wb") as file:
        item.pixels.tofile(file)
        connection.send((replace(item, pixels=NOTHING), len(item.pixels)))
        reduction.send_handle(connection, file.fileno(), None)


def _serve(
    stage: HostStage, steps: Sequence[int], room: int, note: watch.Note, connection: Connection
) -> None:
    """A worker process: makes batches while there is room for them, until the pipe closes."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_trainer, daemon=True).start()
    watch.own = note
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        for step in steps:
            while not room or connection.poll():
                connection.recv()
                room += 1
            room -= 1
            _send(connection, _made(stage, step))


def _made(stage: HostStage, step: int) -> HostBatch | Exception:
    """A batch, or what its making raised, with the traceback as a note."""
    try:
        return stage[step]
    except DataError as error:
        return error
    except Exception as error:
        told = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(f"in a data worker:\n{told}")
        error.add_note(f"in a data worker:\n{told}")
        return error


def _end_with_trainer() -> None:
    """The server that forked this process may outlive the trainer, and a decoder hang."""
    parent_process().join()
    os._exit(1)
