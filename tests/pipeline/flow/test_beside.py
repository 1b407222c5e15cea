"""Flow one item ahead: in order, beside the caller, and gone when the caller is."""

from __future__ import annotations

import threading

import pytest
import torch

from pipeline.flow.beside import with_flow
from pipeline.flow.views import Luma

LONG_SECONDS = 20.0  # only to end a test that hangs


def lumas_of(item: int) -> list[Luma]:
    return [Luma(torch.tensor([item]), [])]


def flow_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("flow")]


def doubled(lumas: list[Luma]) -> tuple[torch.Tensor, ...]:
    return tuple(2 * luma.frames for luma in lumas)


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_item_has_its_own_flow(count):
    found = list(with_flow(iter(range(count)), lumas_of, doubled, "cpu"))
    assert [(item, flow[0].item()) for item, flow in found] == [(n, 2 * n) for n in range(count)]
    assert not flow_threads()


def test_without_flow_items_come_as_they_are_asked_for():
    items = iter(range(3))
    found = with_flow(items, lumas_of, None, "cpu")
    assert next(found) == (0, None)
    assert list(items) == [1, 2] and not flow_threads()


def test_the_next_flow_is_made_while_the_caller_is_at_an_item():
    at_the_first, begun = threading.Event(), threading.Event()

    def make(lumas: list[Luma]) -> tuple[torch.Tensor, ...]:
        if lumas[0].frames == 1:
            begun.set()
            assert at_the_first.wait(LONG_SECONDS), "the caller waits for the next item's flow"
        return ()

    found = with_flow(iter(range(3)), lumas_of, make, "cpu")
    assert next(found)[0] == 0
    assert begun.wait(LONG_SECONDS)
    at_the_first.set()
    assert [item for item, _ in found] == [1, 2]


def test_an_error_comes_out_at_its_own_item():
    def make(lumas: list[Luma]) -> tuple[torch.Tensor, ...]:
        if lumas[0].frames == 2:
            raise ValueError("flow.operator: too bad; mend it")
        return ()

    found = with_flow(iter(range(5)), lumas_of, make, "cpu")
    assert [next(found)[0] for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match=r"^flow\.operator: too bad; mend it$"):
        next(found)
    assert not flow_threads()


def test_a_caller_that_stops_leaves_no_thread():
    """Nor one that stops where the flow under way fails."""

    def make(lumas: list[Luma]) -> tuple[torch.Tensor, ...]:
        if lumas[0].frames == 1:
            raise ValueError("nobody asks for this one")
        return ()

    found = with_flow(iter(range(5)), lumas_of, make, "cpu")
    next(found)
    assert flow_threads()
    found.close()
    assert not flow_threads()


@pytest.mark.needs_cuda
def test_on_a_gpu_the_caller_waits_for_the_side_stream():
    """The memory of lumas and of flow is used by two streams and freed by one."""

    def luma(item: int) -> list[Luma]:
        return [Luma(torch.full((4096, 4096), item, device="cuda"), [])]

    def make(lumas: list[Luma]) -> tuple[torch.Tensor, ...]:
        torch.cuda._sleep(20_000_000)  # the stream would be found unfinished
        return doubled(lumas)

    sums = [flow[0].sum() for _, flow in with_flow(iter(range(6)), luma, make, "cuda:0")]
    assert [total.item() for total in sums] == [2 * n * 4096**2 for n in range(6)]
