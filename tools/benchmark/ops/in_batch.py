"""The losses without a queue of keys: NT-Xent, and prototypes with their assignment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.ops import nt_xent, sinkhorn, swapped_prediction
from models.ops.reference import nt_xent as nt_xent_reference
from models.ops.reference import sinkhorn as sinkhorn_reference
from models.ops.reference import swapped_prediction as swapped_reference
from tools.benchmark.ops.problem import (
    COMPILED,
    EAGER,
    OURS,
    Problem,
    Work,
    as_used,
    compiled,
    in_words,
    with_gradients,
)

DIM, TEMPERATURE = 128, 0.1
SINKHORN = {"epsilon": 0.05, "iterations": 3}  # SwAV and ViCC
VIEWS = 2  # that a view predicts


def nt_xent_problem(videos: int, *, device: str, dtype: torch.dtype) -> Problem:
    """Two views of each video; gradients by both."""
    first = _unit(videos, device, dtype, seed=1)
    second = F.normalize(first + _unit(videos, device, dtype, seed=2), dim=1)
    return _problem(
        "nt_xent",
        f"nt_xent, N = {videos:,} videos, D = {DIM}, {in_words(dtype)}",
        lambda a, b: nt_xent(a, b, TEMPERATURE, unit=True),
        lambda a, b: nt_xent_reference.eager(a, b, TEMPERATURE),
        [first, second],
    )


def swapped_problem(rows: int, prototypes: int, *, device: str, dtype: torch.dtype) -> Problem:
    """Gradients by the view and by the prototypes."""
    z, c = (_unit(count, device, dtype, seed=count) for count in (rows, prototypes))
    generator = torch.Generator().manual_seed(0)
    q = torch.rand(VIEWS, rows, prototypes, generator=generator).softmax(dim=2).to(device)
    return _problem(
        "swapped_prediction",
        f"swapped_prediction, N = {rows:,}, P = {prototypes:,}, M = {VIEWS}, D = {DIM}, "
        f"{in_words(dtype)}",
        lambda z, c: swapped_prediction(z, c, q, TEMPERATURE),
        lambda z, c: swapped_reference.eager(z, c, q.to(z.dtype), TEMPERATURE),
        [z, c],
    )


def sinkhorn_problem(
    rows: int, prototypes: int, queue: int, *, device: str, dtype: torch.dtype
) -> Problem:
    """No gradient: the assignment alone."""
    z, c, old = (
        _unit(count, device, dtype, seed=count + 1) for count in (rows, prototypes, max(1, queue))
    )
    scores, queue_scores = z @ c.T, old @ c.T if queue else None

    def assignment(by: Callable, wide: torch.dtype = dtype) -> Work:
        of_queue = None if queue_scores is None else queue_scores.to(wide)
        of_batch = scores.to(wide)
        return lambda: (by(of_batch, queue_scores=of_queue, **SINKHORN),)

    return Problem(
        op="sinkhorn",
        title=f"sinkhorn, N = {rows:,} and {queue:,} of a queue, P = {prototypes:,}, "
        f"{SINKHORN['iterations']} iterations, {in_words(dtype)}",
        works={
            OURS: assignment(sinkhorn),
            EAGER: assignment(sinkhorn_reference.eager),
            COMPILED: assignment(compiled(sinkhorn_reference.eager)),
        },
        exact=assignment(sinkhorn_reference.eager, torch.float64),
    )


def _problem(
    op: str, title: str, ours: Callable, eager: Callable, inputs: Sequence[Tensor]
) -> Problem:
    """A loss of two inputs, and its gradients by both."""
    wide, eager = [tensor.double() for tensor in inputs], as_used(eager)
    return Problem(
        op=op,
        title=title,
        works={
            OURS: with_gradients(ours, inputs),
            EAGER: with_gradients(eager, inputs),
            COMPILED: with_gradients(compiled(eager), inputs),
        },
        exact=with_gradients(eager, wide),
    )


def _unit(rows: int, device: str, dtype: torch.dtype, *, seed: int) -> Tensor:
    noise = torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed))
    return F.normalize(noise, dim=1).to(device, dtype)
