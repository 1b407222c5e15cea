"""The Triton kernels of TV-L1 by themselves: in Triton's interpreter, or on a GPU."""

import numpy as np
import pytest
import torch

from pipeline.flow import tvl1_triton as kernels
from pipeline.flow.config import Tvl1Config
from pipeline.flow.tvl1 import gradients, plain_tvl1, pyramid
from tests import flow_oracles as oracles

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.interpreted, id="interpreted"),
    pytest.param("cuda", marks=pytest.mark.needs_cuda),
]
pytestmark = pytest.mark.parametrize("device", DEVICES)


def flow(clip: torch.Tensor, config: Tvl1Config) -> torch.Tensor:
    """[P, 2, H, W]."""
    return kernels.flow_of_pairs(pyramid(clip, config), config)


def noise(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_is_the_published_scheme(device):
    # Two scales: 20 x 21 and 16 x 17.
    clip, _ = oracles.moving(3, 20, 21, oracles.shift(1.4, -0.6))
    settings = {"warps": 2, "iterations": 5}
    expected = oracles.tvl1(*clip, **settings)
    actual = flow(torch.from_numpy(clip)[None].to(device), Tvl1Config(**settings))[0]
    assert abs(actual.cpu().numpy() - expected).max() < 1e-3
    assert abs(expected).max() > 1


@pytest.mark.parametrize(
    "shape, iterations",
    [
        ((2, 3, 5, 4), 2),  # four pairs
        ((1, 2, 3, 7), 7),  # two launches of iterations
        ((1, 2, 2, 130), 3),  # three strips
        ((1, 2, 1, 9), 3),
        ((1, 2, 9, 1), 3),
        ((1, 2, 1, 1), 1),
    ],
)
def test_equals_plain_torch(shape, iterations, device):
    clip, config = noise(*shape).to(device), Tvl1Config(warps=1, iterations=iterations)
    expected = plain_tvl1(clip, config).transpose(1, 2).flatten(0, 1)
    assert (flow(clip, config) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("cut", [kernels.Cut(32, 2, 3, 4), kernels.Cut(64, 1, 2, 11)])
def test_cuts_do_not_show(cut, device):
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(2, 6, 12, 60, generator=generator).to(device)
    terms = 5 * torch.randn(2, 3, 12, 60, generator=generator).to(device)
    whole, cut_up = torch.empty_like(state), torch.empty_like(state)
    for result, given in ((whole, kernels.Cut(64, 1, 1, 12)), (cut_up, cut)):
        kernels.iterate(state, terms, result, 2, Tvl1Config(), given)
    assert whole.isfinite().all()
    assert (whole - cut_up).abs().max() < 1e-6


def test_warps_to_anywhere(device):
    clip = noise(2, 3, 7, 9)
    generator = torch.Generator().manual_seed(0)
    motion = torch.randn(4, 2, 7, 9, generator=generator) * 4
    motion[:, :, 0, 0], motion[:, :, 3, 3] = 1e4, -1e4
    state = torch.cat([motion, torch.full((4, 4, 7, 9), torch.nan)], dim=1).to(device)
    frames = clip.float().to(device)
    terms = kernels.linearised(frames, *gradients(frames), state).cpu().numpy()
    for pair, (b, t) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        u, v = motion[pair].double().numpy()
        residual, gx, gy = oracles.linearised(*clip[b, t : t + 2].double().numpy(), u, v)
        for actual, expected in zip(terms[pair], (gx, gy, residual), strict=True):
            # 1e4 pixels times a gradient of 128 is 1e6, of which float32 has 7 digits.
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=0.01)


def test_a_still_picture_has_no_flow(device):
    clip = noise(1, 1, 6, 8).repeat(1, 2, 1, 1).to(device)
    assert not flow(clip, Tvl1Config(warps=1, iterations=2)).any()
