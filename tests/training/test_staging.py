"""Static buffers for batches, and reading tensors back later."""

from __future__ import annotations

import pytest
import torch

from pipeline import Batch
from tests.cuda import never_waiting
from training.readback import Readback
from training.staging import StaticBatch, staged

needs_cuda = pytest.mark.needs_cuda
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def batch_of(number: int, *, device: torch.device = CPU, size: int = 2) -> Batch:
    """Every number in it is `number`; the second view is stored frames first."""
    clip = torch.full((size, 3, 2, 4, 4), float(number), device=device)
    frames_first = torch.full((size, 2, 3, 4, 4), float(number), device=device).transpose(1, 2)
    index = torch.full((size,), number, device=device)
    return Batch((clip, frames_first), index, index.clone(), None, torch.stack([index] * 2, 1))


def tensors(batch: Batch) -> list[torch.Tensor]:
    return [*batch.views, batch.label, batch.index, batch.start_frames]


def test_on_a_cpu_batches_pass_untouched():
    batches = [batch_of(number) for number in range(3)]
    assert all(a is b for a, b in zip(staged(iter(batches), CPU), batches, strict=True))


def test_a_stage_that_stops_early_ends_the_loader():
    ended = []

    def batches():
        try:
            yield from map(batch_of, range(3))
        finally:
            ended.append(True)

    for _ in staged(batches(), CPU):
        break
    assert ended


def test_buffers_stay_where_they_are():
    buffers = StaticBatch(batch_of(0))
    first = buffers.fill(batch_of(1))
    places = [tensor.data_ptr() for tensor in tensors(first)]
    batch = batch_of(2)
    second = buffers.fill(batch)
    assert second is first and second.flow is None
    assert [tensor.data_ptr() for tensor in tensors(second)] == places
    for ours, theirs in zip(tensors(second), tensors(batch), strict=True):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
        assert ours.data_ptr() != theirs.data_ptr()


def test_another_form_is_refused():
    buffers = StaticBatch(batch_of(0, size=2))
    with pytest.raises(ValueError) as error:
        buffers.fill(batch_of(1, size=1))
    assert str(error.value) == (
        "batch: tensor 0 is [1, 3, 2, 4, 4] torch.float32, that of the first batch "
        "[2, 3, 2, 4, 4] torch.float32; all batches need one form"
    )


@needs_cuda
def test_batches_arrive_in_two_sets_of_buffers_and_nobody_waits():
    """Each is read by slow work of its step while the next ones are on their way."""
    batches = [batch_of(number, device=GPU) for number in range(8)]
    ballast = torch.randn(2048, 2048, device=GPU)
    means, places = [], []
    with never_waiting():
        for batch in staged(iter(batches), GPU):
            slow = ballast
            for _ in range(20):
                slow = (slow @ ballast).clamp(-1, 1)
            means.append(sum(t.float().mean() for t in tensors(batch)) / 5 + 0 * slow[0, 0])
            places.append(batch.views[0].data_ptr())
    assert torch.stack(means).tolist() == list(range(8))
    assert len(set(places)) == 2 and places[0::2] == places[:1] * 4


# Reading back


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
def test_values_come_back(device):
    assert Readback(torch.tensor([1.5, -2.0], device=device)).tolist() == [1.5, -2.0]


@needs_cuda
def test_a_tensor_may_be_overwritten_at_once():
    tensor = torch.zeros(1000, device=GPU)
    Readback(tensor)  # pinned memory is there
    with never_waiting():
        readings = []
        for number in range(4):
            tensor.fill_(number)
            readings.append(Readback(tensor))
    assert [set(reading.tolist()) for reading in readings] == [{0.0}, {1.0}, {2.0}, {3.0}]
