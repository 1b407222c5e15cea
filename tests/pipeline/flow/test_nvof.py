"""The optical-flow engine: what is asked of it, and what it lacks. Its results need a GPU:
test_operator.py has them."""

import ctypes

import pytest
import torch

from pipeline.flow import nvof
from pipeline.flow.config import NvofConfig
from pipeline.flow.nvof import Nvof


def test_what_a_machine_may_lack(monkeypatch):
    def no_library(name):
        raise OSError(name)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: None)
    assert nvof.lacking("cpu") == "a GPU, none is here"
    assert nvof.lacking("cuda:0") == ""
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    assert nvof.lacking("cuda:0") == (
        "libnvidia-opticalflow.so.1 of the driver (in a container: its capability video)"
    )
    monkeypatch.setattr(nvof, "find_spec", lambda name: None)
    assert nvof.lacking("cuda:0") == "DALI, which is not installed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_what_dali_says_is_one_line():
    compute = Nvof(NvofConfig(), "cuda:0")
    with pytest.raises(ValueError) as refused:
        compute(torch.zeros(2, 3, 40, 48, dtype=torch.uint8))
    message = str(refused.value)
    assert message.startswith("flow.operator: nvof fails for clips of [2, 3, 40, 48] · ")
    assert "CUDA is not available" in message and message.endswith(" · use tvl1")
    assert "\n" not in message


def test_vectors_of_cells_are_spread_over_their_pixels():
    # A flow that grows by one a pixel, given at the centres of cells of 4 x 4 pixels.
    y, x = torch.meshgrid(torch.arange(4) * 4 + 1.5, torch.arange(5) * 4 + 1.5, indexing="ij")
    vectors = torch.stack([x, y], dim=-1).expand(2, 3, 4, 5, 2)
    flow = Nvof(NvofConfig(grid=4), "cuda:0")._full_size(vectors, 14, 18)
    assert flow.shape == (2, 2, 3, 14, 18) and flow.is_contiguous()
    assert torch.equal(flow[1, 0, 2, 5, 2:17], torch.arange(2.0, 17.0))
    assert torch.equal(flow[0, 1, 0, 2:14, 7], torch.arange(2.0, 14.0))


def test_a_vector_for_every_pixel_stays():
    vectors = torch.randn(2, 3, 6, 7, 2)
    flow = Nvof(NvofConfig(grid=1), "cuda:0")._full_size(vectors, 6, 7)
    assert torch.equal(flow, vectors.permute(0, 4, 1, 2, 3))
