"""TV-L1 against the published scheme, OpenCV and the truth."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.flow import tvl1, tvl1_triton
from pipeline.flow.config import Tvl1Config
from tests import flow_oracles as oracles
from tests.cuda import never_waiting

TURN = np.array([[0, -0.03, 0.5], [0.03, 0, 0.5]])
GROW = np.array([[0.03, 0, 0], [0, 0.03, 0]])


def flow(clip: np.ndarray, **fields) -> np.ndarray:
    """[2, T-1, H, W] of one clip [T, H, W]."""
    return tvl1.tvl1(torch.from_numpy(clip)[None], Tvl1Config(**fields))[0].numpy()


@pytest.mark.parametrize("height, width", [(41, 32), (17, 60), (8, 9)])
def test_is_the_published_scheme(height, width):
    clip, _ = oracles.moving(0, height, width, oracles.shift(1.3, -0.7), frames=3)
    actual = flow(clip, iterations=7)
    for t in range(2):
        expected = oracles.tvl1(clip[t], clip[t + 1], iterations=7)
        assert abs(actual[:, t] - expected).max() < 1e-3
    assert abs(actual).max() > 0.5


@pytest.mark.parametrize("motion", [oracles.shift(-2.8, 2.8), TURN, GROW])
def test_agrees_with_opencv(motion):
    clip, _ = oracles.moving(0, 64, 75, motion)
    # A new object for each size: it forgets scales that a small picture did not have.
    other = cv2.optflow.DualTVL1OpticalFlow_create()
    other.setMedianFiltering(1)  # of one pixel: none
    other.setInnerIterations(1)
    other.setOuterIterations(10)
    other.setEpsilon(0)
    expected = other.calc(clip[0], clip[1], None).transpose(2, 0, 1)[:, None]
    assert oracles.endpoint_error(flow(clip, iterations=10), expected, margin=8) < 0.1


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 99),
    size=st.tuples(st.integers(48, 70), st.integers(48, 70)),
    motion=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
)
def test_known_motion_is_found(seed, size, motion):
    clip, truth = oracles.moving(seed, *size, oracles.shift(*motion))
    assert oracles.endpoint_error(flow(clip, iterations=10), truth, margin=8) < 0.2


@pytest.mark.parametrize("motion", [TURN, GROW])
def test_turning_and_growing_are_found(motion):
    clip, truth = oracles.moving(1, 64, 61, motion)
    assert oracles.endpoint_error(flow(clip, iterations=10), truth, margin=8) < 0.2


@pytest.mark.parametrize("grey", [0, 93, 255])
def test_nothing_to_see_is_no_motion(grey):
    assert not flow(np.full((3, 40, 33), grey, dtype=np.uint8), iterations=3).any()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (15, 16), (17, 33)])
def test_tiny_and_odd_pictures(size):
    clip = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    found = tvl1.tvl1(clip, Tvl1Config(iterations=3))
    assert found.shape == (2, 2, 2, *size) and found.isfinite().all()


def test_every_pair_stands_alone(monkeypatch):
    clip = torch.randint(0, 256, (3, 4, 24, 20), dtype=torch.uint8)
    config = Tvl1Config(iterations=3)
    together = tvl1.tvl1(clip, config)
    monkeypatch.setattr(tvl1, "CPU_PIXELS", 2 * 24 * 20)  # now two pairs at once, not all nine
    assert (tvl1.tvl1(clip, config) - together).abs().max() < 1e-4
    alone = tvl1.tvl1(clip[2:, 1:3], config)
    assert (alone[0, :, 0] - together[2, :, 1]).abs().max() < 1e-4


def test_threads_change_nothing():
    clip = torch.randint(0, 256, (2, 4, 24, 20), dtype=torch.uint8)
    config = Tvl1Config(iterations=3)
    alone = tvl1.tvl1(clip, config)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert (tvl1.tvl1(clip, config) - alone).abs().max() < 1e-4
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_scales_stop_at_sixteen_pixels():
    config = Tvl1Config()
    assert tvl1.sizes(112, 112, config) == [(112,) * 2, (90,) * 2, (72,) * 2, (58,) * 2, (46,) * 2]
    assert tvl1.sizes(20, 400, config) == [(20, 400), (16, 320)]
    assert tvl1.sizes(3, 3, config) == [(3, 3)]


def test_what_runs_where():
    assert tvl1.implementation(torch.empty(2)) == "torch"
    with FakeTensorMode():
        assert tvl1.implementation(torch.empty(2, device="cuda")) == "triton"


def test_is_one_graph():
    """What depends on a number in the clip, and so waits for the device, would break the graph."""
    clip = torch.randint(0, 256, (1, 2, 20, 24), dtype=torch.uint8)
    config = Tvl1Config(scales=2, warps=1, iterations=1)
    compiled = torch.compile(tvl1.plain_tvl1, backend="eager", fullgraph=True)
    assert torch.equal(compiled(clip, config), tvl1.plain_tvl1(clip, config))


# The kernels themselves are tested in kernels/, also without a GPU.


@settings(max_examples=300, deadline=None)
@given(
    pairs=st.integers(1, 4000),
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    iterations=st.integers(1, tvl1_triton.ITERATIONS),
    processors=st.integers(1, 200),
)
def test_cuts_cover_the_picture(pairs, size, iterations, processors):
    h, w = size
    cut = tvl1_triton.cut_for(pairs, h, w, iterations=iterations, processors=processors)
    known = cut.width - 2 * iterations
    assert (cut.columns - 1) * known + cut.width >= w
    assert cut.columns == 1 or (cut.columns - 2) * known + cut.width < w  # none is in vain
    assert (cut.parts - 1) * cut.part_rows < h <= cut.parts * cut.part_rows
    assert cut.parts == 1 or cut.part_rows >= tvl1_triton.LEAST_ROWS


def test_few_pictures_are_cut_and_many_are_not():
    few = tvl1_triton.cut_for(15, 112, 112, iterations=5, processors=132)
    many = tvl1_triton.cut_for(480, 112, 112, iterations=5, processors=132)
    assert few == tvl1_triton.Cut(width=64, columns=2, parts=3, part_rows=38)
    assert many == tvl1_triton.Cut(width=64, columns=2, parts=2, part_rows=56)


@pytest.mark.needs_cuda
def test_gpu_equals_cpu_and_waits_for_nothing():
    clip, _ = oracles.moving(0, 112, 112, TURN, frames=8)
    clip = torch.from_numpy(clip)[None].repeat(3, 1, 1, 1)
    config = Tvl1Config()
    on_gpu = clip.cuda()
    tvl1.tvl1(on_gpu, config)  # compiles
    with never_waiting():
        actual = tvl1.tvl1(on_gpu, config)
    assert (actual.cpu() - tvl1.tvl1(clip, config)).abs().max() < 1e-2
    assert (actual - tvl1.plain_tvl1(on_gpu, config)).abs().max() < 1e-2


@pytest.mark.needs_cuda
def test_a_cuda_graph_holds_it():
    clip = torch.randint(0, 256, (2, 4, 60, 72), dtype=torch.uint8, device="cuda")
    other, config = clip.flip(0), Tvl1Config()
    expected = tvl1.tvl1(other, config)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = tvl1.tvl1(clip, config)
    clip.copy_(other)
    graph.replay()
    assert torch.equal(found, expected)
