import pytest
import torch

from models.generator import FrameScorer


def test_published_geometry_has_an_lstm_of_169():
    assert FrameScorer(frames=32, size=(112, 112)).lstm.input_size == 169  # 13 x 13


@pytest.mark.parametrize("side, width", [(128, 225), (224, 729)])
def test_other_published_widths(side, width):
    assert FrameScorer(frames=4, size=(side, side)).lstm.input_size == width


@pytest.mark.parametrize(
    "frames, height, width",
    [
        (8, 40, 40),
        (8, 32, 32),
        (4, 16, 16),
        (3, 9, 17),
        (4, 19, 19),
        (5, 4, 4),
        (2, 2, 2),
        (4, 16, 2),
    ],
)
def test_any_size(frames, height, width):
    scores = FrameScorer(frames=frames, size=(height, width))(
        torch.randn(3, 3, frames, height, width)
    )
    assert scores.shape == (3, frames)
    assert scores.gt(0).all()
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(3))


def test_every_parameter_learns():
    scorer = FrameScorer(frames=4, size=(16, 16))
    scorer(torch.randn(3, 3, 4, 16, 16))[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in scorer.parameters())


def test_another_size_is_refused():
    scorer = FrameScorer(frames=4, size=(16, 16))
    with pytest.raises(ValueError) as error:
        scorer(torch.randn(2, 3, 8, 16, 16))
    assert str(error.value) == (
        "generator: a clip of [8, 16, 16] (frames, height, width) meets a generator built for "
        "[4, 16, 16]; build the method with these"
    )
