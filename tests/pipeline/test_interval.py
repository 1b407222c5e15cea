"""Distances between CVRL's clips: the published search, frame for frame, and its distribution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.interval import distance
from tests import oracles

POWERS = (0.25, 0.5, 1.0, 2.0, 5.0)
# A statistic of Kolmogorov and Smirnov above this times 1 / sqrt(n): once in a thousand draws.
KS_BOUND = 1.95


def drawn(places: int, shape: str, power: float, count: int = 20_000) -> np.ndarray:
    quantiles = np.random.default_rng(0).random(count)
    return np.array([distance(u, places, shape=shape, power=power) for u in quantiles])


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("places", [2, 17, 90, 270, 4001])
def test_every_quantile_gives_the_frame_of_the_published_search(places, power):
    """For power 1 this is the closed form against a search."""
    quantiles = np.random.default_rng(1).random(4000)
    ours = [distance(u, places, shape="decreasing", power=power) for u in quantiles]
    assert ours == [oracles.interval_by_bisection(u, places, power) for u in quantiles]


@pytest.mark.parametrize("power", POWERS)
def test_the_oracles_integral_is_that_of_its_density(power):
    places, cells = 90, 20_000
    middles = (np.arange(cells) + 0.5) * places / cells
    total = np.cumsum([oracles.interval_density(k, places, power) for k in middles])
    for share in (0.25, 0.5, 1.0):
        exact = oracles.interval_cdf(places * share, places, power)
        assert total[int(cells * share) - 1] * places / cells == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("shape", ["decreasing", "uniform", "increasing"])
def test_distances_are_distributed_as_their_shape_says(shape, power):
    """The share of distances below k is CDF(k), since CDF(d) <= u < CDF(d + 1)."""
    places = 270
    found = drawn(places, shape, power)
    ends = np.arange(1, places + 1)
    below = np.searchsorted(np.sort(found), ends) / len(found)
    near = np.array([oracles.interval_cdf(k, places, power) for k in range(places + 1)])
    exact = {"decreasing": near, "uniform": ends / places, "increasing": 1 - near[::-1]}[shape]
    assert np.abs(below - exact[-places:]).max() < KS_BOUND / np.sqrt(len(found))


def test_the_mean_distance_is_a_third_of_the_places_and_shapes_differ():
    near, even, far = (drawn(270, s, 1.0).mean() for s in ("decreasing", "uniform", "increasing"))
    assert near == pytest.approx(90, abs=2)
    assert even == pytest.approx(135, abs=2)
    assert far == pytest.approx(180, abs=2)


@given(
    u=st.floats(0, 1, exclude_max=True),
    places=st.integers(1, 100_000),
    shape=st.sampled_from(["decreasing", "uniform", "increasing"]),
    power=st.floats(1e-6, 1e6) | st.just(1.0) | st.just(float("inf")),
)
def test_a_distance_is_one_of_the_places(u, places, shape, power):
    assert 0 <= distance(u, places, shape=shape, power=power) < places


@given(places=st.integers(1, 1000), power=st.sampled_from(POWERS), u=st.floats(0, 0.998))
def test_increasing_is_decreasing_mirrored_and_both_grow_with_the_quantile(places, power, u):
    near = distance(u, places, shape="decreasing", power=power)
    assert distance(u, places, shape="increasing", power=power) == places - 1 - near
    assert near <= distance(u + 0.001, places, shape="decreasing", power=power)


def test_a_large_power_is_uniform():
    quantiles = np.linspace(0, 1, 500, endpoint=False) + 1e-4
    for u in quantiles:
        assert distance(u, 100, shape="decreasing", power=1e9) == int(100 * u)
