from itertools import permutations

import numpy as np
import pytest
import torch

from models.frame_order import FrameOrder, normalised, shuffles
from tests import oracles


@pytest.mark.parametrize("reverse_is_order, count", [(True, 4), (False, 5)])
def test_shuffles_of_three(reverse_is_order, count):
    table = shuffles(3, reverse_is_order=reverse_is_order).tolist()
    truth = [
        list(order)
        for order in permutations(range(3))
        if oracles.order_label(list(order), reverse_is_order=reverse_is_order)
    ]
    assert sorted(table) == truth and len(truth) == count


@pytest.mark.parametrize("frames", [3, 4, 5])
def test_draws_are_uniform_over_them(frames):
    order = FrameOrder(frames, 2)
    drawn, shuffled = order.draw(20_000)
    assert shuffled.double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (drawn[~shuffled] == torch.arange(frames)).all()
    _, count = drawn[shuffled].unique(dim=0, return_counts=True)
    assert len(count) == len(order.table)
    mean = shuffled.sum() / len(order.table)
    # Counts are binomial; 5 standard deviations
    assert ((count - mean).abs() < 5 * mean.sqrt()).all()


def test_query_and_key_draw_their_own():
    order = FrameOrder(3, 2)
    assert not torch.equal(order.draw(64)[1], order.draw(64)[1])


def test_accuracy_is_of_the_true_label():
    order = FrameOrder(3, 2, label="binary")
    with torch.no_grad():
        order.classifier.weight.zero_()
        order.classifier.bias.copy_(torch.tensor([1.0, 0.0]))  # always "in order"
    tuples = torch.randn(64, 3, 2)
    torch.manual_seed(1)
    in_order = ~order.draw(64)[1]
    torch.manual_seed(1)
    _, accuracy = order(tuples)
    assert accuracy.item() == pytest.approx(in_order.double().mean().item())


def test_frame_norm_of_the_code_is_no_unit_length():
    embedded = torch.randn(2, 3, 128, dtype=torch.float64)
    of_code = normalised(embedded, "frame").numpy()
    np.testing.assert_allclose(of_code, oracles.order_features(embedded.numpy(), "frame"))
    # sqrt(128 / 3) = 6.5 as each of 128 channels has length 1 over three frames
    assert np.linalg.norm(of_code, axis=2).mean() == pytest.approx(6.5, abs=0.2)


def test_table_is_no_state():
    order = FrameOrder(3, 2)
    assert sorted(order.state_dict()) == ["classifier.bias", "classifier.weight"]


@pytest.mark.parametrize(
    "norm, hidden, least, most",
    [("feature", 0, 0.5, 0.7), ("frame", 0, 0.8, 1.0), ("feature", 64, 0.9, 1.0)],
)
def test_who_can_compare_frames(norm, hidden, least, most):
    """A value that rises or falls along the tuple, from anywhere, at any rate: no frame says when
    it was. Embeddings are free; chance is a half, and perfect answers exist.
    """
    head = torch.nn.Sequential(torch.nn.Linear(1, 64), torch.nn.ReLU(), torch.nn.Linear(64, 16))
    order = FrameOrder(3, 16, label="binary", hidden=hidden)
    optimizer = torch.optim.Adam([*head.parameters(), *order.parameters()], lr=1e-2)
    seen = []
    for _ in range(300):
        value = torch.randn(256, 1) + torch.randn(256, 1) * torch.arange(-1.0, 2.0)
        loss, accuracy = order(normalised(head(value[:, :, None]), norm))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(accuracy.item())
    assert least < np.mean(seen[-50:]) < most
