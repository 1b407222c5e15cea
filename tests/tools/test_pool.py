import os
import signal
import time
from pathlib import Path

import pytest

from tools.pool import Crashed, Stuck, supervised_map


def act(item):
    """Runs in a worker process: what the item says."""
    if isinstance(item, Path):
        item.write_text(str(os.getpid()))
    if item == "sleep" or isinstance(item, Path):
        time.sleep(600)
    if item == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "exit":
        os._exit(7)
    if item == "raise":
        raise MemoryError("too large")
    return None if item == "none" else (item, os.getpid())


def run(items, *, jobs=2, timeout_seconds=1.5):
    found = dict(supervised_map(act, items, jobs=jobs, timeout_seconds=timeout_seconds))
    assert sorted(found) == list(range(len(items)))
    return [found[n] for n in range(len(items))]


def test_every_item_has_its_result():
    results = run(list(range(50)))
    assert [item for item, _ in results] == list(range(50))
    assert len({pid for _, pid in results}) <= 2


def test_troubled_items_cost_only_themselves():
    items = [0, "sleep", 1, "segfault", 2, "exit", 3, "raise", "none", 4]
    results = run(items)
    assert results[1] == Stuck(1.5)
    assert results[3] == Crashed("killed by SIGSEGV")
    assert results[5] == Crashed("exit code 7")
    assert results[7] == Crashed("MemoryError: too large")
    assert results[8] is None
    assert [results[n][0] for n in (0, 2, 4, 6, 9)] == [0, 1, 2, 3, 4]


def test_a_stuck_process_is_killed(tmp_path):
    answers = supervised_map(act, [tmp_path / "pid", "sleep"], jobs=2, timeout_seconds=1.5)
    assert dict([next(answers)]) in ({0: Stuck(1.5)}, {1: Stuck(1.5)})
    assert next(answers)[1] == Stuck(1.5)
    # The generator stands at its second result: the process of the first must be gone already.
    next(answers, None)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_no_items_need_no_process():
    assert run([]) == []


def test_processes_end_with_the_caller():
    answers = supervised_map(act, [1, "sleep"], jobs=2, timeout_seconds=60)
    _, (_, pid) = next(answers)
    answers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
