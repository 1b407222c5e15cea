import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.training.protocols.feature_sets import clustered, features, random_features
from training.protocols import knn
from training.protocols.outcome import classified


def votes_by_brute_force(test, train, classes: int, k: int, temperature: float) -> np.ndarray:
    """Shares of the votes, by sorting all similarities."""
    similarity = test.feature.double().numpy() @ train.feature.double().numpy().T
    shares = np.zeros((len(similarity), classes))
    for query, row in enumerate(similarity):
        for video in np.argsort(-row, kind="stable")[:k]:
            shares[query, train.label[video]] += np.exp(row[video] / temperature)
    return shares / shares.sum(1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    k=st.integers(1, 30),
    temperature=st.sampled_from([0.05, 0.07, 0.5, 10.0]),
)
def test_the_vote_is_that_of_a_brute_force_in_numpy(seed, k, temperature):
    test, train = random_features(seed, 20, 4), random_features(seed + 1, 30, 4)
    found = knn.vote(test, train, 4, k=k, temperature=temperature)
    expected = votes_by_brute_force(test, train, 4, k, temperature)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)
    assert found.argmax(1).tolist() == expected.argmax(1).tolist()


def test_a_near_neighbour_outvotes_two_far_ones_where_the_temperature_is_low():
    train = features([[1.0, 0.0], [0.6, 0.8], [0.6, -0.8]], [0, 1, 1])
    test = features([[1.0, 0.0]], [0])
    answers = [
        knn.vote(test, train, 2, k=3, temperature=t).argmax(1).item() for t in (0.07, 1e-6, 100.0)
    ]
    assert answers == [0, 0, 1]


def test_perfect_features_are_perfect_and_duplicates_find_each_other():
    label = torch.arange(40) % 4
    one_hot = features(F.one_hot(label, 4), label)
    votes = knn.vote(one_hot, one_hot, 4, k=10, temperature=0.07)
    assert torch.equal(votes, F.one_hot(label, 4).double())
    copies = random_features(3, 50, 7)
    votes = knn.vote(copies, copies, 7, k=1, temperature=0.07)
    assert classified(votes, copies.label, copies.index).shares["top-1"] == 1.0


def test_shuffled_labels_are_at_chance():
    test, train = random_features(1, 1500, 5), random_features(2, 300, 5)
    votes = knn.vote(test, train, 5, k=20, temperature=0.07)
    outcome = classified(votes, test.label, test.index)
    low, high = outcome.intervals["top-1"]
    assert low <= outcome.chance["top-1"] == 0.2 <= high


def test_clusters_are_told_apart():
    votes = knn.vote(
        clustered(1, 100, 5, noise=0.5), clustered(2, 200, 5, noise=0.5), 5, k=20, temperature=0.07
    )
    assert (votes.argmax(1) == torch.arange(100) % 5).double().mean() > 0.9
