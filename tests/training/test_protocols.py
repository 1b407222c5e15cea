import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from training import protocols
from training.features import Features


def features(feature, label) -> Features:
    feature = torch.as_tensor(feature, dtype=torch.float32)
    label = torch.as_tensor(label, dtype=torch.int64)
    return Features(feature, label, torch.arange(len(label)), failed=[])


def random_features(seed: int, videos: int, classes: int, dim: int = 6) -> Features:
    rng = np.random.default_rng(seed)
    unit = F.normalize(torch.from_numpy(rng.standard_normal((videos, dim))), dim=1)
    return features(unit, rng.integers(classes, size=videos))


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
    assert protocols.recall(test, train) == pytest.approx(expected)


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
    assert protocols.recall_among(own) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [[], [3], [-1, -1], [-1, 2]])
def test_fewer_than_two_labelled_videos_have_no_recall(labels):
    assert protocols.recall_among(features(torch.ones(len(labels), 2), labels)) == {}


def test_a_copy_of_a_video_is_an_answer_and_the_video_itself_is_none():
    one = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert protocols.recall_among(features(one, [0, 0, 1]), (1,)) == {"R@1": pytest.approx(2 / 3)}
    assert protocols.recall_among(features(one, [0, 1, 2]), (1,)) == {"R@1": 0.0}


def test_many_copies_of_a_video_may_crowd_it_out_of_its_own_answers():
    assert protocols.recall_among(features([[1.0, 0.0]] * 8, [0] * 8), (1,)) == {"R@1": 1.0}


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_nearest_in_chunks_is_the_order_of_a_loop(monkeypatch, chunk):
    monkeypatch.setattr(protocols, "CHUNK", chunk)
    test, train = random_features(1, 7, 3), random_features(2, 11, 3)
    expected = [
        ranked_by_loop(query, train.feature.tolist())[:4] for query in test.feature.tolist()
    ]
    assert protocols.nearest(test.feature, train.feature, 4).tolist() == expected


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_recall_grows_with_k_up_to_every_class_present(seed):
    test, train = random_features(seed, 20, 4), random_features(seed + 1, 50, 4)
    values = list(protocols.recall(test, train).values())
    assert values == sorted(values) and len(values) == 5
    present = set(train.label.tolist())
    assert values[-1] == sum(label in present for label in test.label.tolist()) / 20


def test_perfect_features_are_perfect():
    label = torch.arange(40) % 4
    one_hot = features(F.one_hot(label, 4), label)
    assert set(protocols.recall(one_hot, one_hot).values()) == {1.0}
    assert protocols.linear_probe(one_hot, one_hot, 4)["top-1"] == 1.0


def test_features_that_mislead_find_nothing():
    test = features(F.one_hot(torch.arange(4), 4), torch.arange(4))
    train = features(F.one_hot(torch.arange(4), 4), (torch.arange(4) + 1) % 4)
    assert protocols.recall(test, train, (1,)) == {"R@1": 0.0}


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
    assert protocols.chance(test, train, (1, 2, 5, 6)) == pytest.approx(expected)


def test_chance_of_balanced_classes_at_one_is_one_class_in_all():
    gallery = features(torch.zeros(960, 1), torch.arange(960) % 12)
    assert protocols.chance(gallery, gallery, (1,)) == pytest.approx({"R@1": 1 / 12})


def test_the_fit_has_no_gradient_left():
    """At the minimum of mean cross entropy + decay / 2 |W|^2 every partial derivative is zero."""
    train, decay = random_features(3, 30, 3, dim=4), 0.05
    model = protocols._fit(train.feature, train.label, 3, decay)
    weight, bias = model.weight.double().tolist(), model.bias.double().tolist()
    gradient = [[decay * w for w in row] for row in weight]
    gradient_bias = [0.0, 0.0, 0.0]
    for x, label in zip(train.feature.double().tolist(), train.label.tolist(), strict=True):
        logits = [
            sum(w * v for w, v in zip(row, x, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        total = sum(math.exp(one) for one in logits)
        for c in range(3):
            error = (math.exp(logits[c]) / total - (c == label)) / 30
            gradient_bias[c] += error
            for d in range(4):
                gradient[c][d] += error * x[d]
    assert max(abs(g) for row in [*gradient, gradient_bias] for g in row) < 1e-4


def test_a_probe_that_sees_nothing_answers_the_most_frequent_class():
    train = features(torch.zeros(20, 3), [0] * 4 + [1] * 11 + [2] * 5)
    test = features(torch.zeros(8, 3), [0, 1, 1, 2, 1, 0, 2, 2])
    model = protocols._fit(train.feature, train.label, 3, 0.1)
    shares = torch.softmax(model.bias, 0).tolist()
    assert shares == pytest.approx([4 / 20, 11 / 20, 5 / 20], abs=1e-3)
    assert protocols.linear_probe(train, test, 3)["top-1"] == 3 / 8


def test_the_probe_standardises_by_the_training_videos():
    """An affine change of both sets' features changes nothing; one of the test set alone does."""
    label = torch.arange(60) % 3
    rng = torch.Generator().manual_seed(0)
    clean = F.one_hot(label, 3) + 0.5 * torch.randn(60, 3, generator=rng)
    train, test = features(clean[:40], label[:40]), features(clean[40:], label[40:])
    moved = [
        features(part.feature * torch.tensor([9.0, 0.1, 3.0]) + 7, part.label)
        for part in (train, test)
    ]
    result = protocols.linear_probe(train, test, 3)
    assert protocols.linear_probe(*moved, 3) == result
    assert 0.8 < result["top-1"] < 1
    shifted = features(test.feature + torch.tensor([9.0, 0, 0]), test.label)
    assert protocols.linear_probe(train, shifted, 3)["top-1"] < 0.5


def test_the_test_list_does_not_choose_the_decay():
    train = random_features(5, 50, 3)
    decays = {
        protocols.linear_probe(train, random_features(seed, 20, 3), 3)["weight_decay"]
        for seed in range(6)
    }
    assert len(decays) == 1


def test_top_5_counts_the_right_class_among_five():
    logits = torch.tensor([[6.0, 5, 4, 3, 2, 1], [1.0, 2, 3, 4, 5, 6]])
    assert protocols._top(logits, torch.tensor([4, 0]), 5) == 0.5
    assert protocols._top(logits, torch.tensor([0, 5]), 1) == 1.0
    assert "top-5" not in protocols.linear_probe(
        random_features(0, 20, 4), random_features(1, 5, 4), 4
    )
    assert "top-5" in protocols.linear_probe(random_features(0, 20, 6), random_features(1, 5, 6), 6)
