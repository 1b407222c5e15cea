"""The host stage in worker processes: started at once, watched, and gone when the trainer is gone.

A batch is a pure function of its step, so nothing is lost with a process: another one makes again
what it had not handed over. A video that hangs its decoder, or ends its worker twice, is refused:
the stage replaces it or leaves it out as any other that does not decode.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver, resource_tracker, util

from pipeline.crew import HostStage, Seat
from pipeline.errors import BadVideo, DataError
from pipeline.sample import HostBatch
from pipeline.watch import Reading

# A worker that is at no video starts, packs or sends: a minute is for imports from a slow disk.
BETWEEN_VIDEOS_SECONDS = 60.0
POLL_SECONDS = 1.0  # how often it is looked whether workers move
KILLED_SECONDS = 10.0  # within which a process that was killed should be gone
STUCK_SECONDS = 60.0  # more, which it may still wait for a disk until the run is given up
RESTARTS = 3  # after deaths that no video explains, in one run of the loader
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}


def host_batches(
    stage: HostStage,
    steps: Sequence[int],
    *,
    workers: int,
    ahead: int,
    decode_timeout_seconds: float,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[HostBatch]:
    """Items `steps` of a stage, in order, made by `workers` processes; 0: in this one, where a
    decoder that hangs or crashes takes the trainer with it.

    ahead: batches that each worker makes ready before they are asked for. A video that a worker is
    at for longer than `decode_timeout_seconds` is refused (E-TIMEOUT), and one at which a worker
    dies for the second time (E-CRASH): at the first the system may have killed it for its memory.
    `say` is told of a worker that died otherwise. Raises DataError for the fourth of those, and for
    a worker that hangs between two videos or does not even end when it is killed.
    """
    if not workers:
        yield from map(stage.__getitem__, steps)
        return
    context = multiprocessing.get_context("forkserver")
    _start_server(context)
    seats: list[Seat] = []
    foreman = _Foreman(stage, seats, decode_timeout_seconds, say)
    try:
        some = min(workers, len(steps))
        seats.extend(Seat(context, stage, steps[n::workers], ahead) for n in range(some))
        for n, step in enumerate(steps):
            yield foreman.batch(seats[n % len(seats)], step)
    finally:
        end = time.monotonic() + KILLED_SECONDS
        for seat in seats:
            seat.process.kill()
        for seat in seats:
            seat.leave(max(0.0, end - time.monotonic()))


class _Foreman:
    """Takes batches from seats, and finds out why one does not come."""

    def __init__(
        self, stage: HostStage, seats: list[Seat], limit_seconds: float, say: Callable[[str], None]
    ):
        self.stage, self.seats, self.limit_seconds, self.say = stage, seats, limit_seconds, say
        self.poll_seconds = min(POLL_SECONDS, limit_seconds / 5)
        self.deaths: Counter[Reading] = Counter()
        self.unexplained = 0

    def batch(self, seat: Seat, step: int) -> HostBatch:
        """The next batch of a seat, which is that of `step`."""
        while True:
            try:
                item = seat.take(self.poll_seconds)
            except queue.Empty:
                self._look(seat, step)
                continue
            if isinstance(item, Exception):
                raise item
            if isinstance(item, HostBatch):
                seat.go_on()
                return item
            if item.process is seat.process:
                self._died(seat, step)

    def _look(self, due: Seat, step: int) -> None:
        """After a poll without a batch. Time is counted in polls: a trainer that was stopped for a
        while, and its workers with it, must not take them for stuck.
        """
        for seat in self.seats:
            seat.look()
        for seat in self.seats:
            # One that died does not move either; its batch will be due.
            hangs = seat.process.is_alive() and self._unmoved_seconds(seat) >= self.limit_seconds
            if seat.note.reading and hangs:
                self._cut_off(seat)
        if not due.note.reading and self._unmoved_seconds(due) >= BETWEEN_VIDEOS_SECONDS:
            raise DataError(
                f"error: batch {step} did not come within {BETWEEN_VIDEOS_SECONDS:g} s · its data "
                "worker is at no video and does not answer · look for a full memory or a disk that "
                "hangs, lower data.workers"
            )

    def _unmoved_seconds(self, seat: Seat) -> float:
        # The first poll may have come just before the end of a video that took its full time.
        return (seat.unmoved_polls - 1) * self.poll_seconds

    def _cut_off(self, seat: Seat) -> None:
        turn = seat.note.turn
        self._end(seat)
        if turn == seat.note.turn:  # else it has come back at the last moment
            what = f"its decoder did not come back within {self.limit_seconds:g} s"
            cure = "re-encode it, or raise data.decode_timeout_seconds"
            self._refuse(seat.note.reading, "E-TIMEOUT", what, cure)
        seat.start(self.stage)

    def _died(self, seat: Seat, step: int) -> None:
        how, reading = self._end(seat), seat.note.reading
        if reading and self.deaths[reading]:
            self.unexplained -= 1  # the first death here
            what = f"its decoder ended the data worker twice ({how})"
            self._refuse(reading, "E-CRASH", what, "re-encode it or leave it out")
        else:
            self._note_death(reading, how, step)
        seat.start(self.stage)

    def _end(self, seat: Seat) -> str:
        """How the worker of a seat ended, killed if need be."""
        if how := seat.end(KILLED_SECONDS):
            return how
        reading = seat.note.reading
        where = self.stage.manifest[reading.index].path if reading else "at no video"
        stuck = f"data worker {seat.process.pid} was killed and does not end"
        cure = "it waits for the system: look for a disk or a network file system that hangs"
        self.say(f"{stuck} · {where} · {cure}")
        if how := seat.end(STUCK_SECONDS):
            return how
        raise DataError(f"error: {stuck} · {where} · {cure}, and start again")

    def _note_death(self, reading: Reading | None, how: str, step: int) -> None:
        self.unexplained += 1
        if reading:
            self.deaths[reading] += 1
        if self.unexplained > RESTARTS:
            raise DataError(
                f"error: a data worker died while reading batch {step} ({how}), the "
                f"{self.unexplained}th death that no video explains · out of memory? · lower "
                "data.workers or data.prefetch_batches"
            )
        self.say(f"a data worker died ({how}), restarted: {self.unexplained} of {RESTARTS} times")

    def _refuse(self, reading: Reading, code: str, what: str, cure: str) -> None:
        path = self.stage.manifest[reading.index].path
        self.stage.refuse(*reading, BadVideo(code, what, path, cure))


def _start_server(context: multiprocessing.context.ForkServerContext) -> None:
    """Workers fork from a server that has already imported torch: they start at once.

    Ctrl-C and batch systems signal every process of a group, and the trainer needs its data up to
    the end of the step: the server and so its workers are started with these signals blocked.
    """
    context.set_forkserver_preload(["pipeline.crew"])
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
