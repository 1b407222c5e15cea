import math

import numpy as np
import pytest
import torch

from models.ops import info_nce
from models.ops.info_nce import _info_nce
from models.ops.reference import info_nce as reference
from tests.cuda import eager_and_replayed, never_waiting
from tests.models.contrast import CASES, assert_as_exact_as_plain_torch, problem, truth
from tests.models.memory import LargestTensor

needs_cuda = pytest.mark.needs_cuda
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]
SHAPES = [(1, 1, 1), (3, 5, 7), (8, 33, 16), (17, 129, 100)]  # B, K, D
IDS = torch.zeros(3, dtype=torch.int64)


def run(given, **options) -> torch.Tensor:
    options = given.options() | options
    return info_nce(given.query, given.key, given.queue, given.temperature, **options)


def loss_and_gradients(given, **options) -> tuple[torch.Tensor, ...]:
    given.query.requires_grad_()
    given.key.requires_grad_()
    loss = run(given, **options)
    return loss.detach(), *torch.autograd.grad(loss, (given.query, given.key))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
@pytest.mark.parametrize("case", CASES)
class TestFloat64:
    def test_equals_the_equation(self, shape, temperature, case, device):
        given = problem(shape, case=case, temperature=temperature, dtype=torch.float64)
        actual = loss_and_gradients(given.to(device))
        for got, exact in zip(actual, truth(given), strict=True):
            np.testing.assert_allclose(got.cpu(), exact, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("device", DEVICES)
class TestPrecision:
    @pytest.mark.parametrize("unit", [False, True])
    @pytest.mark.parametrize("temperature", [0.02, 0.023, 0.07, 1.0])
    @pytest.mark.parametrize("shape", [(1, 1, 16), (33, 257, 100)])
    def test_float32(self, shape, temperature, unit, device):
        given = problem(shape, case="age and ids", temperature=temperature)
        actual = loss_and_gradients(given.to(device), unit=unit)
        assert_as_exact_as_plain_torch(actual, given, torch.float32)

    @pytest.mark.parametrize("unit", [False, True])
    def test_a_queue_of_4096_keys(self, unit, device):
        given = problem((64, 4096, 128), case="age and ids")
        actual = loss_and_gradients(given.to(device), unit=unit)
        assert_as_exact_as_plain_torch(actual, given, torch.float32)

    @pytest.mark.parametrize("unit", [False, True])
    def test_more_than_a_tile_each_way(self, unit, monkeypatch, device):
        monkeypatch.setattr(reference, "TILE_QUERIES", 16)
        monkeypatch.setattr(reference, "TILE_KEYS", 32)
        given = problem((33, 257, 100), case="age and ids")
        given.queue[:200].neg_()  # so that the largest logits come last
        actual = loss_and_gradients(given.to(device), unit=unit)
        assert_as_exact_as_plain_torch(actual, given, torch.float32)

    @pytest.mark.parametrize("case", ["plain", "age and ids"])
    def test_bfloat16_queue(self, case, device):
        given = problem((33, 257, 100), case=case, queue_dtype=torch.bfloat16)
        actual = loss_and_gradients(given.to(device), unit=True)
        assert_as_exact_as_plain_torch(actual, given, torch.bfloat16)

    def test_bfloat16_is_accumulated_in_float32(self, device):
        given = problem((17, 129, 100), case="weight", dtype=torch.bfloat16)
        expected = truth(given)[0].item()
        there = given.to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            inside = run(there)
        outside = run(there)
        assert outside.dtype == inside.dtype == torch.float32
        # The same rounded inputs, so only the arithmetic differs: float32's, not bfloat16's 4e-3.
        assert outside.item() == pytest.approx(expected, rel=1e-5)
        assert inside.item() == outside.item()

    def test_gradients_have_the_inputs_dtype(self, device):
        given = problem((5, 9, 16), dtype=torch.bfloat16).to(device)
        loss, by_query, by_key = loss_and_gradients(given)
        assert loss.dtype == torch.float32
        assert by_query.dtype == by_key.dtype == torch.bfloat16

    def test_far_logits_stay_finite(self, device):
        given = problem((3, 5, 7), temperature=0.02).to(device)
        given.query.mul_(100)
        given.key.neg_()
        assert all(value.isfinite().all() for value in loss_and_gradients(given))


def test_decay_of_an_old_key_is_exact():
    # 0.99999 ** 65,536 from a float32 0.99999 errs by 2e-3; the logit 1 / t would err by 0.02.
    given = problem((2, 3, 8), case="age", decay=0.99999)
    given.age.copy_(torch.tensor([65_535, 65_000, 0]))
    assert run(given).item() == pytest.approx(truth(given)[0].item(), rel=3e-7)


def test_all_keys_excluded_costs_nothing():
    given = problem((2, 3, 4), case="ids")
    given.query_id.fill_(4)
    given.queue_id.fill_(4)
    for unit in (False, True):
        loss, by_query, by_key = loss_and_gradients(given, unit=unit)
        assert loss.item() == 0 and by_query.eq(0).all() and by_key.eq(0).all()


class TestPositives:
    def test_each_stands_alone_against_the_queue(self):
        given = problem((5, 33, 7), case="ids", positives=3, dtype=torch.float64)
        actual = loss_and_gradients(given)
        for got, exact in zip(actual, truth(given), strict=True):
            np.testing.assert_allclose(got, exact, rtol=1e-11, atol=1e-14)

    @pytest.mark.parametrize("positives, candidates", [(1, 1), (1, 4), (3, 2)])
    def test_candidates_of_each_query(self, positives, candidates):
        given = problem((4, 4 * candidates, 7), positives=positives, dtype=torch.float64)
        own = given.queue.view(4, candidates, 7)
        given.query.requires_grad_()
        given.key.requires_grad_()
        loss = info_nce(given.query, given.key, own, 0.07)
        gradients = torch.autograd.grad(loss, (given.query, given.key))
        exact = [truth(one) for one in rows_of(given, own)]
        assert loss.item() == pytest.approx(np.mean([row[0] for row in exact]), rel=1e-11)
        for number, got in enumerate(gradients, start=1):
            expected = torch.cat([row[number] for row in exact]) / 4
            np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-14)

    def test_two_way_is_a_logistic_loss(self):
        # VCLR's L_intra: one positive, one other frame of the same video, no queue.
        given = problem((6, 6, 7), dtype=torch.float64)
        loss = info_nce(given.query, given.key, given.queue[:, None], 0.1)
        gap = ((given.key[:, 0] - given.queue) * given.query).sum(dim=1) / 0.1
        expected = np.mean([math.log1p(math.exp(-x)) for x in gap.tolist()])
        assert loss.item() == pytest.approx(expected, rel=1e-11)


