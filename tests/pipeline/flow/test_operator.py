"""What every flow operator promises, and which one is chosen."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.flow import nvof, operator
from pipeline.flow.config import FlowConfig, Tvl1Config
from pipeline.flow.operator import build_operator, choose_operator
from tests import flow_oracles as oracles

OPERATORS = [
    ("tvl1", "cpu"),
    ("dis", "cpu"),
    pytest.param(("tvl1", "cuda"), marks=pytest.mark.needs_cuda),
    pytest.param(("nvof", "cuda"), marks=pytest.mark.needs_cuda),
]


@pytest.fixture(params=OPERATORS, ids="-".join)
def compute(request):
    """Flow by one operator, with little work for each, of a clip that lies on the CPU."""
    name, device = request.param
    if name == "nvof" and (lacking := nvof.lacking(device)):
        pytest.skip(f"nvof needs {lacking}")
    config = FlowConfig(tvl1=Tvl1Config(iterations=10))
    run = build_operator(name, config, device=device)
    return lambda clip: run(clip.to(device)).cpu()


any_motion = st.tuples(*[st.floats(-0.03, 0.03)] * 4, *[st.floats(-3, 3)] * 2)
quick = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quick
@given(
    seed=st.integers(0, 99),
    size=st.tuples(st.integers(40, 72), st.integers(40, 72)),
    numbers=any_motion,
)
def test_flow_of_a_mirrored_clip_is_the_mirrored_flow(compute, seed, size, numbers):
    motion = np.array([[*numbers[:2], numbers[4]], [*numbers[2:4], numbers[5]]])
    clip, truth = oracles.moving(seed, *size, motion)
    flow, mirrored = (compute(torch.from_numpy(c.copy())[None]) for c in (clip, clip[..., ::-1]))
    back = mirrored.flip(-1) * torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    # No scheme is quite symmetric: TV-L1 takes its differences forward, DIS its patches from left.
    assert oracles.endpoint_error(flow, back, margin=8) < 0.15
    assert oracles.endpoint_error(flow, truth[None], margin=8) < 0.5


def test_takes_and_gives(compute):
    flow = compute(torch.randint(0, 256, (2, 4, 45, 50), dtype=torch.uint8))
    assert flow.shape == (2, 2, 3, 45, 50) and flow.dtype == torch.float32
    assert flow.is_contiguous() and flow.isfinite().all()


def test_flow_points_to_where_pixels_go(compute):
    clip, _ = oracles.moving(4, 64, 64, oracles.shift(2, -1))
    u, v = compute(torch.from_numpy(clip)[None])[0, :, 0, 16:48, 16:48].mean(dim=(1, 2)).tolist()
    assert u == pytest.approx(2, abs=0.2) and v == pytest.approx(-1, abs=0.2)


@pytest.mark.parametrize("grey", [0, 255])
def test_nothing_to_see_is_no_motion(compute, grey):
    assert not compute(torch.full((1, 3, 48, 40), grey, dtype=torch.uint8)).any()


def test_no_clips_have_no_flow(compute):
    assert compute(torch.empty(0, 3, 40, 40, dtype=torch.uint8)).shape == (0, 2, 2, 40, 40)


@pytest.mark.parametrize(
    "clip, message",
    [
        (
            torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
            "flow: clip [1, 1, 8, 8] has fewer than two frames, so no flow; "
            "clip.frames must be 2 or more",
        ),
        (
            torch.full((1, 2, 8, 8), torch.nan),
            "flow: expected luma [B, T, H, W] uint8, got [1, 2, 8, 8] float32",
        ),
        (
            torch.zeros(1, 3, 2, 8, 8, dtype=torch.uint8),
            "flow: expected luma [B, T, H, W] uint8, got [1, 3, 2, 8, 8] uint8",
        ),
        (
            torch.zeros(1, 2, 0, 8, dtype=torch.uint8),
            "flow: clip [1, 2, 0, 8] has no pixels",
        ),
    ],
)
def test_what_is_no_clip(compute, clip, message):
    with pytest.raises(ValueError) as refused:
        compute(clip)
    assert str(refused.value) == message


# The choice


def test_automatic_choice():
    assert choose_operator("auto", "cpu") == (
        "dis",
        "no GPU here, and TV-L1 would take a CPU hundreds of times longer",
    )
    assert choose_operator("auto", "cuda:1") == (
        "tvl1",
        "the clips are on a GPU; its flow engine, nvof, is used only when asked for",
    )
    assert choose_operator("tvl1", "cpu") == ("tvl1", "asked for")
    assert choose_operator("dis", "cpu") == ("dis", "asked for")


def test_a_gpu_without_triton_is_told(monkeypatch):
    monkeypatch.setattr(operator.tvl1, "has_kernels", lambda: False)
    for asked in ("auto", "tvl1"):
        name, why = choose_operator(asked, "cuda")
        assert name == "tvl1"
        assert why.endswith("; slowly, in plain torch, as Triton is not installed")


@pytest.mark.parametrize(
    "asked, device, message",
    [
        ("nvof", "cpu", "flow.operator: nvof needs a GPU, none is here; use tvl1 or auto"),
        (
            "dis",
            "cuda:0",
            "flow.operator: dis computes on the CPU and clips are on cuda:0; "
            "use tvl1, nvof or auto",
        ),
        (
            "farneback",
            "cpu",
            "flow.operator: expected auto, nvof, tvl1 or dis, got 'farneback'",
        ),
    ],
)
def test_operators_that_cannot_work_here(asked, device, message):
    with pytest.raises(ValueError) as refused:
        choose_operator(asked, device)
    assert str(refused.value) == message
