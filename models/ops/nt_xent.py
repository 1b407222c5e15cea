"""NT-Xent, the in-batch contrastive loss, over the batches of all ranks."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from models.gather import gather, rank
from models.ops import checks, choice
from models.ops.reference import nt_xent as reference

# N videos of this rank, R = 2 N rows, K = R world candidates, D dimensions

Reduction = Literal["mean", "sum_of_views"]


def nt_xent(
    first: Tensor,
    second: Tensor,
    temperature: float,
    *,
    reduction: Reduction = "mean",
    unit: bool = False,
) -> Tensor:
    """The loss of SimCLR: every view finds the other of its video among the views of all ranks.

        l_ij = z_i . z_j / t
        loss = mean_i [ log sum_(j != i) exp l_ij - l_i+ ]

    first, second: [N, D], N the same on all ranks: two views of this rank's videos. i runs over
    the 2 N rows of this rank, j over those of all ranks, + is the other view of video i.
    reduction: "mean" as in SimCLR; "sum_of_views", CVRL's code, is the mean over the first views
    plus that over the second, which is twice as much.
    unit: the caller's promise that all rows have unit length, which saves the search for each
    row's largest logit; `models.ops.set_debug` has it checked.

    The gradient reaches the rows of every rank, once (no second derivative). A rank's backward
    pass gives d (sum of all ranks' losses) / d (its own rows), so that the parameter gradients
    that DistributedDataParallel averages over ranks are those of one process with the whole batch:
    the mean of the ranks' losses is its loss. It needs no gradient from elsewhere, since l_ij is
    l_ji: beside the gathered rows, ranks exchange two numbers a row. Every rank has to run both
    passes.

    Logits are computed twice, a tile at a time, and never kept: [R] and the rows are what the
    backward pass gets. float64 is computed as such, everything else in float32, also under
    autocast; but bfloat16 rows on a GPU are multiplied as such and added up in float32. Returns a
    scalar, in float32 at least.

    Raises ValueError where shapes, dtypes or devices do not fit, a view is empty, the temperature
    is out of range or the reduction unknown.

    Source: Chen et al., ICML 2020 (arXiv 2002.05709), equation 1; Qian et al., CVPR 2021
    (arXiv 2008.03800), equation 1.
    """
    _check(first, second, temperature, reduction)
    if unit:
        choice.require_unit("nt_xent", first=first, second=second)
    rows = torch.cat([first, second])
    shift = choice.needs_shift(temperature, unit=unit)
    loss, _, _ = _nt_xent(rows, gather(rows), rank() * len(rows), temperature, shift)
    return loss if reduction == "mean" else 2 * loss


@torch.library.custom_op("kinema::nt_xent", mutates_args=())
def _nt_xent(
    rows: Tensor, candidates: Tensor, first_row: int, temperature: float, shift: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss [], and for the backward pass of all ranks log_mass and share, both [R].

    The gradient by rows is also that of their part in candidates, which gets none.
    """
    with torch.cuda.device_of(rows):  # Triton launches on the current device
        run = _implementation(rows).nt_xent
        return run(rows, candidates, first_row, temperature, shift)


@torch.library.custom_op("kinema::nt_xent_gradient", mutates_args=())
def _gradient(
    rows: Tensor,
    candidates: Tensor,
    log_mass: Tensor,
    pull: Tensor,
    first_row: int,
    temperature: float,
    shift: bool,
) -> Tensor:
    """The gradient [R, D] by rows, given log_mass and pull of all candidates, both [K]."""
    with torch.cuda.device_of(rows):
        run = _implementation(rows).gradient
        return run(rows, candidates, log_mass, pull, first_row, temperature, shift)


def _implementation(rows: Tensor):
    if choice.implementation("nt_xent", rows) == "triton":
        kernels = choice.kernels("nt_xent")
        if kernels.fits(rows):
            return kernels
    return reference


@_nt_xent.register_fake
def _(rows, *_):
    loss = rows.new_empty((), dtype=torch.promote_types(rows.dtype, torch.float32))
    return loss, loss.new_empty(len(rows)), loss.new_empty(len(rows))


@_gradient.register_fake
def _(rows, *_):
    return rows.new_empty(rows.shape, dtype=torch.promote_types(rows.dtype, torch.float32))


def _save(ctx, inputs, output):
    rows, candidates, *ctx.options = inputs
    _, log_mass, share = output
    ctx.mark_non_differentiable(log_mass, share)
    ctx.save_for_backward(rows, candidates, log_mass, share)


def _backward(ctx, of_loss, *_):
    checks.refuse_second_derivative("nt_xent")
    rows, candidates, log_mass, share = ctx.saved_tensors
    first_row, temperature, shift = ctx.options
    pull = of_loss * share / (temperature * len(rows))
    log_mass, pull = gather(torch.stack([log_mass, pull], dim=1)).unbind(dim=1)
    by_rows = _gradient(rows, candidates, log_mass, pull, first_row, temperature, shift)
    return by_rows.to(rows.dtype), *(None,) * 4


_nt_xent.register_autograd(_backward, setup_context=_save)


def _check(first: Tensor, second: Tensor, temperature: float, reduction: str) -> None:
    if first.ndim != 2 or first.shape != second.shape or first.dtype != second.dtype:
        raise ValueError(
            f"nt_xent: first {list(first.shape)}, {first.dtype}, and second "
            f"{list(second.shape)}, {second.dtype}, do not fit; expected [N, D] of one dtype twice"
        )
    checks.require_vectors("nt_xent", first=first, second=second)
    checks.require_temperature("nt_xent", temperature, known="SimCLR and CVRL have 0.1")
    if reduction not in get_args(Reduction):
        raise ValueError(
            f"nt_xent: reduction {reduction!r} is not one of {', '.join(get_args(Reduction))}"
        )
