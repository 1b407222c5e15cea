from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.order import draws, order

seeds = st.integers(0, 2**63 - 1)


@given(n=st.integers(1, 700), seed=seeds, epoch=st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(n, seed, epoch):
    assert sorted(order(np.arange(n), n, seed=seed, epoch=epoch)) == list(range(n))


@given(seed=seeds, positions=st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=20))
def test_a_billion_videos_need_no_list(seed, positions):
    n = 10**9
    together = order(np.array(positions), n, seed=seed, epoch=3)
    alone = [int(order(np.array(p), n, seed=seed, epoch=3)) for p in positions]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < n)).all()
    assert len(set(alone)) == len(set(positions))


@pytest.mark.parametrize("n", [2, 3, 60, 64, 65, 1000])
def test_epochs_and_seeds_differ(n):
    runs = {
        tuple(order(np.arange(n), n, seed=seed, epoch=epoch))
        for seed in range(8)
        for epoch in (0, 1)
    }
    assert len(runs) > (1 if n < 4 else 12)


def test_first_place_is_uniform_over_videos():
    n, epochs = 20, 20_000
    first = [int(order(np.array(0), n, seed=5, epoch=e)) for e in range(epochs)]
    counts = np.bincount(first, minlength=n)
    # chi-square with 19 degrees of freedom exceeds 43.8 once in a thousand draws
    assert ((counts - epochs / n) ** 2 / (epochs / n)).sum() < 43.8


def test_neighbours_do_not_stay_neighbours():
    values = order(np.arange(10_000), 10_000, seed=0, epoch=0)
    assert np.abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.05
    assert np.abs(np.corrcoef(np.arange(10_000), values)[0, 1]) < 0.05


def test_a_position_outside_the_epoch_is_refused():
    with pytest.raises(ValueError, match=r"positions must lie in \[0, 5\), got up to 5"):
        order(np.array([0, 5]), 5, seed=0, epoch=0)


@given(
    a=st.tuples(
        seeds, st.integers(0, 99), st.integers(0, 99), st.integers(0, 5), st.integers(0, 7)
    ),
    b=st.tuples(
        seeds, st.integers(0, 99), st.integers(0, 99), st.integers(0, 5), st.integers(0, 7)
    ),
)
def test_draws_depend_on_every_coordinate_and_on_nothing_else(a, b):
    def numbers(seed, epoch, position, stream, attempt):
        rng = draws(seed, epoch, position, stream=stream, attempt=attempt)
        return rng.integers(0, 2**63, 8).tolist()

    assert numbers(*a) == numbers(*a)
    assert (numbers(*a) == numbers(*b)) == (a == b)
