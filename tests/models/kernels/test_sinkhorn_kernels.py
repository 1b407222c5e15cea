"""The Triton kernels of sinkhorn by themselves: in Triton's interpreter, or on a GPU."""

import pytest
import torch

from models.ops import sinkhorn_triton as kernels
from models.ops.reference import sinkhorn as reference
from tests.models.prototypes import SHAPES, assert_assignment_as_exact_as_plain_torch, scores

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.interpreted, id="interpreted"),
    pytest.param("cuda", marks=pytest.mark.needs_cuda),
]
pytestmark = pytest.mark.parametrize("device", DEVICES)


def run(given, device, *, cut=None):
    """As `models.ops.sinkhorn` does in one process."""
    given = given.to(device)
    rows = given.scores
    if given.queue_scores is not None:
        rows = torch.cat([rows, given.queue_scores])
    level, mass = kernels.masses(rows, given.epsilon, cut=cut)
    for _ in range(given.iterations - 1):
        level, mass = kernels.rebalance(rows, level, mass, given.epsilon, cut=cut)
    return kernels.assign(given.scores, level, mass, given.epsilon)


@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("epsilon", [0.005, 0.05, 0.5])
def test_is_as_exact_as_plain_torch(shape, epsilon, device):
    given = scores(shape, epsilon=epsilon, queue=5)
    assert_assignment_as_exact_as_plain_torch(run(given, device), given)


def test_3000_prototypes(device):
    given = scores(SHAPES[2])
    assert_assignment_as_exact_as_plain_torch(run(given, device), given)


def test_bfloat16(device):
    given = scores((33, 257, 100), queue=20, dtype=torch.bfloat16)
    assert_assignment_as_exact_as_plain_torch(run(given, device), given)


@pytest.mark.parametrize("iterations", [1, 2, 10])
def test_iterations(iterations, device):
    given = scores((9, 30, 16), queue=7, iterations=iterations)
    assert_assignment_as_exact_as_plain_torch(run(given, device), given)


@pytest.mark.parametrize("held, part_rows", [(1, 1), (4, 4), (4, 12), (16, 80)])
def test_parts_are_joined(held, part_rows, device):
    # 1 to 70 parts, of which the join reads 64 at once; the last is not full.
    given = scores((50, 33, 16), queue=20, epsilon=0.005)
    parts = -(-70 // part_rows)
    cut = kernels.Tiles(rows=held, parts=parts, part_rows=part_rows, block=64, warps=4)
    assert_assignment_as_exact_as_plain_torch(run(given, device, cut=cut), given)


def test_the_largest_scores_are_in_the_last_part(device):
    given = scores((66, 33, 16), epsilon=0.005)
    given.scores[:64] -= 1  # exp(-1 / 0.005) is no float32
    cut = kernels.Tiles(rows=1, parts=66, part_rows=1, block=64, warps=4)
    assert_assignment_as_exact_as_plain_torch(run(given, device, cut=cut), given)


def test_each_step_equals_plain_torch(device):
    given = scores((33, 257, 100)).to(device)
    level, mass = reference.masses(given.scores, 0.05)
    torch.testing.assert_close(kernels.masses(given.scores, 0.05), (level, mass))
    for step in (kernels, reference):
        again = step.rebalance(given.scores, level, mass, 0.05)
        torch.testing.assert_close(again[0], level + mass.log())
        shares = torch.softmax(given.scores / 0.05 - again[0], dim=1).sum(dim=0)
        torch.testing.assert_close(again[1], shares, rtol=1e-4, atol=1e-6)
