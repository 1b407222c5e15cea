"""The assignment of a batch to prototypes that all get an equal share: Sinkhorn-Knopp."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.gather import all_reduce, share, world_size
from models.ops import checks, choice
from models.ops.reference import sinkhorn as reference

# B rows of this rank, R of a queue, P prototypes


def sinkhorn(
    scores: Tensor, *, epsilon: float, iterations: int, queue_scores: Tensor | None = None
) -> Tensor:
    """Soft assignment of every row to prototypes, over the rows of all ranks and of a queue.

        Q = exp(s / epsilon) / its sum, then `iterations` times
        Q_ip <- Q_ip / (P sum_i Q_ip)    each prototype gets 1 / P
        Q_ip <- Q_ip / (N sum_p Q_ip)    each of the N rows gives 1 / N; at the end 1

    scores: [B, P], similarities of this rank's rows. queue_scores: [R, P], rows that take part and
    whose assignment is not wanted. The queue is one, the same on every rank: its rows count once,
    each by one rank, however many ranks hold them.

    Q is never written before the end. Constants cancel, and what remains of all divisions is one
    number a prototype, its mass c_p, and a softmax over prototypes:

        c_p = sum_i exp(s_ip / epsilon)              then Q_i = softmax(s_i / epsilon - log c)
        c_p <- c_p sum_i Q_ip                        iterations - 1 times

    so an iteration is one sweep over the scores. No exponential is without its largest: the first
    sum is relative to each prototype's maximum and a softmax to each row's, which it is free to
    be. Divided by c, a prototype's numbers sum to 1 and so a row's to P at most; after the softmax
    each prototype still has 1 / P, so that no sum underflows, whatever epsilon is.

    Ranks exchange P numbers for the maximum and P in each iteration; every rank has to take part.
    float64 is computed as such, everything else in float32, also under autocast. Returns [B, P],
    in float32 at least, without gradient. The host waits for nothing.

    Raises ValueError where shapes, dtypes or devices do not fit, a tensor is empty, epsilon is not
    above 0 or iterations below 1.

    Source: Cuturi, NeurIPS 2013 (arXiv 1306.0895); Caron et al., NeurIPS 2020 (arXiv 2006.09882),
    section 3.1; Toering et al., WACV 2022 (arXiv 2106.10137).
    """
    _check(scores, epsilon, iterations, queue_scores)
    queue_scores = queue_scores if queue_scores is None else queue_scores.detach()
    return _sinkhorn(scores.detach(), epsilon, iterations, queue_scores)


@torch.library.custom_op("kinema::sinkhorn", mutates_args=())
def _sinkhorn(
    scores: Tensor, epsilon: float, iterations: int, queue_scores: Tensor | None
) -> Tensor:
    run = reference
    if choice.implementation("sinkhorn", scores) == "triton":
        kernels = choice.kernels("sinkhorn")
        run = kernels if kernels.fits(scores) else run
    scores = scores.contiguous()
    rows = scores if queue_scores is None else torch.cat([scores, share(queue_scores)])
    with torch.cuda.device_of(scores):  # Triton launches on the current device
        level, mass = _over_ranks(*run.masses(rows, epsilon))
        for _ in range(iterations - 1):
            level, mass = run.rebalance(rows, level, mass, epsilon)
            mass = all_reduce(mass)
        return run.assign(scores, level, mass, epsilon)


@_sinkhorn.register_fake
def _(scores, *_):
    return scores.new_empty(scores.shape, dtype=torch.promote_types(scores.dtype, torch.float32))


def _over_ranks(level: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over ranks of exp(level) mass, above the highest level."""
    if world_size() == 1:
        return level, mass
    highest = all_reduce(level.clone(), "max")
    return highest, all_reduce(mass * torch.exp(level - highest))


def _check(scores: Tensor, epsilon: float, iterations: int, queue_scores: Tensor | None) -> None:
    named = {"scores": scores}
    if queue_scores is not None:
        named["queue_scores"] = queue_scores
    shapes = " and ".join(f"{name} {list(tensor.shape)}" for name, tensor in named.items())
    if scores.ndim != 2 or any(tensor.shape[1:] != scores.shape[1:] for tensor in named.values()):
        raise ValueError(f"sinkhorn: {shapes} do not fit; expected [B, P] and [R, P]")
    checks.require_vectors("sinkhorn", **named)
    dtypes = {tensor.dtype for tensor in named.values()}
    if len(dtypes) > 1:
        raise ValueError(
            f"sinkhorn: {shapes} are {scores.dtype} and {queue_scores.dtype}; "
            "take both from products of one dtype"
        )
    if not 0 < epsilon < math.inf:
        raise ValueError(f"sinkhorn: epsilon {epsilon} must be above 0; ViCC has 0.05")
    if iterations < 1:
        raise ValueError(f"sinkhorn: iterations {iterations} is below 1; ViCC has 3")
