"""The Triton kernels of swapped_prediction by themselves: in Triton's interpreter, or on a GPU."""

import pytest
import torch

from models.ops import swapped_prediction_triton as kernels
from tests.models.prototypes import (
    SHAPES,
    assert_as_exact_as_plain_torch,
    collapsed,
    problem,
    truth,
)

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.interpreted, id="interpreted"),
    pytest.param("cuda", marks=pytest.mark.needs_cuda),
]
pytestmark = pytest.mark.parametrize("device", DEVICES)


def run(given, device, *, part=None, of_loss=1.0):
    """Loss and gradients, of one view; in parts of so many of what is walked over."""
    given = given.to(device)
    arguments = given.z, given.prototypes, given.assignment[0]
    loss, *kept = kernels.swapped_prediction(
        *arguments, given.temperature, cut=part and parts_of(part, given.prototypes)
    )
    by_z, by_prototypes = (
        kernels.gradient(
            torch.tensor(of_loss, device=device),
            *(*arguments, *kept, given.temperature),
            by_z=by_z,
            cut=part and parts_of(part, given.prototypes if by_z else given.z),
        )
        for by_z in (True, False)
    )
    return loss, by_z, by_prototypes


def parts_of(part, walked):
    parts = -(-len(walked) // part)
    return kernels.Tiles(queries=16, keys=16, parts=parts, part_keys=part, warps=4, stages=1)


@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_is_as_exact_as_plain_torch(shape, temperature, device):
    given = problem(shape, temperature=temperature)
    assert_as_exact_as_plain_torch(run(given, device), given, torch.float32)


def test_3000_prototypes(device):
    given = problem(SHAPES[2], sums_to_one=True)
    assert_as_exact_as_plain_torch(run(given, device), given, torch.float32)


def test_bfloat16(device):
    given = problem((33, 257, 100), dtype=torch.bfloat16)
    loss, *gradients = run(given, device)
    assert all(gradient.dtype == torch.bfloat16 for gradient in gradients)
    assert_as_exact_as_plain_torch((loss, *gradients), given, torch.bfloat16)
    # Products of bfloat16 numbers are exact in float32, so the loss may err by float32's sums.
    assert loss.item() == pytest.approx(truth(given)[0].item(), rel=1e-5)


def test_the_wider_dtype_of_two_is_multiplied(device):
    given = problem((17, 40, 20), dtype=torch.bfloat16)
    exact = truth(given)
    wider = type(given)(given.z.float(), given.prototypes, given.assignment, given.temperature)
    loss, by_z, _ = run(wider, device)
    assert loss.item() == pytest.approx(exact[0].item(), rel=1e-5)
    torch.testing.assert_close(by_z.cpu().double(), exact[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part", [16, 48, 144])
def test_parts_are_joined(part, device):
    # 9, 3 and 1 parts of the prototypes; 2, 1 and 1 of the rows. The last are not full.
    given = problem((19, 130, 20), temperature=0.02)
    assert_as_exact_as_plain_torch(run(given, device, part=part), given, torch.float32)


def test_the_nearest_prototypes_are_in_the_last_part(device):
    given = problem((19, 130, 20), temperature=0.02)
    given.prototypes[:128].neg_()
    assert_as_exact_as_plain_torch(run(given, device, part=16), given, torch.float32)


def test_the_gradient_is_of_what_the_loss_becomes(device):
    given = problem((19, 130, 20))
    loss, *gradients = run(given, device, of_loss=-3.0)
    actual = loss, *(gradient / -3 for gradient in gradients)
    assert_as_exact_as_plain_torch(actual, given, torch.float32)


@pytest.mark.parametrize("length", [1, 10, -10])
def test_prototypes_all_alike(length, device):
    # Up to +-500 for all of them, and 0 for those that fill the block up.
    given = collapsed(length=length)
    assert_as_exact_as_plain_torch(run(given, device), given, torch.float32, length=abs(length))
