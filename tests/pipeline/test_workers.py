"""Workers that die or hang cost time and nothing else: the batches are those of a quiet run."""

from __future__ import annotations

import ctypes
import errno
import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipeline import AugmentConfig, ClipConfig, DataConfig, Manifest, crew
from pipeline import workers as workers_module
from pipeline.errors import DataError
from pipeline.loader import EvaluationLoader, Loader, build_evaluation_loader, build_loader
from pipeline.refused import Refused
from pipeline.sample import HostBatch, Reader, pack
from pipeline.stream import Stream
from pipeline.watch import Reading
from tests.conftest import damage
from tests.lane_runs import assert_same

CLIP, AUGMENT = ClipConfig(frames=2, stride=2), AugmentConfig(size=8)
STEPS = 8  # of two samples: an epoch of ten videos, and six of the next
LIMIT_SECONDS = 2.0  # where a worker hangs: no other video may take as long on a busy machine
SLEEP_SECONDS = 600


@dataclass(frozen=True)
class Trap(Reader):
    """Does something bad whenever it reads one of the videos, or only `times` times in all.

    folder: keeps count over processes.
    """

    act: str
    keys: tuple[str, ...]
    folder: Path
    times: int = 10**6

    def tracks(self, video, *rest):
        if video.key in self.keys and self._count(video.key) <= self.times:
            ACTS[self.act]()
        return super().tracks(video, *rest)

    def _count(self, key: str) -> int:
        with (self.folder / key).open("a+") as file:
            file.write("x")
            return file.tell()


def hang_in_c() -> None:
    """Comes back for nothing and lets no other thread run, as a decoder that loops."""
    ctypes.PyDLL(None).sleep(SLEEP_SECONDS)


ACTS = {
    "hang": hang_in_c,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": os.abort,
}


@pytest.fixture
def manifest(tiny_data) -> Manifest:
    return Manifest.read(tiny_data)


@pytest.fixture
def trapped(manifest, tmp_path):
    """Builds a training loader with a trap, or an evaluation loader, and tells what it said."""

    def build(act: str, *rows: int, times: int = 10**6, evaluation: bool = False, **options):
        data = DataConfig(
            batch_size=2,
            workers=2,
            prefetch_batches=2,
            decode_timeout_seconds=LIMIT_SECONDS if act in ("stop", "hang") else 60.0,
        )
        make = _evaluation if evaluation else _training
        loader = make(manifest, data, say=build.said.append, **options)
        stream = loader.stream if evaluation else loader.streams[0]
        keys = tuple(manifest[row].key for row in rows)
        old = stream.stage.reader
        trap = Trap(old.timeout_seconds, old.views, act, keys, tmp_path, times)
        stream.stage = replace(stream.stage, reader=trap)
        return loader

    build.said, build.reads = [], lambda row: len((tmp_path / manifest[row].key).read_text())
    return build


def _training(manifest, data, **options) -> Loader:
    return build_loader(manifest, clip=CLIP, augment=AUGMENT, data=data, seed=1, **options)


def _evaluation(manifest, data, **options) -> EvaluationLoader:
    return build_evaluation_loader(
        manifest, clip=CLIP, augment=AUGMENT, data=data, clips=1, **options
    )


QUIET = DataConfig(batch_size=2, workers=0, prefetch_batches=1)


def undisturbed(manifest: Manifest, first: int = 0) -> list:
    return list(_training(manifest, QUIET).batches(first, STEPS))


def places(entries: list[dict]) -> set[tuple[int, int, int]]:
    return {(e["epoch"], e["position"], e["attempt"]) for e in entries}


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """As many files are open after a test as before, and as many batches in memory."""

    def count() -> tuple[int, int]:
        maps = Path("/proc/self/maps").read_text()
        return len(os.listdir("/proc/self/fd")), maps.count("memfd:batch")

    list(_workers_once())  # the server and the tracker of resources stay
    files, batches = count()
    yield
    gc.collect()
    assert count() <= (files, batches)


