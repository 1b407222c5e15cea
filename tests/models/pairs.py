"""Two views of every video, the truth of their loss in float64, and ranks without processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from models.ops.reference.nt_xent import eager
from tests import oracles
from tests.models.contrast import assert_as_exact


@dataclass(frozen=True)
class Pair:
    """first, second: [N, D]."""

    first: Tensor
    second: Tensor
    temperature: float

    def to(self, device: str) -> Pair:
        return replace(self, first=self.first.to(device), second=self.second.to(device))


def pair(
    shape: tuple[int, int], *, temperature: float = 0.1, dtype: torch.dtype = torch.float32
) -> Pair:
    """Unit vectors, all correlated and those of one video more so."""
    videos, dim = shape
    generator = torch.Generator().manual_seed(videos)

    def noise(*count: int) -> Tensor:
        return torch.randn(*count, dim, generator=generator, dtype=torch.float64)

    video = noise() + noise(videos)
    first, second = (F.normalize(video + noise(videos), dim=1).to(dtype) for _ in range(2))
    return Pair(first, second, temperature)


def truth(given: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss and its gradients by first and second."""
    first, second = (x.detach().cpu().double().numpy() for x in (given.first, given.second))
    loss, *gradients = oracles.nt_xent(first, second, given.temperature)
    return torch.tensor(loss, dtype=torch.float64), *map(torch.from_numpy, gradients)


def plain_torch(given: Pair, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The same by the eager form and autograd, all in `dtype`."""
    first, second = (x.detach().cpu().to(dtype) for x in (given.first, given.second))
    leaves = first.requires_grad_(), second.requires_grad_()
    loss = eager(*leaves, given.temperature)
    return loss.detach(), *torch.autograd.grad(loss, leaves)


def assert_as_exact_as_plain_torch(
    actual: tuple[Tensor, Tensor, Tensor], given: Pair, dtype: torch.dtype
) -> None:
    """Of loss and gradients by first and second."""
    assert_as_exact(
        actual, truth(given), plain_torch(given, dtype), temperature=given.temperature, dtype=dtype
    )


def by_ranks(
    given: Pair, world: int, *, forward: Callable, backward: Callable, shift: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean loss and gradients when `world` ranks share the videos, each of them computed here.

    forward, backward: of a module of `models.ops.reference.nt_xent`'s shape.
    """
    shards = zip(given.first.chunk(world), given.second.chunk(world), strict=True)
    ranks = [torch.cat(views) for views in shards]
    candidates, temperature = torch.cat(ranks), given.temperature
    places = [(rows, number * len(rows)) for number, rows in enumerate(ranks)]
    losses, masses, shares = zip(
        *(forward(rows, candidates, at, temperature, shift) for rows, at in places), strict=True
    )
    pull = torch.cat(shares) / (temperature * len(candidates))
    gradients = [
        backward(rows, candidates, torch.cat(masses), pull, at, temperature, shift)
        for rows, at in places
    ]
    by_first, by_second = zip(*(gradient.chunk(2) for gradient in gradients), strict=True)
    return torch.stack(losses).mean(), torch.cat(by_first), torch.cat(by_second)
