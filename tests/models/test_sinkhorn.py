import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from torch import distributed as dist
from torch import multiprocessing as mp

from models.ops import sinkhorn, sinkhorn_triton
from models.ops.reference import sinkhorn as reference
from models.ops.sinkhorn import _sinkhorn
from tests.cuda import NoHostRead, eager_and_replayed
from tests.models.memory import LargestTensor
from tests.models.prototypes import (
    SHAPES,
    assert_assignment_as_exact_as_plain_torch,
    assignment_truth,
    scores,
)

needs_cuda = pytest.mark.needs_cuda
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


def run(given, **options) -> torch.Tensor:
    return sinkhorn(given.scores, **given.options() | options)


@pytest.mark.parametrize("device", DEVICES)
class TestEquation:
    @pytest.mark.parametrize("shape, queue", [((1, 1, 1), 0), ((3, 5, 7), 4), ((17, 40, 100), 33)])
    @pytest.mark.parametrize("epsilon", [0.005, 0.05, 1.0])
    @pytest.mark.parametrize("iterations", [1, 3, 10])
    def test_float64(self, shape, queue, epsilon, iterations, device):
        given = scores(
            shape, epsilon=epsilon, iterations=iterations, queue=queue, dtype=torch.float64
        )
        actual = run(given.to(device)).cpu()
        np.testing.assert_allclose(actual, assignment_truth(given), rtol=1e-10, atol=1e-300)

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("epsilon", [0.005, 0.05, 0.5])
    def test_float32(self, shape, epsilon, device):
        given = scores(shape, epsilon=epsilon, queue=5)
        assert_assignment_as_exact_as_plain_torch(run(given.to(device)), given)

    def test_bfloat16_scores_are_computed_in_float32(self, device):
        given = scores((33, 257, 100), queue=20, dtype=torch.bfloat16)
        with torch.autocast(device, dtype=torch.bfloat16):
            inside = run(given.to(device))
        assert inside.dtype == torch.float32
        assert torch.equal(inside, run(given.to(device)))
        assert_assignment_as_exact_as_plain_torch(inside, given)

    def test_more_than_a_tile(self, monkeypatch, device):
        monkeypatch.setattr(reference, "TILE_ROWS", 16)
        given = scores((33, 257, 100), queue=20)
        assert_assignment_as_exact_as_plain_torch(run(given.to(device)), given)

    def test_scores_with_strides(self, device):
        given = scores((33, 257, 100), queue=20).to(device)
        expected = run(given)
        turned = sinkhorn(given.scores.T.contiguous().T, **given.options())
        assert torch.equal(turned, expected)


def test_underflow_that_eager_turns_into_nan():
    # One prototype is 0.7 below the largest score at best: exp(-0.7 / 0.005) is no float32.
    given = scores((33, 257, 100), epsilon=0.005)
    assert reference.eager(given.scores, **given.options()).isnan().any()
    assert run(given).isfinite().all()


@settings(max_examples=50, deadline=None)
@drawn(
    rows=st.integers(1, 8),
    prototypes=st.integers(1, 8),
    queue=st.integers(0, 8),
    iterations=st.integers(1, 5),
    epsilon=st.floats(1e-4, 10),
    seed=st.integers(0, 2**32),
)
def test_rows_are_distributions_and_prototypes_may_be_shifted(
    rows, prototypes, queue, iterations, epsilon, seed
):
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(rows + queue, prototypes, generator=generator, dtype=torch.float64)
    options = {"epsilon": epsilon, "iterations": iterations}

    def assigned(all_scores):
        rest = all_scores[rows:] if queue else None
        return sinkhorn(all_scores[:rows], **options, queue_scores=rest)

    result = assigned(2 * similarity - 1)
    assert (result >= 0).all()
    torch.testing.assert_close(result.sum(dim=1), torch.ones(rows, dtype=torch.float64))
    # The first division takes away whatever is added to all scores of one prototype.
    added = torch.randn(prototypes, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        assigned(2 * similarity - 1 + added), result, rtol=1e-6, atol=1e-12 / epsilon
    )


def test_prototypes_get_equal_shares_in_the_end():
    given = scores((64, 16, 8), iterations=300, epsilon=0.5)
    shares = run(given).sum(dim=0)
    torch.testing.assert_close(shares, torch.full((16,), 64 / 16), rtol=1e-4, atol=0)


def test_a_queue_takes_part_and_is_not_returned():
    given = scores((8, 12, 16), queue=20)
    whole = sinkhorn(
        torch.cat([given.scores, given.queue_scores]),
        epsilon=given.epsilon,
        iterations=given.iterations,
    )
    torch.testing.assert_close(run(given), whole[:8])
    assert not torch.allclose(run(given), run(given, queue_scores=None), atol=1e-3)


def test_a_sweep_holds_a_tile_and_never_the_plan():
    given = scores((1000, 12, 16))
    with NoHostRead(), LargestTensor() as seen:
        state = reference.masses(given.scores, given.epsilon)
        reference.rebalance(given.scores, *state, given.epsilon)
    assert seen.numbers == reference.TILE_ROWS * 12