# A video at fault


@pytest.mark.parametrize(
    ("act", "code", "detail", "reads"),
    [
        ("stop", "E-TIMEOUT",
         "its decoder did not come back within 2 s · re-encode it, or raise "
         "data.decode_timeout_seconds", 1),
        ("abort", "E-CRASH",
         "its decoder ended the data worker twice (killed by SIGABRT) · re-encode it or leave it "
         "out", 2),
    ],
)  # fmt: skip
def test_a_video_that_ends_its_worker_is_replaced_as_a_damaged_one(
    trapped, manifest, own_data, nothing_left, act, code, detail, reads
):
    """The oracle has a damaged file in its place, which no worker dies of."""
    damage(own_data, 3)
    expected: list[dict] = []
    theirs = _training(Manifest.read(own_data), QUIET, noted=expected.extend)
    theirs = list(theirs.batches(0, STEPS))
    noted: list[dict] = []
    loader = trapped(act, 3, noted=noted.extend)
    assert_same(loader.batches(0, STEPS), theirs)
    assert places(noted) == places(expected)
    assert {(e["key"], e["code"], e["detail"]) for e in noted} == {("v3", code, detail)}
    assert trapped.reads(3) == reads * len(noted)  # in every sample it is tried again
    assert len(trapped.said) == (reads - 1) * len(noted)


def test_a_resumed_run_refuses_in_the_same_sample(trapped, manifest, tmp_path):
    """What had been given out before the video was refused is given out again."""
    refused = Refused()
    stage = _training(manifest, QUIET).streams[0].stage
    rows = [stage.video_at(*divmod(number, 10), 0) for number in range(2 * STEPS)]
    row = next(row for row in rows if rows.count(row) == 2)
    first, second = (n for n, other in enumerate(rows) if other == row)
    line = {"path": "p", "key": "k", "code": "E-TIMEOUT", "detail": "d", "sample": second}
    refused.add(row, second, line)
    noted: list[dict] = []
    loader = _training(manifest, QUIET, refused=refused, noted=noted.extend)
    index = torch.cat([batch.index for batch in loader.batches(0, STEPS)]).tolist()
    assert index[first] == row and index[second] != row
    assert index[:second] == rows[:second]
    epoch, position = divmod(second, 10)
    assert noted == [{**line, "epoch": epoch, "position": position, "attempt": 0}]


@pytest.mark.parametrize("act", ["hang", "kill"])
def test_evaluation_lists_a_video_that_ends_its_worker(trapped, manifest, nothing_left, act):
    loader = trapped(act, 4, evaluation=True)
    expected = list(_evaluation(manifest, QUIET))
    batches = list(loader)
    shown = [row for batch in batches for row in batch.index.tolist()]
    assert shown == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    for ours, theirs in zip(batches, expected, strict=True):
        kept = torch.isin(theirs.index, ours.index)
        assert torch.equal(ours.views[0], theirs.views[0][kept])
    code = "E-TIMEOUT" if act == "hang" else "E-CRASH"
    assert [(e["index"], e["key"], e["code"]) for e in loader.failed] == [(4, "v4", code)]
    reads = trapped.reads(4)
    failed = loader.failed
    assert [b.index.tolist() for b in loader] == [b.index.tolist() for b in batches]
    assert loader.failed == failed and trapped.reads(4) == reads


# No video at fault


def test_a_worker_killed_once_changes_nothing(trapped, manifest, nothing_left):
    noted: list[dict] = []
    loader = trapped("kill", 3, times=1, noted=noted.extend)
    assert_same(loader.batches(0, STEPS), undisturbed(manifest))
    assert noted == []
    assert trapped.said == ["a data worker died (killed by SIGKILL), restarted: 1 of 3 times"]


def test_a_worker_killed_from_outside_changes_nothing(trapped, manifest):
    """Wherever it is by then: at a video, or waiting with its batches made."""
    loader = trapped("kill")
    with closing(loader.batches(0, STEPS)) as batches:
        ours = [next(batches)]
        for process in workers_module.multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)
        ours += batches
    assert_same(ours, undisturbed(manifest))
    assert 1 <= len(trapped.said) <= 2


