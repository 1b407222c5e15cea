import math

import pytest
import torch
from torch.nn import functional as F

from pipeline import DataError
from tests.training.protocols.feature_sets import clustered, features, random_features
from training.protocols import linear


def probed(train, test, classes) -> dict[str, float]:
    outcome = linear.probe(train, test, classes)
    return {**outcome.shares, **outcome.settings}


def test_the_fit_has_no_gradient_left():
    """At the minimum of mean cross entropy + decay / 2 |W|^2 every partial derivative is zero."""
    train, decay = random_features(3, 30, 3, dim=4), 0.05
    model = linear.fit(train.feature, train.label, 3, decay)
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
    model = linear.fit(train.feature, train.label, 3, 0.1)
    shares = torch.softmax(model.bias, 0).tolist()
    assert shares == pytest.approx([4 / 20, 11 / 20, 5 / 20], abs=1e-3)
    assert probed(train, test, 3)["top-1"] == 3 / 8


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
    result = probed(train, test, 3)
    assert probed(*moved, 3) == result
    assert 0.8 < result["top-1"] < 1
    shifted = features(test.feature + torch.tensor([9.0, 0, 0]), test.label)
    assert probed(train, shifted, 3)["top-1"] < 0.5


def test_the_test_list_does_not_choose_the_decay():
    train = random_features(5, 50, 3)
    decays = {probed(train, random_features(seed, 20, 3), 3)["weight_decay"] for seed in range(3)}
    assert len(decays) == 1


def test_perfect_features_are_perfect():
    label = torch.arange(40) % 4
    one_hot = features(F.one_hot(label, 4), label)
    assert probed(one_hot, one_hot, 4)["top-1"] == 1.0


def test_shuffled_labels_are_at_chance():
    train, test = random_features(1, 300, 5), random_features(2, 1000, 5)
    outcome = linear.probe(train, test, 5)
    low, high = outcome.intervals["top-1"]
    assert low <= outcome.chance["top-1"] == 0.2 <= high


def test_the_probe_agrees_with_scikit_learn():
    """To 0.5 points: the same minimum by another program, C = 1 / (n decay)."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    train, test = clustered(1, 400, 6, noise=1.6), clustered(2, 1200, 6, noise=1.6)
    outcome = linear.probe(train, test, 6)
    mean, std = train.feature.mean(0), train.feature.std(0)
    x, x_test = (((part.feature - mean) / std).double().numpy() for part in (train, test))
    c = 1 / (len(x) * outcome.settings["weight_decay"])
    model = linear_model.LogisticRegression(C=c, max_iter=5000, tol=1e-8)
    expected = model.fit(x, train.label.numpy()).score(x_test, test.label.numpy())
    assert 0.5 < expected < 0.95
    assert abs(outcome.shares["top-1"] - expected) <= 0.005


def test_probabilities_are_those_of_the_classes():
    outcome = linear.probe(clustered(1, 60, 6), clustered(2, 30, 6), 6)
    assert outcome.probabilities.shape == (30, 6)
    torch.testing.assert_close(outcome.probabilities.sum(1), torch.ones(30))
    right = outcome.probabilities.argmax(1) == outcome.label
    assert torch.equal(right, outcome.hits["top-1"])
    assert list(outcome.hits) == ["top-1", "top-5"]
    assert outcome.chance == {"top-1": pytest.approx(1 / 6), "top-5": pytest.approx(5 / 6)}


def test_a_single_training_video():
    one = features(torch.ones(1, 3), [0])
    with pytest.raises(DataError) as refused:
        linear.probe(one, one, 1)
    assert str(refused.value) == (
        "error: a linear classifier needs 2 training videos, here is 1 · take more, or a larger "
        "part of the labels"
    )