def rows_of(given, own):
    """One problem for each query, its candidates as the queue."""
    for i in range(len(own)):
        one = problem((1, own.shape[1], 7), positives=given.key.shape[1], dtype=torch.float64)
        one.query.copy_(given.query[i : i + 1].detach())
        one.key.copy_(given.key[i : i + 1].detach())
        one.queue.copy_(own[i])
        yield one


class TestAutograd:
    @pytest.mark.parametrize("shape", SHAPES[:3])
    @pytest.mark.parametrize("positives", [1, 2])
    def test_gradients_equal_differences(self, shape, positives):
        given = problem(
            shape, case="age and ids", temperature=0.2, positives=positives, dtype=torch.float64
        )
        leaves = given.query.requires_grad_(), given.key.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda q, k: info_nce(q, k, given.queue, 0.2, **given.options()), leaves
        )

    @pytest.mark.parametrize("device", DEVICES)
    def test_opcheck(self, device):
        for case, dtype in (("plain", torch.float32), ("age and ids", torch.bfloat16)):
            given = problem((5, 33, 16), case=case, queue_dtype=dtype, positives=2).to(device)
            given.query.requires_grad_()
            given.key.requires_grad_()
            torch.library.opcheck(_info_nce, (*given.arguments(), True))

    def test_queue_and_weight_get_no_gradient(self):
        given = problem((3, 5, 7), case="weight")
        leaves = [x.requires_grad_() for x in (given.query, given.queue, given.weight)]
        run(given).backward()
        assert leaves[0].grad is not None and leaves[1].grad is None and leaves[2].grad is None

    def test_a_batch_by_embedding_is_all_that_is_kept(self):
        given = problem((8, 300, 16), case="age and ids")
        given.query.requires_grad_()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda x: x):
            run(given)
        assert [tensor.shape for tensor in kept] == [(8, 16)]

    def test_a_second_derivative_is_refused(self):
        given = problem((3, 5, 7))
        given.query.requires_grad_()
        with pytest.raises(RuntimeError, match="info_nce: there is no second derivative; write"):
            torch.autograd.grad(run(given), given.query, create_graph=True)

    @pytest.mark.parametrize("device", DEVICES)
    def test_compiled_in_one_graph(self, device):
        given = problem((8, 33, 16), case="age and ids", temperature=0.07).to(device)
        expected = loss_and_gradients(given, unit=True)
        compiled = torch.compile(
            lambda q, k: info_nce(q, k, given.queue, 0.07, unit=True, **given.options()),
            fullgraph=True,
            backend="aot_eager",
        )
        loss = compiled(given.query, given.key[:, 0])
        gradients = torch.autograd.grad(loss, (given.query, given.key))
        for got, wanted in zip((loss.detach(), *gradients), expected, strict=True):
            assert torch.equal(got, wanted)

    @needs_cuda
    def test_captured_in_a_cuda_graph(self):
        given = problem((64, 4096, 128), case="age and ids", queue_dtype=torch.bfloat16).to("cuda")
        expected, actual = eager_and_replayed(lambda: loss_and_gradients(given, unit=True))
        for got, wanted in zip(actual, expected, strict=True):
            assert torch.equal(got, wanted)


