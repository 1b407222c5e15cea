"""The Triton kernel of enqueue by itself: in Triton's interpreter, or on a GPU."""

import pytest
import torch

from models.ops import enqueue_triton
from models.ops.reference import enqueue as reference

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.interpreted, id="interpreted"),
    pytest.param("cuda", marks=pytest.mark.needs_cuda),
]
pytestmark = pytest.mark.parametrize("device", DEVICES)


def ring(slots: int, dim: int, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """A ring that has been written to before, and for long."""
    written = torch.tensor(2**33 + 5)
    return [
        tensor.to(device)
        for tensor in (
            torch.randn(slots, dim).to(dtype),
            torch.arange(slots),
            torch.arange(slots) + 10,
            torch.arange(slots) + 20,
            written,
            torch.tensor(7),
        )
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slots, dim", [(1, 1), (7, 100), (300, 128)])
@pytest.mark.parametrize("batch", [0, 5, 310, 650])
def test_equals_plain_torch(batch, slots, dim, dtype, device):
    actual = ring(slots, dim, dtype, device)
    expected = [tensor.clone() for tensor in actual]
    ticket = torch.zeros((), dtype=torch.int32, device=device)
    for step in range(2):
        # Multiples of 2 ** -6 below 2: bfloat16 has them exactly, however it rounds.
        keys = (torch.randint(-127, 128, (batch, dim)) / 64).to(device)
        ids = torch.arange(batch, device=device) + 1000 * step
        enqueue_triton.enqueue(keys, ids, *actual, ticket)
        reference.enqueue(keys, ids, *expected)
        for got, wanted in zip(actual, expected, strict=True):
            assert torch.equal(got, wanted)
        assert ticket.item() == 0


def test_keys_with_a_stride(device):
    actual = ring(9, 4, torch.float32, device)
    expected = [tensor.clone() for tensor in actual]
    ticket = torch.zeros((), dtype=torch.int32, device=device)
    wide = torch.randn(5, 10, device=device)
    for keys in (wide[:, 3:7], wide[:4].T[:5, :4]):
        ids = torch.arange(2 * len(keys), device=device)[::2]
        enqueue_triton.enqueue(keys, ids, *actual, ticket)
        reference.enqueue(keys, ids, *expected)
    for got, wanted in zip(actual, expected, strict=True):
        assert torch.equal(got, wanted)