def test_three_deaths_without_a_culprit_are_borne_and_a_fourth_is_one_line(trapped, manifest):
    borne = trapped("kill", 0, 1, 2, times=1)
    assert_same(borne.batches(0, 5), undisturbed(manifest)[:5])
    assert [line[-14:] for line in trapped.said] == [f": {n} of 3 times" for n in (1, 2, 3)]
    with pytest.raises(DataError) as caught:
        list(trapped("kill", 3, 4, 5, 6, times=1).batches(0, 5))
    assert re.fullmatch(
        r"error: a data worker died while reading batch \d \(killed by SIGKILL\), the 4th death "
        r"that no video explains · out of memory\? · lower data.workers or data.prefetch_batches",
        str(caught.value),
    )


def test_deaths_that_a_video_explains_are_not_counted(trapped):
    """Four videos, eight deaths."""
    noted: list[dict] = []
    list(trapped("kill", 0, 1, 2, 3, noted=noted.extend).batches(0, 5))
    assert {e["key"] for e in noted} == {f"v{n}" for n in range(4)}
    assert {e["code"] for e in noted} == {"E-CRASH"}


# Outside a video


@dataclass(frozen=True)
class Misbehaving(torch.utils.data.Dataset):
    """A stage that does something bad in step 2."""

    how: str
    refused: Refused = field(default_factory=Refused)

    def __getitem__(self, step: int) -> HostBatch:
        if step == 2:
            {
                "die": lambda: os._exit(9),
                "hang": hang_in_c,
                "sleep": lambda: time.sleep(SLEEP_SECONDS),
                "bug": lambda: [][step],
                "private": lambda: _raise(Unsendable("of no use elsewhere")),
                "refuse": lambda: _raise(DataError("error: too bad · here · mend it")),
            }.get(self.how, lambda: None)()
        return pack([], [])


class Unsendable(Exception):
    def __reduce__(self):
        raise TypeError("cannot be pickled")


def _raise(error: Exception):
    raise error


def run_misbehaving(how: str, workers: int = 1, *, say=print, **changed) -> list[HostBatch]:
    data = replace(QUIET, workers=workers, **changed)
    return [rendered.host for rendered in Stream(Misbehaving(how), {}, data, say).run(range(1, 4))]


def _workers_once() -> Iterator:
    return Stream(Misbehaving("nothing"), {}, replace(QUIET, workers=1)).run(range(3))


def test_a_worker_that_dies_at_no_video_is_one_line_after_three_restarts():
    with pytest.raises(DataError) as caught:
        run_misbehaving("die")
    assert str(caught.value) == (
        "error: a data worker died while reading batch 2 (exit code 9), the 4th death that no "
        "video explains · out of memory? · lower data.workers or data.prefetch_batches"
    )


@pytest.fixture
def unkillable(monkeypatch) -> Iterator[set[int]]:
    """Processes that SIGKILL does not end, as those that wait for a disk; gone after the test."""
    processes = set()
    monkeypatch.setattr(BaseProcess, "kill", lambda self: processes.add(self.pid))
    monkeypatch.setattr(workers_module, "KILLED_SECONDS", 0.1)
    monkeypatch.setattr(workers_module, "STUCK_SECONDS", 0.1)
    yield processes
    for number in processes:
        os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "does not even end"])
def test_a_worker_that_hangs_at_no_video_is_one_line(monkeypatch, request, ends):
    monkeypatch.setattr(workers_module, "BETWEEN_VIDEOS_SECONDS", 0.5)
    monkeypatch.setattr(workers_module, "POLL_SECONDS", 0.1)
    if not ends:
        request.getfixturevalue("unkillable")
    with pytest.raises(DataError) as caught:
        run_misbehaving("hang", decode_timeout_seconds=1.0)
    assert not multiprocessing.active_children(), "this process would wait for it at its end"
    assert re.fullmatch(
        r"error: batch [0-2] did not come within 0.5 s · its data worker is at no video and does "
        r"not answer · look for a full memory or a disk that hangs, lower data.workers",
        str(caught.value),
    )  # batch 2 hangs; on a busy machine a start may take as long


