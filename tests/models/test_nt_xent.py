import math

import numpy as np
import pytest
import torch

from models.ops import nt_xent
from models.ops.nt_xent import _gradient, _nt_xent
from models.ops.reference import nt_xent as reference
from tests.cuda import eager_and_replayed
from tests.models.memory import LargestTensor
from tests.models.pairs import assert_as_exact_as_plain_torch, by_ranks, pair, truth

needs_cuda = pytest.mark.needs_cuda
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
SHAPES = [(1, 1), (3, 5), (8, 16), (33, 100)]  # N, D


def run(given, **options) -> torch.Tensor:
    return nt_xent(given.first, given.second, given.temperature, **options)


def loss_and_gradients(given, **options) -> tuple[torch.Tensor, ...]:
    leaves = given.first.requires_grad_(), given.second.requires_grad_()
    loss = run(given, **options)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
class TestFloat64:
    @pytest.mark.parametrize("unit", [False, True])
    def test_equals_the_equation(self, shape, temperature, unit, device):
        given = pair(shape, temperature=temperature, dtype=torch.float64)
        actual = loss_and_gradients(given.to(device), unit=unit)
        for got, exact in zip(actual, truth(given), strict=True):
            np.testing.assert_allclose(got.cpu(), exact, rtol=1e-11, atol=1e-13)

    def test_sum_of_views_is_twice_the_mean(self, shape, temperature, device):
        given = pair(shape, temperature=temperature).to(device)
        mean = loss_and_gradients(given)
        twice = loss_and_gradients(given, reduction="sum_of_views")
        for got, wanted in zip(twice, mean, strict=True):
            assert torch.equal(got, 2 * wanted)


@pytest.mark.parametrize("device", DEVICES)
class TestPrecision:
    @pytest.mark.parametrize("unit", [False, True])
    @pytest.mark.parametrize("temperature", [0.02, 0.023, 0.1, 1.0])
    @pytest.mark.parametrize("shape", [(1, 16), (33, 100)])
    def test_float32(self, shape, temperature, unit, device):
        given = pair(shape, temperature=temperature)
        actual = loss_and_gradients(given.to(device), unit=unit)
        assert_as_exact_as_plain_torch(actual, given, torch.float32)

    def test_a_batch_of_256_videos(self, device):
        given = pair((256, 128))
        actual = loss_and_gradients(given.to(device), unit=True)
        assert_as_exact_as_plain_torch(actual, given, torch.float32)

    def test_bfloat16(self, device):
        given = pair((33, 100), dtype=torch.bfloat16)
        actual = loss_and_gradients(given.to(device), unit=True)
        assert [value.dtype for value in actual] == [torch.float32, *(torch.bfloat16,) * 2]
        assert_as_exact_as_plain_torch(actual, given, torch.bfloat16)

    def test_bfloat16_is_accumulated_in_float32(self, device):
        given = pair((33, 100), dtype=torch.bfloat16)
        there = given.to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            inside = loss_and_gradients(there)
        outside = loss_and_gradients(there)
        # The same rounded inputs, so only the arithmetic differs: float32's, not bfloat16's 4e-3.
        assert outside[0].item() == pytest.approx(truth(given)[0].item(), rel=1e-5)
        for got, wanted in zip(inside, outside, strict=True):
            assert torch.equal(got, wanted)

    def test_far_logits_stay_finite(self, device):
        given = pair((5, 7), temperature=0.02).to(device)
        given.first.mul_(100)
        assert all(value.isfinite().all() for value in loss_and_gradients(given))


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("shift", [True, False])
def test_tiles_and_ranks_find_themselves_and_their_positives(shift, world, monkeypatch):
    # 24 rows a view: tiles of 5 by 7 cut both diagonals in every way.
    monkeypatch.setattr(reference, "TILE_QUERIES", 5)
    monkeypatch.setattr(reference, "TILE_KEYS", 7)
    given = pair((24, 10), dtype=torch.float64)
    actual = by_ranks(
        given, world, forward=reference.nt_xent, backward=reference.gradient, shift=shift
    )
    for got, exact in zip(actual, truth(given), strict=True):
        np.testing.assert_allclose(got, exact, rtol=1e-11, atol=1e-13)


