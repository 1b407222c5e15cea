"""Collections of garbage fall between steps, and where they are asked for."""

from __future__ import annotations

import gc

import pytest

import train
from tests import runs
from training import garbage


@pytest.fixture
def collections():
    """Generation of every collection while the test runs."""
    seen: list[int] = []

    def note(phase: str, info: dict) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


def test_nothing_is_collected_but_at_a_sweep(collections, monkeypatch):
    monkeypatch.setattr(garbage, "SWEEP_STEPS", 3)
    with garbage.held_back():
        before = len(collections)
        kept = [[n] for n in range(100_000)]  # enough for many collections
        garbage.sweep(2)
        assert len(collections) == before
        garbage.sweep(3)
        assert len(collections) == before + 1
    assert len(kept) == 100_000
    assert gc.isenabled() and not gc.get_freeze_count()


def test_a_training_collects_between_steps_alone(tiny_data, tmp_path, monkeypatch):
    states = []
    monkeypatch.setattr(garbage, "sweep", lambda step: states.append((step, gc.isenabled())))
    assert train.main(runs.smoke(tiny_data, tmp_path / "run")) == 0
    assert [step for step, _ in states] == list(range(1, len(states) + 1))
    assert not any(enabled for _, enabled in states)
    assert gc.isenabled()
