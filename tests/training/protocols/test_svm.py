import numpy as np
import pytest

from pipeline import DataError
from tests.training.protocols.feature_sets import clustered, features, random_features
from training.protocols import svm
from training.protocols.outcome import classified

pytest.importorskip("sklearn")


def objective(weight: np.ndarray, x: np.ndarray, label: np.ndarray, c: float) -> float:
    """liblinear -s 2: |w|^2 / 2 + C sum max(0, 1 - y w.x)^2, summed over the classes."""
    total = 0.0
    for number, w in enumerate(weight):
        margin = 1 - np.where(label == number, 1.0, -1.0) * (x @ w)
        total += w @ w / 2 + c * np.square(np.maximum(margin, 0)).sum()
    return total


@pytest.mark.parametrize("l2", [False, True])
def test_it_minimises_squared_hinge_loss_without_offset(l2):
    train, test = clustered(1, 90, 4, noise=1.2), clustered(2, 50, 4)
    machine = svm._machine(svm.Options(c=0.3))
    scores = svm.decide(machine, train, test, 4, l2=l2)
    x = (train.feature if l2 else train.raw).double().numpy()
    label = train.label.numpy()
    best = objective(machine.coef_, x, label, 0.3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        near = machine.coef_ + 1e-3 * rng.standard_normal(machine.coef_.shape)
        assert objective(near, x, label, 0.3) > best - 1e-6
    asked = (test.feature if l2 else test.raw).double().numpy()
    np.testing.assert_allclose(scores.numpy(), asked @ machine.coef_.T, atol=1e-10)


def test_two_classes_have_two_scores():
    train, test = random_features(1, 20, 2), random_features(2, 9, 2)
    scores = svm.decide(svm._machine(svm.Options()), train, test, 2, l2=True)
    assert scores.shape == (9, 2)
    np.testing.assert_allclose(scores.sum(1), 0, atol=1e-12)


@pytest.mark.parametrize("lost", [0, 2])
def test_a_class_whose_training_videos_fail_is_never_the_answer(lost):
    train, test = clustered(1, 90, 4, noise=0.1), clustered(2, 40, 4, noise=0.1)
    kept = features(train.feature[train.label != lost], train.label[train.label != lost])
    scores = svm.decide(svm._machine(svm.Options()), kept, test, 4, l2=True)
    others = test.label != lost
    assert scores.argmax(1)[others].tolist() == test.label[others].tolist()
    assert (scores[:, lost] == -np.inf).all()


def test_one_class_is_none_to_decide_between():
    one = features(np.eye(3), [1, 1, 1])
    with pytest.raises(DataError) as refused:
        svm.decide(svm._machine(svm.Options()), one, one, 2, l2=True)
    assert str(refused.value) == (
        "error: the protocol svm needs training videos of two classes, and those that decode are "
        "of 1"
    )


def test_perfect_features_are_perfect():
    label = np.arange(40) % 4
    one_hot = features(np.eye(4)[label], label)
    scores = svm.decide(svm._machine(svm.Options()), one_hot, one_hot, 4, l2=False)
    assert scores.argmax(1).tolist() == label.tolist()


def test_shuffled_labels_are_at_chance():
    test, train = random_features(1, 1500, 5), random_features(2, 300, 5)
    scores = svm.decide(svm._machine(svm.Options()), train, test, 5, l2=True)
    outcome = classified(scores, test.label, test.index)
    low, high = outcome.intervals["top-1"]
    assert low <= outcome.chance["top-1"] == 0.2 <= high
