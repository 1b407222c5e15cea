"""What a step does to all tensors of a network at once: launches per group, not per tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops import checks

LARC_EPS = 1e-8  # apex

# Registered without torch.library.custom_op, whose wrapper cost as much again as all the rest:
# for 62 tensors, 41 us for the bare operator of torch, 58 us here and 131 us there.
SCHEMAS = {
    "ema_": "(Tensor(a!)[] twin, Tensor[] source, float momentum) -> ()",
    "lars_": "(Tensor(a!)[] velocities, Tensor[] weights, Tensor[] gradients, "
    "float momentum, float weight_decay, float trust) -> ()",
    "larc_": "(Tensor(a!)[] velocities, Tensor[] weights, Tensor[] gradients, "
    "float momentum, float weight_decay, float trust) -> ()",
    "total_norm": "(Tensor[] tensors) -> Tensor",
}


def ema_(twin: list[Tensor], source: list[Tensor], momentum: float) -> None:
    """twin <- momentum twin + (1 - momentum) source, in place, for each pair of tensors.

    No gradient passes. Raises ValueError where lengths, shapes, dtypes or devices differ, a list
    is empty, or momentum is outside [0, 1].

    Source: He et al., CVPR 2020 (arXiv 1911.05722), equation 2.
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"ema_: momentum {momentum} is outside [0, 1]; MoCo has 0.999")
    _check_lists("ema_", twin=twin, source=source)
    with torch.no_grad():
        torch.ops.kinema.ema_(twin, source, momentum)


def lars_(
    velocities: list[Tensor],
    weights: list[Tensor],
    gradients: list[Tensor],
    *,
    momentum: float,
    weight_decay: float,
    trust: float,
) -> None:
    """The velocities of layer-wise adaptive rate scaling, in place, one layer to each tensor.

        u <- g + weight_decay w        r = trust |w| / |u|, or 1 where |w| or |u| is 0
        v <- momentum v + r u

    The weights are left for the caller to move: w <- w - lr v. The layers' ratios stay on the
    device and are computed together; their products with u are a launch per layer, for torch has
    no group with a factor of each tensor's own on the device.

    Raises ValueError where lengths, shapes, dtypes or devices differ, or the lists are empty.

    Source: You et al. 2017 (arXiv 1708.03888), algorithm 1, with lr taken out of the velocity as
    in SGD of torch, so that a change of it acts at once.
    """
    _check_lists("lars_", velocities=velocities, weights=weights, gradients=gradients)
    with torch.no_grad():
        torch.ops.kinema.lars_(velocities, weights, gradients, momentum, weight_decay, trust)


def larc_(
    velocities: list[Tensor],
    weights: list[Tensor],
    gradients: list[Tensor],
    *,
    momentum: float,
    weight_decay: float,
    trust: float,
) -> None:
    """The velocities of LARC without clipping, in place, one layer to each tensor of any shape.

        r = trust |w| / (|g| + weight_decay |w| + 1e-8)      u <- r (g + weight_decay w)
        u <- g where |w| or |g| is 0
        v <- momentum v + u

    Unlike in `lars_` the lengths of gradient and decay are added, not the two themselves, and a
    layer without a ratio does not decay. The weights are left for the caller as there, and what is
    raised is the same.

    Source: NVIDIA's apex, apex/parallel/LARC.py, whose optimiser is SGD here.
    """
    _check_lists("larc_", velocities=velocities, weights=weights, gradients=gradients)
    with torch.no_grad():
        torch.ops.kinema.larc_(velocities, weights, gradients, momentum, weight_decay, trust)


def total_norm(tensors: list[Tensor]) -> Tensor:
    """Euclidean length of all tensors together, a scalar on their device, without gradient.

    Raises ValueError where the list is empty, or a tensor is not floating or not where the first
    is.
    """
    _check_lists("total_norm", tensors=tensors)
    with torch.no_grad():
        return torch.ops.kinema.total_norm(tensors)


def _ema(twin: list[Tensor], source: list[Tensor], momentum: float) -> None:
    torch._foreach_lerp_(twin, source, 1 - momentum)


