import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.ops import info_nce
from tests import oracles

SHAPES = [(1, 1, 1), (3, 5, 7), (8, 33, 16), (17, 129, 100)]  # B, K, D


def problem(batch: int, slots: int, dim: int, *, dtype=torch.float64, seed: int = 0):
    """Correlated unit vectors, decay-like weights, ids with matches, and -1 on both sides."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(dim, generator=generator, dtype=torch.float64)

    def rows(count: int) -> torch.Tensor:
        noise = torch.randn(count, dim, generator=generator, dtype=torch.float64)
        return F.normalize(common + noise, dim=1).to(dtype)

    weight = torch.rand(slots, generator=generator, dtype=torch.float64).to(dtype)
    query_id = torch.randint(-1, 5, (batch,), generator=generator)
    queue_id = torch.randint(-1, 5, (slots,), generator=generator)
    return (rows(batch), rows(batch), rows(slots)), weight, query_id, queue_id


def truth(vectors, temperature, weight=None, query_id=None, queue_id=None) -> float:
    arrays = [
        None if x is None else x.to(torch.float64 if x.is_floating_point() else x.dtype).numpy()
        for x in (weight, query_id, queue_id)
    ]
    return oracles.info_nce(*(v.double().numpy() for v in vectors), temperature, *arrays)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [0.02, 0.07, 1.0])
@pytest.mark.parametrize("options", ["none", "weight", "ids", "all"])
def test_equals_the_equation(shape, temperature, options):
    vectors, weight, *ids = problem(*shape)
    weight = weight if options in ("weight", "all") else None
    ids = ids if options in ("ids", "all") else (None, None)
    actual = info_nce(*vectors, temperature, weight, *ids)
    assert actual.item() == pytest.approx(truth(vectors, temperature, weight, *ids), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_gradients_equal_differences(shape):
    (query, key, queue), weight, *ids = problem(*shape)
    query, key = query.requires_grad_(), key.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, k: info_nce(q, k, queue, 0.2, weight, *ids), (query, key)
    )


def test_gradient_equals_the_closed_form():
    # dL/dq_i = (sum_j p_ij w_j Q_j + (p_i+ - 1) k_i) / (t B)
    (query, key, queue), weight, *_ = problem(3, 5, 7)
    query.requires_grad_()
    info_nce(query, key, queue, 0.5, weight).backward()
    q, k, negatives, w = (x.detach().numpy() for x in (query, key, queue, weight))
    for i in range(3):
        logits = np.array([q[i] @ k[i], *(w * (negatives @ q[i]))]) / 0.5
        p = np.exp(logits) / np.exp(logits).sum()
        expected = ((p[1:] * w) @ negatives + (p[0] - 1) * k[i]) / (0.5 * 3)
        np.testing.assert_allclose(query.grad[i].numpy(), expected, rtol=1e-10)


def test_queue_and_weight_get_no_gradient():
    (query, key, queue), weight, *_ = problem(3, 5, 7)
    leaves = [x.requires_grad_() for x in (query, queue, weight)]
    info_nce(query, key, queue, 0.1, weight).backward()
    assert leaves[0].grad is not None and leaves[1].grad is None and leaves[2].grad is None


def test_all_keys_excluded_costs_nothing():
    (query, key, queue), *_ = problem(2, 3, 4)
    ids = torch.full((2,), 4), torch.full((3,), 4)
    assert info_nce(query, key, queue, 0.1, None, *ids).item() == 0


def test_bfloat16_is_accumulated_in_float32():
    vectors, weight, *ids = problem(17, 129, 100, dtype=torch.bfloat16)
    expected = truth(vectors, 0.07, weight, *ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = info_nce(*vectors, 0.07, weight, *ids)
    outside = info_nce(*vectors, 0.07, weight, *ids)
    assert outside.dtype == inside.dtype == torch.float32
    # The same rounded inputs, so only the arithmetic differs: float32's, not bfloat16's 4e-3.
    assert outside.item() == pytest.approx(expected, rel=1e-5)
    assert inside.item() == outside.item()


def test_far_logits_stay_finite():
    (query, key, queue), *_ = problem(3, 5, 7, dtype=torch.float32)
    query = (100 * query).requires_grad_()
    loss = info_nce(query, -key, queue, 0.02)
    loss.backward()
    assert loss.isfinite() and query.grad.isfinite().all()


def test_shapes_are_checked():
    (query, key, queue), *_ = problem(3, 5, 7)
    with pytest.raises(ValueError) as error:
        info_nce(query, key, queue.T, 0.1)
    assert str(error.value) == (
        "info_nce: query [3, 7], key [3, 7] and queue [7, 5] do not fit; "
        "expected [B, D], [B, D] and [K, D]"
    )
    with pytest.raises(ValueError, match="query_id and queue_id belong together; give both or"):
        info_nce(query, key, queue, 0.1, query_id=torch.zeros(3, dtype=torch.int64))
