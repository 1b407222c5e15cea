"""A contrastive problem with every difficulty at once, and its truth in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from models.ops.reference.info_nce import eager
from tests import oracles

CASES = ("plain", "weight", "age", "ids", "age and ids")


@dataclass(frozen=True)
class Problem:
    """Arguments of info_nce; key [B, P, D]."""

    query: Tensor
    key: Tensor
    queue: Tensor
    temperature: float
    weight: Tensor | None
    query_id: Tensor | None
    queue_id: Tensor | None
    age: Tensor | None
    decay: float

    def arguments(self) -> tuple:
        """In the order of `models.ops.reference.info_nce`, without the last, `shift`."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def options(self) -> dict:
        names = ("weight", "query_id", "queue_id", "age", "decay")
        return {name: getattr(self, name) for name in names}

    def to(self, device: str) -> Problem:
        tensors = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)


def problem(
    shape: tuple[int, int, int],
    *,
    case: str = "plain",
    temperature: float = 0.07,
    positives: int = 1,
    dtype: torch.dtype = torch.float32,
    queue_dtype: torch.dtype | None = None,
    decay: float = 0.99,
) -> Problem:
    """Correlated unit vectors, decay-like weights, ids with matches, and -1 on both sides."""
    batch, slots, dim = shape
    generator = torch.Generator().manual_seed(batch + slots)
    common = torch.randn(dim, generator=generator, dtype=torch.float64)

    def rows(*count: int) -> Tensor:
        noise = torch.randn(*count, dim, generator=generator, dtype=torch.float64)
        return F.normalize(common + noise, dim=-1)

    def integers(low: int, high: int, count: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator)

    return Problem(
        query=rows(batch).to(dtype),
        key=rows(batch, positives).to(dtype),
        queue=rows(slots).to(queue_dtype or dtype),
        temperature=temperature,
        weight=torch.rand(slots, generator=generator, dtype=torch.float64).to(dtype)
        if "weight" in case
        else None,
        query_id=integers(-1, 5, batch) if "ids" in case else None,
        queue_id=integers(-1, 5, slots) if "ids" in case else None,
        age=integers(0, 300, slots) if "age" in case else None,
        decay=decay,
    )


def _weight(given: Problem) -> Tensor | None:
    """The weight of every slot in float64."""
    if given.age is None:
        return None if given.weight is None else given.weight.double()
    return given.decay ** given.age.double()


def truth(given: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, its gradient by query [B, D] and by key [B, P, D]: the mean over positives."""
    query, key, queue = (x.detach().double().numpy() for x in (given.query, given.key, given.queue))
    weight, *ids = (
        None if x is None else x.detach().numpy()
        for x in (_weight(given), given.query_id, given.queue_id)
    )
    positives = key.shape[1]
    loss, by_query, by_key = 0.0, 0.0, []
    for p in range(positives):
        one = (query, key[:, p], queue, given.temperature, weight, *ids)
        loss += oracles.info_nce(*one) / positives
        of_query, of_key = oracles.info_nce_gradients(*one)
        by_query = by_query + of_query / positives
        by_key.append(torch.from_numpy(of_key) / positives)
    return (
        torch.tensor(loss, dtype=torch.float64),
        torch.from_numpy(by_query),
        torch.stack(by_key, dim=1),
    )


def plain_torch(given: Problem, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The same by the eager form and autograd, all in `dtype`."""
    query, key, queue = (
        x.detach().to(dtype).requires_grad_() for x in (given.query, given.key, given.queue)
    )
    weight = _weight(given)
    weight = weight if weight is None else weight.to(dtype)
    losses = [
        eager(query, k, queue, given.temperature, weight, given.query_id, given.queue_id)
        for k in key.unbind(dim=1)
    ]
    loss = torch.stack(losses).mean()
    return loss.detach(), *torch.autograd.grad(loss, (query, key))


def assert_as_exact_as_plain_torch(
    actual: tuple[Tensor, Tensor, Tensor], given: Problem, dtype: torch.dtype
) -> None:
    """Of loss and gradients by query and key."""
    given = given.to("cpu")
    assert_as_exact(
        actual, truth(given), plain_torch(given, dtype), temperature=given.temperature, dtype=dtype
    )


def assert_as_exact(
    actual: tuple[Tensor, ...],
    exact: tuple[Tensor, ...],
    plain: tuple[Tensor, ...],
    *,
    temperature: float,
    dtype: torch.dtype,
) -> None:
    """Errors of a loss and its gradients against float64 at most those of plain torch in `dtype`,
    and its rounding.

    A logit is at most 1 / t, so its rounding is eps / t, by which the loss and, relatively, every
    softmax change; each is then rounded itself.
    """
    eps = torch.finfo(dtype).eps
    for number, (got, wanted, rough) in enumerate(zip(actual, exact, plain, strict=True)):
        error = (got.cpu().double() - wanted).abs().max()
        allowed = (rough.double() - wanted).abs().max()
        size = wanted.abs().max()
        allowed += eps * (size + (size if number else 1) / temperature)
        name = f"gradient {number}" if number else "loss"
        assert error <= allowed, f"{name}: error {error:.1e}, allowed {allowed:.1e}"
