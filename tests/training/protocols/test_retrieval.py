import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.training.protocols.feature_sets import clustered, features, random_features
from training.features import Features, of_means
from training.protocols import retrieval


def recall(test: Features, train: Features, ranks=retrieval.RANKS) -> dict[str, float]:
    return retrieval.asked(test, train, ranks).shares


def ranked_by_loop(query: list[float], gallery: list[list[float]]) -> list[int]:
    """Places of the gallery by falling cosine, in plain Python."""

    def cosine(a, b):
        norms = math.sqrt(sum(x * x for x in a) * sum(x * x for x in b))
        return sum(x * y for x, y in zip(a, b, strict=True)) / norms

    return sorted(range(len(gallery)), key=lambda n: -cosine(query, gallery[n]))


def recall_by_loop(test: Features, train: Features, k: int) -> float:
    found = 0
    for query, label in zip(test.feature.tolist(), test.label.tolist(), strict=True):
        best = ranked_by_loop(query, train.feature.tolist())[:k]
        found += any(int(train.label[n]) == label for n in best)
    return found / len(test.label)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), queries=st.integers(1, 9), gallery=st.integers(1, 25))
def test_recall_is_that_of_a_loop(seed, queries, gallery):
    test, train = random_features(seed, queries, 4), random_features(seed + 1, gallery, 4)
    expected = {f"R@{k}": recall_by_loop(test, train, k) for k in (1, 5, 10, 20) if k <= gallery}
    assert recall(test, train) == pytest.approx(expected)


def recall_among_by_loop(videos: Features, k: int) -> float:
    labelled = [n for n in range(len(videos.label)) if videos.label[n] >= 0]
    found = 0
    for n in labelled:
        others = [m for m in labelled if m != n]
        best = ranked_by_loop(videos.feature[n].tolist(), videos.feature[others].tolist())[:k]
        found += any(videos.label[others[place]] == videos.label[n] for place in best)
    return found / len(labelled)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), videos=st.integers(2, 25), unlabelled=st.integers(0, 3))
def test_recall_among_the_videos_of_one_set_is_that_of_a_loop(seed, videos, unlabelled):
    own = random_features(seed, videos + unlabelled, 4)
    own.label[:unlabelled] = -1
    expected = {f"R@{k}": recall_among_by_loop(own, k) for k in (1, 5) if k < videos}
    assert retrieval.recall_among(own) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [[], [3], [-1, -1], [-1, 2]])
def test_fewer_than_two_labelled_videos_have_no_recall(labels):
    assert retrieval.recall_among(features(torch.ones(len(labels), 2), labels)) == {}


def test_a_copy_of_a_video_is_an_answer_and_the_video_itself_is_none():
    one = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert retrieval.recall_among(features(one, [0, 0, 1]), (1,)) == {"R@1": pytest.approx(2 / 3)}
    assert retrieval.recall_among(features(one, [0, 1, 2]), (1,)) == {"R@1": 0.0}


def test_many_copies_of_a_video_may_crowd_it_out_of_its_own_answers():
    assert retrieval.recall_among(features([[1.0, 0.0]] * 8, [0] * 8), (1,)) == {"R@1": 1.0}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_recall_grows_with_k_up_to_every_class_present(seed):
    test, train = random_features(seed, 20, 4), random_features(seed + 1, 50, 4)
    values = list(recall(test, train).values())
    assert values == sorted(values) and len(values) == 5
    present = set(train.label.tolist())
    assert values[-1] == sum(label in present for label in test.label.tolist()) / 20


def test_perfect_features_are_perfect():
    label = torch.arange(40) % 4
    one_hot = features(F.one_hot(label, 4), label)
    assert set(recall(one_hot, one_hot).values()) == {1.0}


def test_features_that_mislead_find_nothing():
    test = features(F.one_hot(torch.arange(4), 4), torch.arange(4))
    train = features(F.one_hot(torch.arange(4), 4), (torch.arange(4) + 1) % 4)
    assert recall(test, train, (1,)) == {"R@1": 0.0}


