import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.protocols.feature_sets import random_features
from training.protocols import ranking


def ranked_by_loop(query: list[float], gallery: list[list[float]]) -> list[int]:
    """Places of the gallery by falling dot product, equal ones in its order, in plain Python."""
    products = [math.fsum(x * y for x, y in zip(query, one, strict=True)) for one in gallery]
    return sorted(range(len(gallery)), key=lambda n: (-products[n], n))


@pytest.mark.parametrize("values", [1, 33, 77, 10**6])
def test_nearest_in_chunks_is_the_order_of_a_loop(monkeypatch, values):
    monkeypatch.setattr(ranking, "CHUNK_VALUES", values)
    test, train = random_features(1, 7, 3), random_features(2, 11, 3)
    expected = [
        ranked_by_loop(query, train.feature.tolist())[:4] for query in test.feature.tolist()
    ]
    assert ranking.nearest(test.feature, train.feature, 4).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=12),
    st.integers(1, 12),
)
def test_of_equal_similarities_the_first_row_comes_first(gallery, k):
    """With whole numbers many are equal, and products are exact."""
    k = min(k, len(gallery))
    queries = [[1.0, 2.0], [0.0, 0.0], [-1.0, 1.0]]
    values, rows = ranking.ranked(torch.tensor(queries), torch.tensor(gallery).float(), k)
    expected = [ranked_by_loop(query, gallery)[:k] for query in queries]
    assert rows.tolist() == expected
    products = [[sum(map(float.__mul__, q, map(float, gallery[n]))) for n in row]
                for q, row in zip(queries, expected, strict=True)]  # fmt: skip
    assert values.tolist() == products


def test_the_place_of_a_class_among_its_scores():
    scores = torch.tensor([[6.0, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6], [7, 7, 7, 7, 7, 7]])
    assert ranking.place_of(scores, torch.tensor([4, 5, 2])).tolist() == [4, 0, 2]


def test_what_is_no_number_is_never_right():
    scores = torch.tensor([[math.nan] * 3, [math.nan, 1.0, 0.0]])
    assert ranking.place_of(scores, torch.tensor([0, 1])).tolist() == [3, 1]
