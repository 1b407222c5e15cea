"""Views, prototypes and assignments with every difficulty at once, and their truth in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from models.ops.reference import sinkhorn, swapped_prediction
from tests import oracles
from tests.models.contrast import assert_as_exact

SHAPES = [(1, 1, 16), (33, 257, 100), (64, 3000, 128)]  # rows, prototypes, dimensions


def unit_vectors(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """[count, dim] in float64, correlated."""
    common = torch.ones(dim, dtype=torch.float64) / 2
    noise = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    return F.normalize(common + noise, dim=1)


@dataclass(frozen=True)
class Scores:
    """Arguments of sinkhorn; queue_scores [R, P]."""

    scores: Tensor
    queue_scores: Tensor | None
    epsilon: float
    iterations: int

    def options(self) -> dict:
        names = ("queue_scores", "epsilon", "iterations")
        return {name: getattr(self, name) for name in names}

    def to(self, device: str) -> Scores:
        queue = None if self.queue_scores is None else self.queue_scores.to(device)
        return replace(self, scores=self.scores.to(device), queue_scores=queue)


def scores(
    shape: tuple[int, int, int],
    *,
    epsilon: float = 0.05,
    iterations: int = 3,
    queue: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Scores:
    """Of correlated vectors; one row and one prototype are far from all others."""
    rows, prototypes, dim = shape
    generator = torch.Generator().manual_seed(rows + prototypes)
    vectors = unit_vectors(rows + queue, dim, generator)
    centres = unit_vectors(prototypes, dim, generator)
    products = vectors @ centres.T
    products[0] -= 0.5
    products[:, -1] -= 0.5
    products = products.to(dtype)
    return Scores(products[:rows], products[rows:] if queue else None, epsilon, iterations)


def assignment_truth(given: Scores) -> Tensor:
    """The equation's [B, P], over the queue as well."""
    rows = [given.scores] if given.queue_scores is None else [given.scores, given.queue_scores]
    whole = torch.cat(rows).cpu().double().numpy()
    result = oracles.sinkhorn(whole, given.epsilon, given.iterations)
    return torch.from_numpy(result[: len(given.scores)])


def assert_assignment_as_exact_as_plain_torch(actual: Tensor, given: Scores) -> None:
    """Errors against float64 at most those of plain torch in float32, and its rounding.

    A score is at most 1, so its rounding moves what is raised to e by eps / epsilon, and by as
    much, relatively, every share. Where plain torch has no number it has no error either.
    """
    given = given.to("cpu")
    exact = assignment_truth(given)
    queue = None if given.queue_scores is None else given.queue_scores.float()
    plain = sinkhorn.eager(given.scores.float(), **given.options() | {"queue_scores": queue})
    error = (actual.cpu().double() - exact).abs().max()
    allowed = (plain.double() - exact).abs().max().nan_to_num(0.0)
    allowed += torch.finfo(torch.float32).eps * exact.max() * (1 + 1 / given.epsilon)
    assert error <= allowed, f"error {error:.1e}, allowed {allowed:.1e}"
    sums = actual.cpu().double().sum(dim=1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-6, atol=0)


@dataclass(frozen=True)
class Problem:
    """Arguments of swapped_prediction; assignment [M, N, P]."""

    z: Tensor
    prototypes: Tensor
    assignment: Tensor
    temperature: float

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, float]:
        return self.z, self.prototypes, self.assignment, self.temperature

    def to(self, device: str) -> Problem:
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


def problem(
    shape: tuple[int, int, int],
    *,
    temperature: float = 0.1,
    views: int = 1,
    sums_to_one: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Correlated unit vectors; sharp, soft and empty assignments, of any sum if not asked for 1."""
    rows, prototypes, dim = shape
    generator = torch.Generator().manual_seed(rows + prototypes)
    sharpness = torch.logspace(-1, 1.5, rows, dtype=torch.float64)[:, None]
    noise = torch.randn(views, rows, prototypes, generator=generator, dtype=torch.float64)
    assignment = torch.softmax(sharpness * noise, dim=2)
    if not sums_to_one:
        assignment *= torch.linspace(1.5, 0, rows, dtype=torch.float64)[:, None]
    return Problem(
        z=unit_vectors(rows, dim, generator).to(dtype),
        prototypes=unit_vectors(prototypes, dim, generator).to(dtype),
        assignment=assignment.to(torch.promote_types(dtype, torch.float32)),
        temperature=temperature,
    )


def collapsed(*, length: float) -> Problem:
    """All vectors nearly alike, so that gradients are small differences; logits 50 x `length`."""
    given = problem((5, 3, 20), temperature=0.02)
    given.prototypes.copy_(given.prototypes[:1] + 0.01 * given.prototypes)
    given.z.copy_(length * given.prototypes[:1] + 0.1 * given.z)
    return given


def truth(given: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and its gradients by z and by prototypes."""
    arrays = (x.detach().cpu().double().numpy() for x in given.arguments()[:3])
    loss, *gradients = oracles.swapped_prediction(*arrays, given.temperature)
    return torch.tensor(loss, dtype=torch.float64), *map(torch.from_numpy, gradients)


def plain_torch(given: Problem, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The same by the eager form and autograd, all in `dtype`."""
    z, prototypes, assignment = (x.detach().cpu().to(dtype) for x in given.arguments()[:3])
    leaves = z.requires_grad_(), prototypes.requires_grad_()
    loss = swapped_prediction.eager(*leaves, assignment, given.temperature)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def assert_as_exact_as_plain_torch(
    actual: tuple[Tensor, Tensor, Tensor],
    given: Problem,
    dtype: torch.dtype,
    *,
    length: float = 1.0,
) -> None:
    """Of loss and gradients by z and prototypes; logits are at most `length` / temperature."""
    assert_as_exact(
        *(actual, truth(given), plain_torch(given, dtype)),
        temperature=given.temperature / length,
        dtype=dtype,
    )