class TestMemory:
    @pytest.mark.parametrize("shift", [True, False])
    def test_does_not_grow_with_the_queue(self, shift):
        largest = []
        for slots in (10_000, 20_000):
            given = problem((300, slots, 16), case="age and ids", queue_dtype=torch.bfloat16)
            with LargestTensor() as seen:
                reference.info_nce(*given.arguments(), shift)
            largest.append(seen.numbers)
        assert largest[0] == largest[1] == reference.TILE_QUERIES * reference.TILE_KEYS

    @needs_cuda
    def test_is_below_one_per_cent_of_the_logits(self):
        given = problem((256, 65_536, 128), queue_dtype=torch.bfloat16).to("cuda")
        loss_and_gradients(given, unit=True)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss_and_gradients(given, unit=True)
        # Five arrays of logits are alive in the eager form.
        assert torch.cuda.max_memory_allocated() - before < 5 * 256 * 65_536 * 4 / 100


def vectors(*shape: int, dtype=torch.float32, device="cpu") -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype, device=device)


QUERY, KEY, QUEUE = vectors(3, 7), vectors(3, 7), vectors(5, 7)
FIT = "do not fit; expected [B, D], [B, D] or [B, P, D], and [K, D] or [B, C, D]"


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((QUERY, KEY, QUEUE.T), {}, f"query [3, 7], key [3, 7] and queue [7, 5] {FIT}"),
        ((QUERY[0], KEY, QUEUE), {}, f"query [7], key [3, 7] and queue [5, 7] {FIT}"),
        ((QUERY, KEY[:2], QUEUE), {}, f"query [3, 7], key [2, 7] and queue [5, 7] {FIT}"),
        ((QUERY, KEY, QUEUE[None]), {}, f"query [3, 7], key [3, 7] and queue [1, 5, 7] {FIT}"),
        ((QUERY, KEY, QUEUE[:0]), {}, "queue [0, 7] is empty"),
        ((QUERY[:0], KEY[:0], QUEUE), {}, "query [0, 7] is empty"),
        (
            (QUERY, KEY, QUEUE.long()),
            {},
            "queue [5, 7] is torch.int64; expected float32, bfloat16 or float64",
        ),
        (
            (QUERY, KEY, QUEUE.to("meta")),
            {},
            "queue [5, 7] is on meta, query [3, 7] on cpu; move one to the other",
        ),
        (
            (QUERY, KEY, QUEUE),
            {"temperature": 0.0},
            "temperature 0.0 must be above 0; MoCo has 0.07",
        ),
        (
            (QUERY, KEY, QUEUE),
            {"temperature": math.nan},
            "temperature nan must be above 0; MoCo has 0.07",
        ),
        ((QUERY, KEY, QUEUE), {"decay": 1.5}, "decay 1.5 is outside (0, 1]; VideoMoCo has 0.99999"),
        (
            (QUERY, KEY, QUEUE),
            {"query_id": IDS},
            "query_id and queue_id belong together; give both or neither",
        ),
        (
            (QUERY, KEY, QUEUE),
            {"query_id": IDS, "queue_id": IDS},
            "queue_id [3] is torch.int64; expected [5] and int64",
        ),
        (
            (QUERY, KEY, QUEUE),
            {"query_id": IDS.float(), "queue_id": vectors(5).long()},
            "query_id [3] is torch.float32; expected [3] and int64",
        ),
        (
            (QUERY, KEY, QUEUE),
            {"age": vectors(5)},
            "age [5] is torch.float32; expected [5] and int64",
        ),
        (
            (QUERY, KEY, QUEUE),
            {"age": IDS.to("meta").repeat(2)[:5]},
            "age [5] is on meta, query [3, 7] on cpu; move one to the other",
        ),
        (
            (QUERY, KEY, QUEUE),
            {"weight": vectors(4)},
            "weight [4] is torch.float32; expected [5] and a floating dtype",
        ),
        (
            (QUERY, KEY, QUEUE),
            {"weight": vectors(5), "age": vectors(5).long()},
            "weight and age both weigh the queue; give one of them",
        ),
        (
            (QUERY, KEY, vectors(3, 2, 7)),
            {"age": IDS},
            "age [3] belongs to a queue [K, D], not to candidates [3, 2, 7]",
        ),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    options = {"temperature": 0.1} | options
    with pytest.raises(ValueError) as error:
        info_nce(*arguments, **options)
    assert str(error.value) == f"info_nce: {message}"


