"""InfoNCE of queries against their keys and a queue of negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops import checks, choice
from models.ops.reference import info_nce as reference

# B queries, P positives of each, K queued keys, C candidates, D dimensions


def info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float,
    weight: Tensor | None = None,
    query_id: Tensor | None = None,
    queue_id: Tensor | None = None,
    *,
    age: Tensor | None = None,
    decay: float = 1.0,
    unit: bool = False,
) -> Tensor:
    """The contrastive loss of MoCo with weighted negatives, averaged over queries and positives.

        l+_ip = q_i . k_ip / t
        l-_ij = w_j (q_i . Q_j) / t       left out where query_id_i == queue_id_j != -1
        loss  = mean_ip [ log( exp l+_ip + sum_j exp l-_ij ) - l+_ip ]

    query: [B, D]. key: [B, D], or [B, P, D] where each of P positives stands alone against the
    negatives. queue: [K, D], the same for all queries; or [B, C, D], candidates of each query's
    own (C = 1: two-way), which takes neither weight nor ids.
    weight: [K], multiplies the similarity, so that 0 makes a negative neutral and does not remove
    it; or instead age: [K] int64, for the weight decay ** age (VideoMoCo's temporal decay).
    query_id [B] and queue_id [K]: int64, given together; 0 or more, and -1 matches nothing.
    unit: the caller's promise that all rows have unit length, which saves the search for each
    query's largest logit; `models.ops.set_debug` has it checked.

    The gradient goes to query and key, once (no second derivative). One pass over the queue gives
    it together with the loss: neither the [B, K] logits nor their softmax are ever in memory, and
    [B, D] is kept for the backward pass. float64 is computed as such, everything else in float32,
    also under autocast; but where queue is bfloat16 on a GPU, products take bfloat16 and add up in
    float32. Returns a scalar, in float32 at least.

    Raises ValueError where shapes, dtypes or devices do not fit, the queue is empty, temperature
    or decay are out of range, or one of two that belong together is given alone.

    Source: He et al., CVPR 2020 (arXiv 1911.05722), equation 1; Pan et al., CVPR 2021
    (arXiv 2103.05905), section 3.3; Kuang et al., ICCVW 2021 (arXiv 2108.02722) for several
    positives and candidates.
    """
    _check_vectors(query, key, queue)
    _check_numbers(temperature, decay)
    _check_slots(query, queue, weight, query_id, queue_id, age)
    if unit:
        choice.require_unit("info_nce", query=query, key=key, queue=queue)
    key = key if key.ndim == 3 else key[:, None]
    if queue.ndim == 3:
        return reference.among_candidates(query, key, queue, temperature)
    shift = choice.needs_shift(temperature, unit=unit and weight is None)
    loss, _, _ = _info_nce(
        query, key, queue, temperature, weight, query_id, queue_id, age, decay, shift
    )
    return loss


@torch.library.custom_op("kinema::info_nce", mutates_args=())
def _info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float,
    weight: Tensor | None,
    query_id: Tensor | None,
    queue_id: Tensor | None,
    age: Tensor | None,
    decay: float,
    shift: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [], its gradient by query [B, D], and pull [B, P]: by key it is -pull_ip query_i."""
    run = reference.info_nce
    if choice.implementation("info_nce", query, key, queue) == "triton":
        kernels = choice.kernels("info_nce")
        run = kernels.info_nce if kernels.fits(query, queue) else run
    with torch.cuda.device_of(query):  # Triton launches on the current device
        return run(query, key, queue, temperature, weight, query_id, queue_id, age, decay, shift)


@_info_nce.register_fake
def _(query, key, *_):
    wide = torch.promote_types(query.dtype, torch.float32)
    loss = query.new_empty((), dtype=wide)
    return loss, query.new_empty(query.shape, dtype=wide), loss.new_empty(key.shape[:2])


def _save(ctx, inputs, output):
    query, key = inputs[:2]
    _, gradient, pull = output
    ctx.mark_non_differentiable(gradient, pull)
    ctx.dtypes = query.dtype, key.dtype
    # A key without gradient, as from a momentum encoder, needs neither its query nor the pull.
    ctx.save_for_backward(gradient, *((query, pull) if key.requires_grad else ()))


def _backward(ctx, of_loss, *_):
    checks.refuse_second_derivative("info_nce")
    gradient, *for_key = ctx.saved_tensors
    by_key = None
    if for_key:
        query, pull = for_key
        by_key = (-of_loss * pull[:, :, None] * query[:, None]).to(ctx.dtypes[1])
    return (of_loss * gradient).to(ctx.dtypes[0]), by_key, *(None,) * 8


_info_nce.register_autograd(_backward, setup_context=_save)


def _check_vectors(query: Tensor, key: Tensor, queue: Tensor) -> None:
    sizes = f"query {list(query.shape)}, key {list(key.shape)} and queue {list(queue.shape)}"
    key_fits = key.ndim in (2, 3) and (key.shape[0], key.shape[-1]) == query.shape
    own = queue.ndim == 3
    queue_fits = queue.ndim in (2, 3) and queue.shape[-1] == query.shape[-1]
    if not (key_fits and queue_fits and (not own or len(queue) == len(query))):
        raise ValueError(
            f"info_nce: {sizes} do not fit; expected [B, D], [B, D] or [B, P, D], "
            "and [K, D] or [B, C, D]"
        )
    checks.require_vectors("info_nce", query=query, key=key, queue=queue)


def _check_numbers(temperature: float, decay: float) -> None:
    checks.require_temperature("info_nce", temperature, known="MoCo has 0.07")
    if not 0 < decay <= 1:
        raise ValueError(f"info_nce: decay {decay} is outside (0, 1]; VideoMoCo has 0.99999")


def _check_slots(
    query: Tensor,
    queue: Tensor,
    weight: Tensor | None,
    query_id: Tensor | None,
    queue_id: Tensor | None,
    age: Tensor | None,
) -> None:
    """Raises ValueError for what belongs to the slots of a queue, and to their videos."""
    if (query_id is None) != (queue_id is None):
        raise ValueError("info_nce: query_id and queue_id belong together; give both or neither")
    if weight is not None and age is not None:
        raise ValueError("info_nce: weight and age both weigh the queue; give one of them")
    slots, batch = queue.shape[:1], query.shape[:1]
    given = {
        "weight": (weight, slots),
        "age": (age, slots),
        "query_id": (query_id, batch),
        "queue_id": (queue_id, slots),
    }
    for name, (tensor, shape) in given.items():
        if tensor is None:
            continue
        if queue.ndim == 3:
            raise ValueError(
                f"info_nce: {name} {list(tensor.shape)} belongs to a queue [K, D], "
                f"not to candidates {list(queue.shape)}"
            )
        integer = name != "weight"
        kind = "int64" if integer else "a floating dtype"
        if tensor.shape != shape or (
            tensor.dtype != torch.int64 if integer else not tensor.is_floating_point()
        ):
            raise ValueError(
                f"info_nce: {name} {list(tensor.shape)} is {tensor.dtype}; "
                f"expected {list(shape)} and {kind}"
            )
        checks.require_device("info_nce", name, tensor, beside=("query", query))