@pytest.mark.parametrize("workers", [0, 1])
def test_the_stages_own_error_passes_through_as_it_is(workers):
    with pytest.raises(DataError) as caught:
        run_misbehaving("refuse", workers=workers)
    assert str(caught.value) == "error: too bad · here · mend it"


def test_a_bug_in_a_worker_stays_a_bug_with_its_traceback():
    with pytest.raises(IndexError, match="list index out of range") as caught:
        run_misbehaving("bug")
    (note,) = caught.value.__notes__
    assert note.startswith("in a data worker:\nTraceback") and "[][step]" in note
    with pytest.raises(RuntimeError, match=r"(?s)in a data worker:.*of no use elsewhere"):
        run_misbehaving("private")


# The end of the trainer

TRAINER = """
import multiprocessing
import sys
from pipeline.stream import Stream
from pipeline.watch import Reading
from tests.pipeline.test_workers import QUIET, Misbehaving, replace

def train(fails):
    stream = Stream(Misbehaving("sleep"), {}, replace(QUIET, workers=1))
    globals()["run"] = run = stream.run(range(0, 9))
    next(run)
    print("started", flush=True)
    if fails:
        raise KeyError("a bug in the trainer")

if __name__ == "__main__":
    if sys.argv[1] == "child":
        child = multiprocessing.get_context("spawn").Process(target=train, args=(True,))
        child.start()
        child.join()
    else:
        train(sys.argv[1] == "bug")
        sys.stdin.read()
"""


# A worker that SIGKILL does not end, and a tracker as Python 3.12.10 and later wait for it.
STUCK = """
import os
from multiprocessing.process import BaseProcess
from multiprocessing.resource_tracker import ResourceTracker
import pipeline.workers as workers
from tests.pipeline.test_workers import Misbehaving

def wait(self, close=os.close, waitpid=os.waitpid):
    if self._fd is not None:
        close(self._fd)
        waitpid(self._pid, 0)

if __name__ == "__main__":
    ResourceTracker.__del__ = wait
    BaseProcess.kill = lambda self: print(self.pid, flush=True)
    workers.KILLED_SECONDS = workers.STUCK_SECONDS = workers.BETWEEN_VIDEOS_SECONDS = 0.5
    list(workers.host_batches(
        Misbehaving("hang"), range(1, 4), workers=1, ahead=1, decode_timeout_seconds=1.0))
"""


def test_workers_end_with_their_trainer(tmp_path):
    """The pipe closes only when its last holder, worker or server, is gone; a worker hangs, too.
    A worker that cannot be killed does not keep its trainer.
    """
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    (tmp_path / "stuck.py").write_text(STUCK)
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with ExitStack() as stack:  # all at once: each takes seconds to import torch
        trainers = {}
        for how in ("killed", "bug", "child"):
            trainers[how] = process = stack.enter_context(subprocess.Popen(
                [sys.executable, str(script), how], env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            ))  # fmt: skip
            stack.callback(process.kill)
        stuck = stack.enter_context(subprocess.Popen(
            [sys.executable, str(tmp_path / "stuck.py")], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ))  # fmt: skip
        stack.callback(stuck.kill)
        for how, process in trainers.items():
            assert process.stdout.readline() == "started\n", how
            if how == "killed":
                process.kill()
            _, errors = process.communicate(timeout=45)
            assert ("KeyError: 'a bug in the trainer'" in errors) == (how != "killed"), how
        pid = int(stuck.stdout.readline())
        stuck.wait(timeout=45)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        assert "DataError: error: batch " in stuck.stderr.read()