def _lars(
    velocities: list[Tensor],
    weights: list[Tensor],
    gradients: list[Tensor],
    momentum: float,
    weight_decay: float,
    trust: float,
) -> None:
    updates = torch._foreach_add(gradients, weights, alpha=weight_decay)
    of_weights = torch.stack(torch._foreach_norm(weights))
    of_updates = torch.stack(torch._foreach_norm(updates))
    # A layer that is zero, or is not to change, has no direction to adapt to: the plain rate.
    adapts = (of_weights > 0) & (of_updates > 0)
    ratios = torch.where(adapts, trust * of_weights / of_updates, 1.0)
    _accelerate(velocities, updates, ratios, momentum)


def _larc(
    velocities: list[Tensor],
    weights: list[Tensor],
    gradients: list[Tensor],
    momentum: float,
    weight_decay: float,
    trust: float,
) -> None:
    updates = torch._foreach_add(gradients, weights, alpha=weight_decay)
    of_weights = torch.stack(torch._foreach_norm(weights))
    of_gradients = torch.stack(torch._foreach_norm(gradients))
    ratios = trust * of_weights / (of_gradients + weight_decay * of_weights + LARC_EPS)
    # What is left of a weight without gradient is its decay, which has to go; and a weight of zero
    # has none, so that its update is the gradient already.
    ratios = torch.where(of_gradients == 0, 0.0, ratios)
    ratios = torch.where(of_weights == 0, 1.0, ratios)
    _accelerate(velocities, updates, ratios, momentum)


def _accelerate(
    velocities: list[Tensor], updates: list[Tensor], ratios: Tensor, momentum: float
) -> None:
    """v <- momentum v + r u; the updates are used up."""
    torch._foreach_mul_(updates, ratios.unbind())
    torch._foreach_mul_(velocities, momentum)
    torch._foreach_add_(velocities, updates)


def _total_norm(tensors: list[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))


def _register() -> None:
    run = {"ema_": _ema, "lars_": _lars, "larc_": _larc, "total_norm": _total_norm}
    fake = {"total_norm": lambda tensors: tensors[0].new_empty(())}
    for name, schema in SCHEMAS.items():
        torch.library.define(f"kinema::{name}", schema)
        torch.library.impl(f"kinema::{name}", "CompositeExplicitAutograd", run[name])
        torch.library.register_fake(f"kinema::{name}", fake.get(name, lambda *_: None))


_register()


def _check_lists(op: str, **lists: list[Tensor]) -> None:
    """Raises ValueError unless the lists have tensors of the same shapes, all in one place."""
    (name, first), *others = lists.items()
    if not first:
        raise ValueError(f"{op}: {name} is an empty list; give the parameters of a network")
    forms = _forms(first)
    if len({form[1:] for form in forms}) > 1 or not first[0].is_floating_point():
        _refuse_kinds(op, name, first)
    for other_name, other in others:
        if _forms(other) != forms:
            _refuse_pair(op, (name, first), (other_name, other))


def _forms(tensors: list[Tensor]) -> list[tuple[torch.Size, torch.dtype, torch.device]]:
    return [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


def _refuse_kinds(op: str, name: str, tensors: list[Tensor]) -> None:
    """Raises ValueError for the first tensor of a list that is not of its kind."""
    kind = tensors[0].dtype
    for tensor in tensors:
        if tensor.dtype != kind or not kind.is_floating_point:
            raise ValueError(
                f"{op}: {name} {list(tensor.shape)} is {tensor.dtype}; "
                f"expected one floating dtype, that of the first is {kind}"
            )
        checks.require_device(op, name, tensor, beside=(name, tensors[0]))


def _refuse_pair(op: str, ours: tuple[str, list[Tensor]], theirs: tuple[str, list[Tensor]]) -> None:
    """Raises ValueError for the first tensors of two lists that do not fit each other."""
    (name, first), (other_name, other) = ours, theirs
    if len(other) != len(first):
        raise ValueError(f"{op}: {len(other)} tensors in {other_name}, {len(first)} in {name}")
    for a, b in zip(first, other, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            raise ValueError(
                f"{op}: {other_name} {list(b.shape)} is {b.dtype}, "
                f"its {name} {list(a.shape)} {a.dtype}"
            )
        checks.require_device(op, other_name, b, beside=(name, a))
