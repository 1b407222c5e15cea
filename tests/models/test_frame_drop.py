import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.frame_drop import drop_frames, frames_to_drop, lowest
from tests import oracles


def problem(batch=2, frames=6):
    clip = torch.randn(batch, 3, frames, 2, 3, dtype=torch.float64)
    scores = torch.randn(batch, frames, dtype=torch.float64).softmax(dim=1)
    return clip, scores.requires_grad_(), torch.randn_like(clip)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**31), st.data())
def test_drops_the_smallest(frames, seed, data):
    count = data.draw(st.integers(1, frames))
    scores = torch.rand(3, frames, generator=torch.Generator().manual_seed(seed))
    dropped = lowest(scores, count)
    assert dropped.sum(dim=1).eq(count).all()
    for row, mask in zip(scores, dropped, strict=True):
        assert mask.all() or row[mask].max() <= row[~mask].min()


def test_a_quarter_of_32_is_8_and_never_none():
    counts = [(32, 0.25), (16, 0.25), (8, 0.25), (4, 0.25), (2, 0.1)]
    assert [frames_to_drop(*pair) for pair in counts] == [8, 4, 2, 1, 1]


@pytest.mark.parametrize("estimator", ["ste", "official"])
def test_mean_content_equals_the_oracle(estimator):
    clip, scores, _ = problem()
    expected = oracles.hard_drop(clip.numpy(), scores.detach().numpy(), 2)
    actual = drop_frames(clip, scores, 2, estimator=estimator)
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("content", ["zero", "noise"])
def test_other_contents_leave_kept_frames_alone(content):
    clip, scores, _ = problem(batch=40)
    dropped = lowest(scores, 2)[:, None, :, None, None].expand_as(clip)
    actual = drop_frames(clip, scores, 2, content=content)
    assert torch.equal(actual[~dropped], clip[~dropped])
    if content == "zero":
        assert actual[dropped].eq(0).all()
    else:
        assert actual[dropped].std().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("estimator", ["ste", "official"])
def test_gradient_equals_its_formula(estimator):
    clip, scores, upstream = problem()
    clip.requires_grad_()
    (drop_frames(clip, scores, 2, estimator=estimator) * upstream).sum().backward()
    assert clip.grad is None
    x, s, g = clip.detach().numpy(), scores.detach().numpy(), upstream.numpy()
    expected = oracles.shift_gradient(lambda mixed: float((mixed * g).sum()), x)
    if estimator == "ste":
        dropped = lowest(scores, 2).numpy()
        amount = oracles.drop_amount_gradient(lambda mixed: float((mixed * g).sum()), x, dropped)
        expected = amount * oracles.relaxation_slope(s, 2)
    np.testing.assert_allclose(scores.grad.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_straight_through_raises_the_score_of_a_frame_worth_keeping():
    # Upstream gradient along content - clip at frame 0: dropping it would raise the loss, so
    # descent has to raise its score.
    clip, scores, _ = problem(batch=1)
    content = clip.mean(dim=(1, 3, 4), keepdim=True)
    upstream = torch.zeros_like(clip)
    upstream[:, :, 0] = (content - clip)[:, :, 0]
    (drop_frames(clip, scores, 2) * upstream).sum().backward()
    assert scores.grad[0, 0] < 0 and scores.grad[0, 1:].eq(0).all()


def test_common_factor_of_scores_moves_nothing():
    clip, scores, upstream = problem()
    gradients = []
    for factor in (1.0, 10.0):
        scaled = (factor * scores.detach()).requires_grad_()
        (drop_frames(clip, scaled, 2) * upstream).sum().backward()
        gradients.append(scaled.grad * factor)
    torch.testing.assert_close(*gradients)
