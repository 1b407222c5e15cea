"""Figures of a training: how many prototypes are used, beside chance."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.diagnostics import entropy_by_chance, prototype_figures, prototype_use
from tests import oracles


def entropy(picks: tuple[int, ...]) -> float:
    shares = [picks.count(thing) / len(picks) for thing in set(picks)]
    return -sum(share * math.log(share) for share in shares)


@pytest.mark.parametrize(("picks", "among"), [(1, 5), (4, 3), (5, 2), (3, 7)])
def test_chance_is_the_mean_over_all_that_can_be_picked(picks, among):
    everything = [entropy(some) for some in product(range(among), repeat=picks)]
    assert entropy_by_chance(picks, among) == pytest.approx(np.mean(everything), abs=1e-12)


def test_chance_of_as_many_as_a_check_has():
    """Where a power of the shares alone would be no float: 2 ** -3200."""
    assert entropy_by_chance(3200, 2) == pytest.approx(math.log(2), abs=1e-3)
    # Few picks a thing cost about half of one over their number.
    assert entropy_by_chance(3200, 300) == pytest.approx(math.log(300) - 300 / 6400, abs=0.01)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_use_is_that_of_the_equation(picks):
    use = prototype_use(torch.tensor(picks), 5)
    assert use.item() == pytest.approx(oracles.prototype_use(np.array(picks), 5), rel=1e-5)


def test_random_picks_are_as_even_as_chance_and_one_pick_is_not():
    random = torch.randint(300, (800,), generator=torch.Generator().manual_seed(0))
    assert prototype_use(random, 300).item() == pytest.approx(1, abs=0.03)
    few = prototype_use(random % 30, 300)  # a tenth of them, evenly
    one = prototype_use(torch.zeros(800, dtype=torch.int64), 300)
    assert 0.1 < few < 0.13 and 1 / 300 < one < 1 / 200


def test_views_at_their_own_prototypes_or_at_one():
    prototypes = torch.eye(4)
    even = prototype_figures(prototypes, prototypes, torch.eye(4)[None], 0.01)
    assert even["prototype_use"] > 1 and even["prediction_accuracy"] == 1
    assert even["prediction_entropy"] == pytest.approx(0, abs=1e-6)
    one = prototype_figures(prototypes[:1].expand(4, 4), prototypes, torch.eye(4)[None], 0.01)
    assert one["prototype_use"] == pytest.approx(even["prototype_use"] / 4)
    assert one["prediction_accuracy"] == 0.25
