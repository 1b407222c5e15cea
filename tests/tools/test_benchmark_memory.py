"""Peak memory of work whose memory is known."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch

from tools.benchmark.memory import (
    MMAP_THRESHOLD,
    extra_bytes_in_fresh_process,
    extra_bytes_on_gpu,
    free_bytes,
)

MEGABYTE = 10**6


def fill(*millions: int) -> torch.Tensor:
    """Arrays of so many megabytes, one after the other; the last is returned."""
    for count in millions:
        array = torch.ones(count * MEGABYTE // 4)
    return array


def two_at_once() -> torch.Tensor:
    return fill(20) + fill(20)


def fail() -> None:
    raise RuntimeError("no memory for that")


def works() -> dict:
    kept = fill(40)  # an input is no extra
    return {
        "20 + 20": two_at_once,
        "nothing": lambda: kept.add_(1),  # whatever was the most before
        "20": partial(fill, 20),
        # A freed block is given back, so what comes after it counts in full.
        "5, 20, 5": partial(fill, 5, 20, 5),
        "fails": fail,
    }


def die() -> dict:
    raise SystemExit(3)


def test_is_that_of_the_largest_moment(capfd):
    found = extra_bytes_in_fresh_process(works)
    expected = {"nothing": 0, "20": 20, "5, 20, 5": 25, "20 + 20": 60}
    assert found.keys() == expected.keys()
    for name, megabytes in expected.items():
        assert found[name] == pytest.approx(megabytes * MEGABYTE, abs=0.5 * MEGABYTE), name
    said = capfd.readouterr().out
    assert said == "memory of fails is not measured: RuntimeError: no memory for that\n"


def test_a_process_that_dies_is_told_and_the_environment_is_left(monkeypatch):
    (name,) = MMAP_THRESHOLD
    monkeypatch.setenv(name, "12345")
    with pytest.raises(RuntimeError) as error:
        extra_bytes_in_fresh_process(die)
    assert str(error.value) == "the process that measures memory ended with exit code 3"
    assert os.environ[name] == "12345"


def test_free_memory_is_some():
    assert free_bytes("cpu") > MEGABYTE


@pytest.mark.needs_cuda
def test_on_a_gpu():
    kept = torch.ones(10 * MEGABYTE // 4, device="cuda")
    found = extra_bytes_on_gpu(lambda: (kept + 1).add_(kept * 2))
    assert found == pytest.approx(20 * MEGABYTE, abs=0.1 * MEGABYTE)
