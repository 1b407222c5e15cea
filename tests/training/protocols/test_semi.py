import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.protocols.semi import chosen


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-1, 5), min_size=1, max_size=300),
    st.floats(0.5, 100),
    st.integers(0, 2**32),
)
def test_every_class_gives_its_part(labels, per_cent, seed):
    labels = np.array(labels)
    if not (labels >= 0).any():
        return
    rows = chosen(labels, per_cent, seed=seed)
    assert rows.tolist() == sorted(set(rows.tolist()))
    for label in range(6):
        own = int((labels == label).sum())
        expected = max(1, round(own * per_cent / 100)) if own else 0
        assert int((labels[rows] == label).sum()) == expected
    assert (labels[rows] >= 0).all()


def test_a_larger_part_holds_a_smaller_one_and_seeds_differ():
    labels = np.arange(1000) % 7
    small, large = (set(chosen(labels, share, seed=1).tolist()) for share in (1, 10))
    assert small < large
    assert chosen(labels, 10, seed=1).tolist() == chosen(labels, 10, seed=1).tolist()
    assert chosen(labels, 10, seed=1).tolist() != chosen(labels, 10, seed=2).tolist()
