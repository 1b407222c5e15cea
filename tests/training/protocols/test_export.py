import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.protocols.export import rescaled


def by_loop(feature: np.ndarray, rows: int) -> np.ndarray:
    """Every column by NumPy's own interpolation between the centres of the windows."""
    windows = len(feature)
    centres = (np.arange(windows) + 0.5) / windows
    at = (np.arange(rows) + 0.5) / rows
    return np.stack([np.interp(at, centres, column) for column in feature.T], axis=1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 4), st.integers(0, 100), st.integers(1, 150))
def test_rescaling_is_linear_between_the_centres_of_windows(windows, dim, seed, rows):
    feature = np.random.default_rng(seed).standard_normal((windows, dim))
    found = rescaled(feature, rows)
    np.testing.assert_allclose(found, by_loop(feature, rows), atol=1e-9)


def test_a_hundred_windows_stay_as_they_are():
    feature = np.random.default_rng(0).standard_normal((100, 3))
    np.testing.assert_allclose(rescaled(feature), feature, atol=1e-12)
