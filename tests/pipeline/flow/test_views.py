"""Flow views: an operator's vectors in both encodings, and as the code of ViCC has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.augment import AugmentConfig, Draw, training_draw
from pipeline.flow.config import FlowConfig, Tvl1Config
from pipeline.flow.encoding import colored, image_of, official_image
from pipeline.flow.views import FlowViews, Luma
from tests import flow_oracles as oracles

WHOLE = (0.0, 0.0, 1.0, 1.0)
AUGMENT = AugmentConfig(size=48)
PLAIN = Draw(WHOLE)


def maker(augment: AugmentConfig = AUGMENT, **config) -> FlowViews:
    return FlowViews(FlowConfig(**config), augment, device="cpu", threads=1)


def luma(seed: int, motion: tuple[float, float], *draws: Draw) -> Luma:
    clips = [oracles.moving(seed + n, 48, 48, oracles.shift(*motion))[0] for n in range(len(draws))]
    return Luma(torch.from_numpy(np.stack(clips)), list(draws))


def drawn(seed: int, **changed) -> Draw:
    config = replace(AugmentConfig(contrast_about="clip"), **changed)
    return training_draw(64, 48, config, np.random.default_rng(seed))


def test_raw_flow_is_what_the_operator_gives():
    first, second = luma(0, (1, 0), PLAIN, PLAIN), luma(5, (0, -2), PLAIN, PLAIN)
    make = maker()
    found = make([first, second])
    assert [flow.shape for flow in found] == [(2, 2, 1, 48, 48)] * 2
    for flow, own in zip(found, (first, second), strict=True):
        assert torch.equal(flow, make([own])[0])
    assert make([]) == ()


def test_an_image_is_normalised_as_pictures_are():
    own = luma(0, (1, -1), PLAIN)
    (flow,), (image,) = maker()([own]), maker(encoding="image")([own])
    levels = image_of(flow).double().numpy() / 255
    for channel, (mean, std) in enumerate(zip(AUGMENT.mean, AUGMENT.std, strict=True)):
        expected = (levels[:, channel] - mean) / std
        np.testing.assert_allclose(image[:, channel].numpy(), expected, atol=1e-5)
    assert image.shape == (1, 3, 1, 48, 48) and image.dtype == torch.float32


@given(seed=st.integers(0, 999), about=st.sampled_from(["grey", "clip"]))
@settings(deadline=None, max_examples=30)
def test_colours_are_those_of_the_draw(seed, about):
    """The affine map and the mean's part of it, in float64, rounded once."""
    draw = drawn(seed, contrast_about=about, jitter=1.0)
    image = torch.randint(0, 256, (2, 3, 2, 5, 6), dtype=torch.uint8)
    found = colored(image, [draw, PLAIN])
    assert torch.equal(found[1], image[1])
    levels = image[0].double().numpy().reshape(3, -1)
    offset = draw.color[:, 3] + draw.mean_matrix @ levels.mean(1)
    exact = np.clip(draw.color[:, :3] @ levels + offset[:, None], 0, 255)
    assert np.abs(found[0].numpy().reshape(3, -1) - exact).max() <= 0.501


def test_official_flow_is_a_picture_that_was_mirrored():
    """A file of u, v, 128 read as B, G, R; u of a flipped clip has the sense of the one before."""
    flow = torch.randn(2, 2, 3, 4, 5) * 10
    found = official_image(flow, [PLAIN, replace(PLAIN, flip=True)])
    u, v = image_of(flow * torch.tensor([[1.0], [-1.0]])[..., None, None, None])[:, :2].unbind(1)
    assert (found[:, 0] == 128).all()
    assert torch.equal(found[0, 2], u[0]) and torch.equal(found[0, 1], image_of(flow)[0, 1])
    assert torch.equal(found[1, 2], u[1]) and torch.equal(found[1, 1], image_of(flow)[1, 1])
    assert v.shape == found[:, 1].shape


def test_official_flow_is_coloured_and_only_that():
    grey = drawn(0, jitter=0.0, grayscale=1.0, flip=0.0, blur=1.0, solarize=1.0)
    own = luma(0, (3, 0), grey)
    (view,) = maker(encoding="image", official=True)([own])
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (AUGMENT.mean, AUGMENT.std))
    levels = view[0] * std + mean
    image = image_of(maker()([own])[0])[0].double() / 255
    expected = 0.299 * image[2] + 0.587 * image[1] + 0.114 * image[0]
    for channel in levels:
        assert (channel - expected).abs().max() <= 0.51 / 255


@pytest.mark.parametrize("encoding, still", [("raw", 0.0), ("image", 128 / 255)])
@pytest.mark.parametrize("operator", ["dis", "tvl1"])
def test_constant_pictures_do_not_move(operator, encoding, still):
    plain = AugmentConfig(size=48, mean=[0.0] * 3, std=[1.0] * 3)
    config = {"operator": operator, "encoding": encoding, "tvl1": Tvl1Config(warps=1, iterations=2)}
    for grey in (0, 77, 255):
        frames = torch.full((1, 3, 48, 48), grey, dtype=torch.uint8)
        (flow,) = maker(plain, **config)([Luma(frames, [PLAIN])])
        assert torch.allclose(flow, torch.full_like(flow, still))


def test_what_makes_the_flow_is_told():
    assert str(maker(operator="dis", encoding="image", official=True)) == (
        "dis (asked for), encoding image, official"
    )
    assert maker(operator="tvl1").made_with == {"operator": "tvl1", "encoding": "raw"}


# What is refused


@pytest.mark.parametrize(
    "augment, config, message",
    [
        (
            AugmentConfig(size=48, consistent=False),
            {},
            "augment.consistent: false crops every frame of a clip for itself, so what moves "
            "between them is the crop; set it to true where flow is used",
        ),
        (
            AugmentConfig(size=31),
            {},
            "flow.operator: dis needs pictures of 32×32 pixels, got 31×31; use tvl1, or enlarge "
            "augment.size",
        ),
        (
            AUGMENT,
            {"operator": "nvof"},
            "flow.operator: nvof needs a GPU, none is here; use tvl1 or auto",
        ),
    ],
)
def test_flow_that_cannot_be_made(augment, config, message):
    with pytest.raises(ValueError) as refused:
        maker(augment, **config)
    assert str(refused.value) == message


def test_small_pictures_have_tvl1():
    small = Luma(torch.randint(0, 256, (1, 2, 8, 8), dtype=torch.uint8), [PLAIN])
    (flow,) = maker(AugmentConfig(size=8), operator="tvl1")([small])
    assert flow.shape == (1, 2, 1, 8, 8) and flow.isfinite().all()