def test_gets_no_gradient():
    given = scores((8, 12, 16), queue=20)
    given.scores.requires_grad_()
    given.queue_scores.requires_grad_()
    assert not run(given).requires_grad


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("queue", [0, 20])
def test_opcheck(queue, device):
    for dtype in (torch.float32, torch.bfloat16):
        given = scores((8, 12, 16), queue=queue, dtype=dtype).to(device)
        torch.library.opcheck(_sinkhorn, (given.scores, 0.05, 3, given.queue_scores))


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_in_one_graph(device):
    given = scores((8, 12, 16), queue=20).to(device)
    compiled = torch.compile(
        lambda rows, queue: sinkhorn(rows, epsilon=0.05, iterations=3, queue_scores=queue),
        fullgraph=True,
        backend="aot_eager",
    )
    assert torch.equal(compiled(given.scores, given.queue_scores), run(given))


@settings(max_examples=300, deadline=None)
@drawn(rows=st.integers(1, 10_000), prototypes=st.integers(1, 8192), processors=st.integers(1, 200))
def test_cuts_cover_the_rows(rows, prototypes, processors):
    cut = sinkhorn_triton.tiles(rows, prototypes, processors=processors)
    assert (cut.parts - 1) * cut.part_rows < rows <= cut.parts * cut.part_rows  # none is empty
    assert cut.part_rows % cut.rows == 0 and cut.parts <= processors
    assert prototypes <= cut.block and cut.rows * cut.block <= 8192


def test_cuts_fill_an_h100_at_vicc_s_size():
    assert sinkhorn_triton.tiles(2112, 300, processors=132).parts == 132


def test_long_rows_are_left_to_plain_torch():
    assert sinkhorn_triton.fits(torch.empty(1, 8192))
    assert not sinkhorn_triton.fits(torch.empty(1, 8193))


@needs_cuda
@pytest.mark.parametrize("queue", [0, 1920])
def test_captured_in_a_cuda_graph(queue):
    given = scores((64, 300, 128), queue=queue).to("cuda")
    expected, actual = eager_and_replayed(lambda: run(given))
    assert torch.equal(actual, expected)


# Two ranks

WORLD = 2
CASES = [(0.05, 3, 0), (0.005, 3, 7), (0.05, 10, 1), (0.05, 1, 40)]  # epsilon, iterations, queue


def of_case(epsilon: float, iterations: int, queue: int):
    return scores((9, 30, 16), epsilon=epsilon, iterations=iterations, queue=queue)


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD
    )
    sent = []
    all_reduce = dist.all_reduce
    dist.all_reduce = lambda tensor, **options: (
        sent.append(tensor.numel()) or all_reduce(tensor, **options)
    )
    results = []
    for case in CASES:
        given = of_case(*case)
        own = slice(0, 4) if rank == 0 else slice(4, 9)  # ranks may differ in their rows
        results.append(sinkhorn(given.scores[own], **given.options()))
    torch.save((results, sent), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[tuple[list[torch.Tensor], list[int]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_two_ranks_equal_one_process(ranks, number):
    """Also with a queue of fewer rows than ranks, and of an odd number: each row counts once."""
    given = of_case(*CASES[number])
    whole = torch.cat([results[number] for results, _ in ranks])
    assert_assignment_as_exact_as_plain_torch(whole, given)
    torch.testing.assert_close(whole, run(given), rtol=1e-4, atol=1e-6)


def test_a_queue_counted_by_every_rank_would_show():
    given = of_case(*CASES[3])
    twice = run(given, queue_scores=given.queue_scores.repeat(2, 1))
    assert not torch.allclose(twice, run(given), rtol=1e-2, atol=1e-3)


def test_ranks_exchange_a_number_a_prototype_for_the_maximum_and_each_iteration(ranks):
    for _, sent in ranks:
        assert sent == [30] * sum(1 + iterations for _, iterations, _ in CASES)


# Bad input

SCORES, QUEUE = torch.zeros(3, 5), torch.zeros(4, 5)
FIT = "do not fit; expected [B, P] and [R, P]"


@pytest.mark.parametrize(
    "rows, options, message",
    [
        (SCORES[0], {}, f"scores [5] {FIT}"),
        (SCORES, {"queue_scores": QUEUE[0]}, f"scores [3, 5] and queue_scores [5] {FIT}"),
        (SCORES, {"queue_scores": QUEUE.T}, f"scores [3, 5] and queue_scores [5, 4] {FIT}"),
        (SCORES[:0], {}, "scores [0, 5] is empty"),
        (SCORES, {"queue_scores": QUEUE[:0]}, "queue_scores [0, 5] is empty"),
        (
            SCORES.long(),
            {},
            "scores [3, 5] is torch.int64; expected float32, bfloat16 or float64",
        ),
        (
            SCORES,
            {"queue_scores": QUEUE.bfloat16()},
            "scores [3, 5] and queue_scores [4, 5] are torch.float32 and torch.bfloat16; "
            "take both from products of one dtype",
        ),
        (
            SCORES,
            {"queue_scores": QUEUE.to("meta")},
            "queue_scores [4, 5] is on meta, scores [3, 5] on cpu; move one to the other",
        ),
        (SCORES, {"epsilon": 0.0}, "epsilon 0.0 must be above 0; ViCC has 0.05"),
        (SCORES, {"epsilon": math.nan}, "epsilon nan must be above 0; ViCC has 0.05"),
        (SCORES, {"epsilon": math.inf}, "epsilon inf must be above 0; ViCC has 0.05"),
        (SCORES, {"iterations": 0}, "iterations 0 is below 1; ViCC has 3"),
    ],
)
def test_bad_input_is_named(rows, options, message):
    with pytest.raises(ValueError) as error:
        sinkhorn(rows, **{"epsilon": 0.05, "iterations": 3} | options)
    assert str(error.value) == f"sinkhorn: {message}"
