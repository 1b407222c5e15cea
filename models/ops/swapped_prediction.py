"""Cross-entropy of one view's similarities to prototypes with other views' assignments."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops import checks, choice
from models.ops.reference import swapped_prediction as reference

# N rows, P prototypes, D dimensions, M views to predict


def swapped_prediction(
    z: Tensor, prototypes: Tensor, assignment: Tensor, temperature: float
) -> Tensor:
    """What a view loses by predicting the assignments of others, averaged over rows and views.

        l(z_i, q_i) = - sum_p q_ip log softmax_p(z_i . c_p / t)
                    = sum_p q_ip log sum_r exp(z_i . c_r / t) - sum_p q_ip (z_i . c_p) / t

    z: [N, D], unit vectors of one view. prototypes: [P, D], unit vectors c. assignment: [N, P] of
    another view, or [M, N, P] of M others, as `models.ops.sinkhorn` gives them; rows need not sum
    to 1. The loss is linear in q, so M views cost one: 1/M sum_m l(z, q_m) = l(z, 1/M sum_m q_m).

    The gradient goes to z and to the prototypes, once (no second derivative), by what is needed:
    frozen prototypes cost nothing. With p_i the softmax and w_i = sum_p q_ip it is

        d loss / d z_i = sum_p (w_i p_ip - q_ip) c_p / (t N)     d c_p: the same sum over i with z_i

    No logits and no softmax are ever whole in memory; beside its inputs (of M views the mean
    assignment) the backward pass gets two numbers a row and takes the logits anew. Vectors of other
    lengths are as right. float64 is computed as such, everything else in float32, also under
    autocast; but where z and prototypes are both bfloat16 on a GPU, products take bfloat16 and add
    up in float32. Returns a scalar, in float32 at least.

    Raises ValueError where shapes, dtypes or devices do not fit, a tensor is empty, or temperature
    is not above 0.

    Source: Caron et al., NeurIPS 2020 (arXiv 2006.09882), equations 1 and 2; Toering et al., WACV
    2022 (arXiv 2106.10137) for several views.
    """
    _check(z, prototypes, assignment, temperature)
    assignment = assignment.detach()
    if assignment.ndim == 3:
        wide = torch.promote_types(assignment.dtype, torch.float32)
        assignment = assignment.mean(dim=0, dtype=wide) if len(assignment) > 1 else assignment[0]
    loss, _, _ = _swapped_prediction(z, prototypes, assignment, temperature)
    return loss


def _implementation(z: Tensor, prototypes: Tensor, assignment: Tensor):
    """The module whose `swapped_prediction` and `gradient` take these."""
    if choice.implementation("swapped_prediction", z, prototypes, assignment) == "triton":
        kernels = choice.kernels("swapped_prediction")
        return kernels if kernels.fits(z, prototypes) else reference
    return reference


@torch.library.custom_op("kinema::swapped_prediction", mutates_args=())
def _swapped_prediction(
    z: Tensor, prototypes: Tensor, assignment: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss [], and of each row two numbers [N] for the gradient, see the reference."""
    run = _implementation(z, prototypes, assignment)
    with torch.cuda.device_of(z):  # Triton launches on the current device
        return run.swapped_prediction(z, prototypes, assignment, temperature)


@_swapped_prediction.register_fake
def _(z, *_):
    wide = torch.promote_types(z.dtype, torch.float32)
    rows = z.new_empty(z.shape[:1], dtype=wide)
    return rows.new_empty(()), rows, torch.empty_like(rows)


@torch.library.custom_op("kinema::swapped_prediction_gradient", mutates_args=())
def _gradient(
    of_loss: Tensor,
    z: Tensor,
    prototypes: Tensor,
    assignment: Tensor,
    peak: Tensor,
    share: Tensor,
    temperature: float,
    by_z: bool,
) -> Tensor:
    """of_loss [] times the loss's gradient, by z or by the prototypes."""
    run = _implementation(z, prototypes, assignment)
    kept = peak, share
    with torch.cuda.device_of(z):
        return run.gradient(of_loss, z, prototypes, assignment, *kept, temperature, by_z=by_z)


@_gradient.register_fake
def _(of_loss, z, prototypes, assignment, peak, share, temperature, by_z):
    return torch.empty_like(z if by_z else prototypes, memory_format=torch.contiguous_format)


def _save(ctx, inputs, output):
    *tensors, ctx.temperature = inputs
    _, *kept = output
    ctx.mark_non_differentiable(*kept)
    ctx.save_for_backward(*tensors, *kept)


def _backward(ctx, of_loss, *_):
    checks.refuse_second_derivative("swapped_prediction")
    by_z, by_prototypes = (
        _gradient(of_loss, *ctx.saved_tensors, ctx.temperature, by_z) if needed else None
        for by_z, needed in zip((True, False), ctx.needs_input_grad, strict=False)
    )
    return by_z, by_prototypes, None, None


_swapped_prediction.register_autograd(_backward, setup_context=_save)


def _check(z: Tensor, prototypes: Tensor, assignment: Tensor, temperature: float) -> None:
    vectors_fit = z.ndim == prototypes.ndim == 2 and z.shape[1] == prototypes.shape[1]
    if not (
        vectors_fit
        and assignment.ndim in (2, 3)
        and assignment.shape[-2:] == (len(z), len(prototypes))
    ):
        raise ValueError(
            f"swapped_prediction: z {list(z.shape)}, prototypes {list(prototypes.shape)} and "
            f"assignment {list(assignment.shape)} do not fit; expected [N, D], [P, D], and "
            "[N, P] or [M, N, P]"
        )
    checks.require_vectors("swapped_prediction", z=z, prototypes=prototypes, assignment=assignment)
    checks.require_temperature("swapped_prediction", temperature, known="ViCC has 0.1")