class TestPromiseOfUnitLength:
    @pytest.mark.parametrize("name", ["query", "key", "queue"])
    def test_is_checked_in_debug_mode(self, name, debug):
        given = problem((3, 5, 7))
        run(given, unit=True)
        getattr(given, name)[0].mul_(1.01)
        run(given, unit=False)
        with pytest.raises(ValueError) as error:
            run(given, unit=True)
        assert str(error.value) == (
            f"info_nce: {name} {list(getattr(given, name).shape)} has rows that are not of unit "
            "length; normalise it, or say unit=False"
        )

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_allows_for_rounding(self, dtype, debug):
        run(problem((33, 257, 100), dtype=dtype), unit=True)

    def test_is_free_otherwise(self):
        given = problem((3, 5, 7))
        given.query.mul_(1.01)
        assert run(given, unit=True).isfinite()

    @needs_cuda
    def test_does_not_wait_for_the_device(self, debug):
        given = problem((3, 5, 16)).to("cuda")
        run(given, unit=True)
        with never_waiting():
            run(given, unit=True)

    def test_a_broken_promise_overflows_where_the_default_does_not(self):
        given = problem((3, 5, 7), temperature=0.07)
        given.query.mul_(100)
        assert run(given).isfinite() and not run(given, unit=True).isfinite()

    def test_a_weight_above_one_is_searched_for_the_largest(self):
        given = problem((3, 5, 7), case="weight")
        given.weight.fill_(100)
        assert run(given, unit=True).item() == pytest.approx(truth(given)[0].item(), rel=1e-5)