def test_chance_is_the_mean_over_all_orders_of_the_gallery():
    test, train = (
        features(torch.zeros(4, 1), [0, 0, 1, 2]),
        features(torch.zeros(5, 1), [0, 0, 0, 1, 1]),
    )
    expected = {}
    for k in (1, 2, 5):
        hits = [
            label in [int(train.label[n]) for n in order[:k]]
            for label in test.label.tolist()
            for order in itertools.permutations(range(5))
        ]
        expected[f"R@{k}"] = sum(hits) / len(hits)
    assert retrieval.chance(test, train, (1, 2, 5, 6)) == pytest.approx(expected)


def test_chance_of_balanced_classes_at_one_is_one_class_in_all():
    gallery = features(torch.zeros(960, 1), torch.arange(960) % 12)
    assert retrieval.chance(gallery, gallery, (1,)) == pytest.approx({"R@1": 1 / 12})


def test_recall_is_that_of_a_brute_force_in_numpy():
    """Exactly: the same videos are found, not only as many."""
    test, train = clustered(1, 300, 7), clustered(2, 500, 7)
    similarity = test.feature.double().numpy() @ train.feature.double().numpy().T
    best = (-similarity).argsort(axis=1, kind="stable")
    right = train.label.numpy()[best] == test.label.numpy()[:, None]
    outcome = retrieval.asked(test, train)
    assert list(outcome.hits) == ["R@1", "R@5", "R@10", "R@20", "R@50"]
    for k in retrieval.RANKS:
        assert outcome.hits[f"R@{k}"].tolist() == right[:, :k].any(1).tolist()


def test_duplicates_find_each_other():
    test = random_features(5, 80, 9)
    assert recall(test, test, (1,)) == {"R@1": 1.0}


def test_shuffled_labels_are_at_chance():
    """Of 2,000 queries and 10 classes, R@1 is within 4 standard errors of what chance says."""
    test, train = random_features(1, 2000, 10, dim=16), random_features(2, 500, 10, dim=16)
    outcome = retrieval.asked(test, train)
    for name in ("R@1", "R@5", "R@10"):
        chance = outcome.chance[name]
        error = math.sqrt(chance * (1 - chance) / 2000)
        assert abs(outcome.shares[name] - chance) < 4 * error
    low, high = outcome.intervals["R@1"]
    assert low <= outcome.chance["R@1"] <= high


def test_centring_subtracts_the_mean_before_scaling():
    """Of each set its own, of features as the encoder gave them (ViCC)."""
    label = torch.arange(3)
    raw = torch.tensor([[4.0, 1.0], [2.0, 1.0], [0.0, 1.0]])
    found = retrieval.centered(of_means(raw, label, label, []))
    expected = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(found.feature, expected, atol=1e-6, rtol=0)


def test_centring_undoes_an_offset_of_one_set():
    test, train = clustered(1, 200, 5, noise=0.3), clustered(2, 200, 5, noise=0.3)
    shift = 40 * torch.ones(12)
    moved = of_means(test.raw + shift, test.label, test.index, [])
    assert recall(moved, train)["R@1"] < 0.5
    both = [retrieval.centered(one) for one in (moved, train)]
    assert recall(*both)["R@1"] > 0.95


def test_the_table_of_classes_counts_their_videos():
    test = features(F.one_hot(torch.tensor([0, 0, 1, 3]), 4), [0, 0, 1, 3])
    train = features(F.one_hot(torch.tensor([0, 1, 3]), 4), [0, 2, 3])
    table = retrieval.asked(test, train, (1,)).per_class(["a", "b", "c", "d"])
    assert table == {
        "a": {"videos": 2, "R@1": 1.0},
        "b": {"videos": 1, "R@1": 0.0},
        "d": {"videos": 1, "R@1": 1.0},
    }