def test_a_batch_of_one_video_costs_nothing():
    # It has a positive and no negative.
    for unit in (False, True):
        for value in loss_and_gradients(pair((1, 16)), unit=unit):
            assert value.eq(0).all()


def test_masses_of_far_rows_do_not_reach_the_diagonal():
    # Opposite videos at t = 0.01: a row's own logit is 2 ** 288 above the mass of its negatives.
    given = pair((2, 16), temperature=0.01)
    for vectors in (given.first, given.second):
        vectors.zero_()
        vectors[0, 0], vectors[1, 0] = 1.0, -1.0
    for value in loss_and_gradients(given):
        assert value.abs().max() < 1e-30


def test_the_order_of_views_and_videos_does_not_matter():
    given = pair((8, 16), dtype=torch.float64)
    swapped = nt_xent(given.second, given.first, given.temperature)
    order = torch.randperm(8)
    shuffled = nt_xent(given.first[order], given.second[order], given.temperature)
    for other in (swapped, shuffled):
        torch.testing.assert_close(other, run(given))


class TestAutograd:
    @pytest.mark.parametrize("shape", [(1, 3), (3, 5), (8, 16)])
    @pytest.mark.parametrize("reduction", ["mean", "sum_of_views"])
    def test_gradients_equal_differences(self, shape, reduction):
        given = pair(shape, temperature=0.2, dtype=torch.float64)
        leaves = given.first.requires_grad_(), given.second.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda a, b: nt_xent(a, b, 0.2, reduction=reduction), leaves
        )

    def test_upstream_gradients_count(self):
        given = pair((3, 5), dtype=torch.float64)
        leaves = given.first.requires_grad_(), given.second.requires_grad_()
        plain = torch.autograd.grad(run(given), leaves)
        for got, wanted in zip(torch.autograd.grad(-3 * run(given), leaves), plain, strict=True):
            torch.testing.assert_close(got, -3 * wanted)

    def test_a_view_may_be_without_gradient(self):
        given = pair((3, 5), dtype=torch.float64)
        given.first.requires_grad_()
        (by_first,) = torch.autograd.grad(run(given), given.first)
        np.testing.assert_allclose(by_first, truth(given)[1], rtol=1e-11, atol=1e-13)

    @pytest.mark.parametrize("device", DEVICES)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_opcheck(self, dtype, device):
        given = pair((5, 16), dtype=dtype).to(device)
        rows = torch.cat([given.first, given.second])
        torch.library.opcheck(_nt_xent, (rows.requires_grad_(), rows.detach(), 0, 0.1, True))
        numbers = torch.rand(2, 10, device=device)
        torch.library.opcheck(_gradient, (rows.detach(), rows.detach(), *numbers, 0, 0.1, True))

    def test_rows_and_a_number_each_are_all_that_is_kept(self):
        given = pair((8, 16))
        given.first.requires_grad_()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x):
            run(given)
        assert sorted(tensor.shape for tensor in kept) == [(16,), (16,), (16, 16), (16, 16)]
        assert len({x.untyped_storage().data_ptr() for x in kept if x.ndim == 2}) == 1

    def test_a_second_derivative_is_refused(self):
        given = pair((3, 5))
        given.first.requires_grad_()
        with pytest.raises(RuntimeError, match="nt_xent: there is no second derivative; write the"):
            torch.autograd.grad(run(given), given.first, create_graph=True)

    @pytest.mark.parametrize("device", DEVICES)
    def test_compiled_in_one_graph(self, device):
        given = pair((8, 16)).to(device)
        expected = loss_and_gradients(given, unit=True)
        compiled = torch.compile(
            lambda a, b: nt_xent(a, b, 0.1, unit=True), fullgraph=True, backend="aot_eager"
        )
        loss = compiled(given.first, given.second)
        gradients = torch.autograd.grad(loss, (given.first, given.second))
        for got, wanted in zip((loss.detach(), *gradients), expected, strict=True):
            assert torch.equal(got, wanted)

    @needs_cuda
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_captured_in_a_cuda_graph(self, dtype):
        given = pair((64, 128), dtype=dtype).to("cuda")
        expected, actual = eager_and_replayed(lambda: loss_and_gradients(given, unit=True))
        for got, wanted in zip(actual, expected, strict=True):
            assert torch.equal(got, wanted)


