"""The Triton kernels of info_nce by themselves: in Triton's interpreter, or on a GPU."""

import pytest
import torch

from models.ops import info_nce_triton as kernels
from tests.models.contrast import assert_as_exact_as_plain_torch, problem, truth

DEVICES = [
    pytest.param("cpu", marks=pytest.mark.interpreted, id="interpreted"),
    pytest.param("cuda", marks=pytest.mark.needs_cuda),
]
pytestmark = pytest.mark.parametrize("device", DEVICES)

MIXED = torch.float32, torch.bfloat16  # queries, queue


def run(given, device, *, shift=True, cut=None):
    given = given.to(device)
    loss, by_query, pull = kernels.info_nce(*given.arguments(), shift, cut=cut)
    return loss, by_query, -pull[:, :, None] * given.query[:, None].to(pull.dtype)


@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
@pytest.mark.parametrize("case", ["weight", "age and ids"])
@pytest.mark.parametrize("shape", [(1, 1, 16), (33, 257, 100)])
def test_is_as_exact_as_plain_torch(shape, case, temperature, device):
    given = problem(shape, case=case, temperature=temperature)
    assert_as_exact_as_plain_torch(run(given, device), given, torch.float32)


@pytest.mark.parametrize("shift, temperature", [(True, 0.02), (False, 0.07)])
def test_a_queue_of_4096_keys(shift, temperature, device):
    given = problem((64, 4096, 128), case="age and ids", temperature=temperature)
    assert_as_exact_as_plain_torch(run(given, device, shift=shift), given, torch.float32)


@pytest.mark.parametrize("temperature", [0.023, 1.0])
def test_unit_vectors_need_no_shift(temperature, device):
    given = problem((33, 257, 100), case="age", temperature=temperature)
    assert_as_exact_as_plain_torch(run(given, device, shift=False), given, torch.float32)


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.bfloat16), MIXED])
@pytest.mark.parametrize("case", ["plain", "age and ids"])
def test_bfloat16(dtypes, case, device):
    given = problem((33, 257, 100), case=case, dtype=dtypes[0], queue_dtype=dtypes[1])
    assert_as_exact_as_plain_torch(run(given, device), given, torch.bfloat16)


def test_bfloat16_adds_up_in_float32(device):
    # Products of bfloat16 numbers are exact in float32, so the loss may err by float32's sums.
    given = problem((33, 257, 100), dtype=torch.bfloat16)
    loss, *_ = run(given, device)
    assert loss.item() == pytest.approx(truth(given)[0].item(), rel=1e-5)


@pytest.mark.parametrize(
    "slots, shift", [(1, True), (17, False), (80, True), (80, False), (1120, True)]
)
def test_parts_are_joined(slots, shift, device):
    # 16 keys a part: 1 to 70 parts, and the join reads 64 at once.
    given = problem((3, slots, 100), case="age and ids")
    cut = kernels.Tiles(queries=16, keys=16, parts=-(-slots // 16), part_keys=16, warps=4, stages=1)
    actual = run(given, device, shift=shift, cut=cut)
    assert_as_exact_as_plain_torch(actual, given, torch.float32)


def test_the_nearest_keys_are_in_the_last_parts(device):
    given = problem((3, 1120, 100))
    given.queue[:1024].neg_()  # the first 64 parts, which the join reads together
    cut = kernels.Tiles(queries=16, keys=16, parts=70, part_keys=16, warps=4, stages=1)
    assert_as_exact_as_plain_torch(run(given, device, cut=cut), given, torch.float32)


def test_a_part_of_several_blocks(device):
    given = problem((33, 257, 100), case="age and ids")
    cut = kernels.Tiles(queries=16, keys=16, parts=5, part_keys=64, warps=4, stages=2)
    assert_as_exact_as_plain_torch(run(given, device, cut=cut), given, torch.float32)


def test_several_positives_share_the_pass(device):
    given = problem((5, 70, 20), case="ids", positives=3)
    assert_as_exact_as_plain_torch(run(given, device), given, torch.float32)


@pytest.mark.parametrize("shift", [True, False])
def test_all_keys_excluded_costs_nothing(shift, device):
    given = problem((2, 40, 16), case="ids")
    given.query_id.fill_(4)
    given.queue_id.fill_(4)
    loss, by_query, by_key = run(given, device, shift=shift)
    assert loss.item() == 0 and by_query.eq(0).all() and by_key.eq(0).all()


def test_unknown_videos_match_nothing(device):
    given = problem((2, 40, 16), case="ids")
    without = run(problem((2, 40, 16)), device)
    given.query_id.fill_(-1)
    given.queue_id.fill_(-1)
    assert run(given, device)[0].item() == without[0].item()


@pytest.mark.parametrize("positive, loss", [(1.0, 0.0), (-1.0, 100.0)])
def test_far_positives_keep_their_digits(positive, loss, device):
    # One negative at right angles: l+ = +-100 at t = 0.01, so the loss is log(1 + exp(-+100)).
    given = problem((1, 1, 16), temperature=0.01)
    for vectors in (given.query, given.key, given.queue):
        vectors.zero_()
    given.query[0, 0], given.key[0, 0, 0], given.queue[0, 1] = 1.0, positive, 1.0
    actual, by_query, _ = run(given, device)
    assert actual.item() == pytest.approx(loss, abs=1e-12)
    assert by_query.isfinite().all()
