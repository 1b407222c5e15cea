import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.protocols.outcome import classified, interval, interval_of_mean


@pytest.mark.parametrize(("right", "of"), [(7, 20), (62, 100), (3, 400), (2349, 3783)])
def test_the_interval_is_that_of_a_bootstrap(right, of):
    """A million resamples of the videos with replacement; a quantile of them is one of counts."""
    drawn = np.random.default_rng(0).binomial(of, right / of, size=1_000_000)
    expected = np.quantile(drawn, [0.025, 0.975], method="inverted_cdf")
    assert np.abs(np.array(interval(right, of)) * of - expected).max() <= 1


@settings(max_examples=60, deadline=None)
@given(of=st.integers(1, 500), share=st.floats(0, 1))
def test_the_interval_holds_the_share_and_is_symmetric(of, share):
    right = round(share * of)
    low, high = interval(right, of)
    assert 0 <= low <= right / of <= high <= 1
    mirrored = interval(of - right, of)
    assert abs(1 - mirrored[1] - low) <= 1.0001 / of  # a quantile of counts is one of two


def test_of_all_or_none_right_there_is_nothing_to_draw():
    assert interval(5, 5) == [1.0, 1.0] and interval(0, 9) == [0.0, 0.0]
    assert interval_of_mean([(5, 5), (7, 7)]) == [1.0, 1.0]
    assert interval_of_mean([(0, 5), (7, 7)]) == [0.5, 0.5]


def test_the_interval_of_a_mean_is_that_of_a_bootstrap_within_every_split():
    """UCF101's three test lists, and as many resamples as settle 0.0005."""
    counts = [(2349, 3783), (2201, 3734), (2270, 3696)]
    rng = np.random.default_rng(0)
    shares = [rng.binomial(of, right / of, size=400_000) / of for right, of in counts]
    expected = np.quantile(np.mean(shares, axis=0), [0.025, 0.975])
    np.testing.assert_allclose(interval_of_mean(counts), expected, atol=2e-4)
    alone = interval(*counts[0])
    np.testing.assert_allclose(interval_of_mean(counts[:1]), alone, atol=1e-5)
    width = np.diff(interval_of_mean(counts)) / np.diff(alone)
    assert width == pytest.approx(3**-0.5, rel=0.02)


def test_top_5_is_left_out_below_five_classes():
    outcome = classified(torch.eye(4), torch.arange(4), torch.arange(4))
    assert outcome.shares == {"top-1": 1.0} and outcome.chance == {"top-1": 0.25}


def test_equal_scores_are_not_right_by_chance():
    outcome = classified(torch.zeros(6, 6), torch.arange(6), torch.arange(6))
    assert outcome.shares == {"top-1": pytest.approx(1 / 6), "top-5": pytest.approx(5 / 6)}