class TestMemory:
    def test_no_tensor_is_larger_than_a_tile(self, monkeypatch):
        monkeypatch.setattr(reference, "TILE_QUERIES", 32)
        monkeypatch.setattr(reference, "TILE_KEYS", 64)
        given = pair((100, 4))
        with LargestTensor() as seen:
            by_ranks(given, 1, forward=reference.nt_xent, backward=reference.gradient)
        assert seen.numbers == 32 * 64

    @needs_cuda
    def test_is_a_fraction_of_the_logits(self):
        given = pair((2048, 128), dtype=torch.bfloat16).to("cuda")
        loss_and_gradients(given, unit=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss_and_gradients(given, unit=True)
        # Five arrays of 4096 x 4096 logits are alive in the eager form; a tenth may be parts.
        assert torch.cuda.max_memory_allocated() - before < 5 * 4096 * 4096 * 4 * 0.15


def vectors(*shape: int, dtype=torch.float32, device="cpu") -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, device=device)


VIEW = vectors(3, 7)
TWICE = "do not fit; expected [N, D] of one dtype twice"


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (
            (VIEW, VIEW.T),
            {},
            f"first [3, 7], torch.float32, and second [7, 3], torch.float32, {TWICE}",
        ),
        (
            (VIEW[0], VIEW[0]),
            {},
            f"first [7], torch.float32, and second [7], torch.float32, {TWICE}",
        ),
        (
            (VIEW, VIEW.double()),
            {},
            f"first [3, 7], torch.float32, and second [3, 7], torch.float64, {TWICE}",
        ),
        ((VIEW[:0], VIEW[:0]), {}, "first [0, 7] is empty"),
        (
            (VIEW.long(), VIEW.long()),
            {},
            "first [3, 7] is torch.int64; expected float32, bfloat16 or float64",
        ),
        (
            (VIEW, VIEW.to("meta")),
            {},
            "second [3, 7] is on meta, first [3, 7] on cpu; move one to the other",
        ),
        (
            (VIEW, VIEW),
            {"temperature": 0.0},
            "temperature 0.0 must be above 0; SimCLR and CVRL have 0.1",
        ),
        (
            (VIEW, VIEW),
            {"temperature": math.inf},
            "temperature inf must be above 0; SimCLR and CVRL have 0.1",
        ),
        (
            (VIEW, VIEW),
            {"reduction": "sum"},
            "reduction 'sum' is not one of mean, sum_of_views",
        ),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    options = {"temperature": 0.1} | options
    with pytest.raises(ValueError) as error:
        nt_xent(*arguments, **options)
    assert str(error.value) == f"nt_xent: {message}"


class TestPromiseOfUnitLength:
    @pytest.mark.parametrize("name", ["first", "second"])
    def test_is_checked_in_debug_mode(self, name, debug):
        given = pair((3, 5))
        run(given, unit=True)
        getattr(given, name)[0].mul_(1.01)
        run(given, unit=False)
        with pytest.raises(ValueError) as error:
            run(given, unit=True)
        assert str(error.value) == (
            f"nt_xent: {name} [3, 5] has rows that are not of unit length; normalise it, "
            "or say unit=False"
        )

    def test_a_broken_promise_overflows_where_the_default_does_not(self):
        given = pair((3, 5))
        given.first.mul_(100)
        assert run(given).isfinite() and not run(given, unit=True).isfinite()