class DeadSeat:
    """Of a worker that was killed within video 7 while another one's batch was due."""

    process = SimpleNamespace(is_alive=lambda: False)
    note = SimpleNamespace(reading=Reading(3, 7), turn=1)
    unmoved_polls = 10**6

    def look(self) -> None: ...


class StuckSeat(DeadSeat):
    """Of a worker that is killed at video 7 and ends only when it is waited for this often."""

    process = SimpleNamespace(is_alive=lambda: True, pid=42)

    def __init__(self, waits: int):
        self.waits, self.started = waits, False

    def end(self, timeout_seconds: float) -> str | None:
        self.waits -= 1
        return None if self.waits else "killed by SIGKILL"

    def start(self, stage) -> None:
        self.started = True


class DueSeat(DeadSeat):
    process = SimpleNamespace(is_alive=lambda: True)
    note = SimpleNamespace(reading=Reading(2, 5), turn=1)
    unmoved_polls = 0


def test_a_worker_that_died_is_not_one_that_hangs():
    """It is found dead when its batch is due, and its video has a second chance."""
    foreman = workers_module._Foreman(None, [DueSeat(), DeadSeat()], 1.0, print)
    foreman._look(foreman.seats[0], 0)  # would end the seat, which this one cannot
    assert not foreman.deaths


def test_a_worker_that_cannot_be_killed_is_told_and_ends_the_run(manifest):
    stage, said = _training(manifest, QUIET).streams[0].stage, []
    stuck = (
        f"data worker 42 was killed and does not end · {manifest[7].path} · it waits for the "
        "system: look for a disk or a network file system that hangs"
    )
    late, never = StuckSeat(waits=2), StuckSeat(waits=9)
    workers_module._Foreman(stage, [late], 1.0, said.append)._look(late, 0)
    assert said == [stuck] and late.started and stage.refused.line(7, 3)["code"] == "E-TIMEOUT"
    with pytest.raises(DataError) as caught:
        workers_module._Foreman(stage, [never], 1.0, said.append)._look(never, 0)
    assert str(caught.value) == f"error: {stuck}, and start again"
    assert not never.started


def test_a_fault_of_the_trainer_itself_is_told_as_it_is(monkeypatch, manifest):
    def full(connection):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(crew, "_received", full)
    data = DataConfig(batch_size=2, workers=1, prefetch_batches=1)
    with pytest.raises(OSError, match="Too many open files"):
        next(_training(manifest, data).batches(0, 1))


def seated(stage, steps: range, *, made: int) -> crew.Seat:
    """A seat whose first worker has `made` batches ready, as many as it may."""
    list(_workers_once())  # the server runs
    seat = crew.Seat(multiprocessing.get_context("forkserver"), stage, steps, made)
    while seat.made < made:
        time.sleep(0.01)
    return seat


def test_however_many_videos_are_refused_the_trainer_waits_for_no_worker():
    """One that hangs reads nothing, and the trainer is who cuts it off."""
    stage = Misbehaving("sleep")
    seat = seated(stage, range(5), made=2)
    for number in range(20_000):
        stage.refused.add(number, number, {})
    for _ in range(2):
        assert isinstance(seat.take(60), HostBatch)
        going = threading.Thread(target=seat.go_on, daemon=True)
        going.start()
        going.join(10)
        assert not going.is_alive()
        time.sleep(0.2)  # from now on the worker sleeps in batch 2
    assert seat.end(60) == "killed by SIGKILL"


def test_what_waits_at_a_seat_is_not_made_again_by_the_next_worker(manifest):
    """One that hangs while another's batch is due is ended with its own still to be taken."""
    stage = _training(manifest, QUIET).streams[0].stage
    seat = seated(stage, range(5), made=2)
    seat.end(60)
    seat.start(stage)
    taken = []
    while len(taken) < 5:
        item = seat.take(60)
        if isinstance(item, HostBatch):
            taken.append(item.index.tolist())
            seat.go_on()
    seat.end(60)
    assert taken == [stage[step].index.tolist() for step in range(5)]
