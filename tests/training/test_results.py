"""The demo's table on the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.results import Measured, gain, measures


def row(name: str, r1: float, **more: float) -> Measured:
    share = {"R@1": r1, **more}
    return Measured(name, Path(), share, {}, evaluated=300, of=300, gallery=960, classes=["a"])


def test_the_gain_is_over_the_better_baseline():
    baselines = [row("random", 0.10), row("pixels", 0.125)]
    points, best = gain(row("pretrained", 0.305), baselines, "R@1")
    assert points == pytest.approx(18.0) and best.name == "pixels"
    points, _ = gain(row("pretrained", 0.1), baselines, "R@1")
    assert points == pytest.approx(-2.5)


def test_measures_that_a_row_lacks_are_left_out():
    rows = [row("a", 0.1, **{"R@10": 0.5, "top-1": 0.2}), row("b", 0.1, **{"top-1": 0.2})]
    assert measures(rows) == ["R@1", "top-1"]
