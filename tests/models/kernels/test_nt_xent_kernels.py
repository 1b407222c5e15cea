"""The Triton kernels of nt_xent by themselves: in Triton's interpreter, or on a GPU."""

from functools import partial

import pytest
import torch

from models.ops import nt_xent_triton as kernels
from tests.models.pairs import assert_as_exact_as_plain_torch, by_ranks, pair, truth

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.interpreted, id="interpreted"),
    pytest.param("cuda", marks=pytest.mark.needs_cuda),
]
pytestmark = pytest.mark.parametrize("device", DEVICES)


def run(given, device, *, world=1, shift=True, cut=None):
    return by_ranks(
        given.to(device),
        world,
        forward=partial(kernels.nt_xent, cut=cut),
        backward=partial(kernels.gradient, cut=cut),
        shift=shift,
    )


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(1, 16), (33, 100)])
def test_is_as_exact_as_plain_torch(shape, temperature, device):
    given = pair(shape, temperature=temperature)
    assert_as_exact_as_plain_torch(run(given, device), given, torch.float32)


@pytest.mark.parametrize("temperature", [0.023, 0.1])
def test_unit_vectors_need_no_shift(temperature, device):
    given = pair((33, 100), temperature=temperature)
    assert_as_exact_as_plain_torch(run(given, device, shift=False), given, torch.float32)


@pytest.mark.parametrize("shape", [(12, 20), (48, 128)])
def test_ranks_find_themselves_and_their_positives(shape, device):
    given = pair(shape)
    assert_as_exact_as_plain_torch(run(given, device, world=4), given, torch.float32)


@pytest.mark.parametrize(
    "part_keys, keys, shift", [(16, 16, True), (16, 16, False), (48, 16, True), (32, 32, False)]
)
def test_parts_are_joined(part_keys, keys, shift, device):
    # 66 candidates: 2 to 5 parts, the last of them short.
    given = pair((33, 20))
    parts = -(-66 // part_keys)
    cut = kernels.Tiles(queries=16, keys=keys, parts=parts, part_keys=part_keys, warps=4, stages=1)
    actual = run(given, device, shift=shift, cut=cut)
    assert_as_exact_as_plain_torch(actual, given, torch.float32)


def test_more_parts_than_are_read_at_once(device):
    # Rank 0 with 8 of 1040 videos. 130 parts: the join reads 128 at once, the nearest come last.
    candidates = pair((1040, 16)).first.repeat(2, 1).to(device)
    candidates[16:-32].neg_()
    rows = candidates[:16]
    cut = kernels.Tiles(queries=16, keys=16, parts=130, part_keys=16, warps=4, stages=1)
    expected = kernels.nt_xent(rows, candidates, 0, 0.1, True)
    actual = kernels.nt_xent(rows, candidates, 0, 0.1, True, cut=cut)
    for got, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_bfloat16(device):
    given = pair((33, 100), dtype=torch.bfloat16)
    assert_as_exact_as_plain_torch(run(given, device), given, torch.bfloat16)


def test_bfloat16_adds_up_in_float32(device):
    # Products of bfloat16 numbers are exact in float32, so the loss may err by float32's sums.
    given = pair((33, 100), dtype=torch.bfloat16)
    loss, *_ = run(given, device)
    assert loss.item() == pytest.approx(truth(given)[0].item(), rel=1e-5)


def test_a_batch_of_one_video_costs_nothing(device):
    for value in run(pair((1, 16)), device):
        assert value.eq(0).all()


def test_masses_of_far_rows_do_not_reach_the_diagonal(device):
    # Opposite videos at t = 0.01: a row's own logit is 2 ** 288 above the mass of its negatives.
    given = pair((2, 16), temperature=0.01)
    for vectors in (given.first, given.second):
        vectors.zero_()
        vectors[0, 0], vectors[1, 0] = 1.0, -1.0
    for value in run(given, device):
        assert value.abs().max() < 1e-30
