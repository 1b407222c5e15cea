"""One op at one size: the ways to do it, what it should give, and whether they give it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tools.benchmark.measure import NotInstalled
from tools.benchmark.proof import NotProved

Work = Callable[[], tuple[Tensor, ...]]

OURS, EAGER, COMPILED = "Kinema", "eager", "torch.compile of eager"

# What a rival's result may be off, by the sum of squares: it does the same work, or it is no rival.
LOOSE = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 5e-2}


@dataclass
class Problem:
    """works: results of each side, a call at a time, with their gradients; the first is ours.

    exact: the same in float64. goals: least ratio of speeds. left_out: sides without figures, and
    why. floor_seconds: no machine of this kind is faster; None where nobody knows.
    """

    op: str
    title: str
    works: dict[str, Work]
    exact: Work
    goals: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    floor_seconds: float | None = None


def check(problem: Problem, dtype: torch.dtype) -> dict[str, float]:
    """Every side's error, of the tensors that will be timed. Takes out rivals that are wrong.

    Raises NotProved where ours errs more than twice the eager form and a rounding of `dtype`.
    """
    exact = [tensor.double() for tensor in problem.exact()]
    errors = {}
    for name, error in _errors(problem, exact):
        if name != OURS and not error <= LOOSE[dtype]:
            problem.left_out[name] = f"its result is off by {error:.1e}: it does another work"
        else:
            errors[name] = error
    problem.works = {name: problem.works[name] for name in errors}
    allowed = 2 * errors.get(EAGER, LOOSE[dtype] / 4) + torch.finfo(dtype).eps
    if not errors[OURS] <= allowed:
        raise NotProved(
            f"error: no figure is printed, for {problem.op} is wrong · {problem.title} · "
            f"its result is off by {errors[OURS]:.1e}, allowed is {allowed:.1e}"
        )
    return errors


def _errors(problem: Problem, exact: list[Tensor]) -> Iterator[tuple[str, float]]:
    """(side, error) of those that run at all."""
    for name, work in problem.works.items():
        try:
            results = work()
        except NotInstalled as error:
            problem.left_out[name] = str(error)
            continue
        except Exception as error:  # somebody else's code may raise anything
            if name == OURS:
                raise
            problem.left_out[name] = f"it fails: {_one_line(error)}"
            continue
        yield name, max(map(_error, results, exact))


def _error(result: Tensor, exact: Tensor) -> float:
    """|result - exact| / |exact|, or inf where the shape is another."""
    if result.shape != exact.shape:
        return float("inf")
    size = torch.linalg.vector_norm(exact).clamp(min=torch.finfo(torch.float64).tiny)
    return (torch.linalg.vector_norm(result.detach().double() - exact) / size).item()


def as_used(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """An eager loss for bfloat16 vectors as people have it: under autocast, softmax in float32."""

    def run(*vectors: Tensor) -> Tensor:
        half = vectors[0].dtype == torch.bfloat16
        with torch.autocast(vectors[0].device.type, dtype=torch.bfloat16, enabled=half):
            return loss(*vectors)

    return run


def compiled(function: Callable) -> Callable:
    """By torch.compile, for the shapes that it meets first."""
    torch._dynamo.reset()  # after eight shapes it would give up, and run the eager form unsaid
    return torch.compile(function, dynamic=False)


def with_gradients(
    loss: Callable[..., Tensor], vectors: Sequence[Tensor], *constants: Tensor
) -> Work:
    """The loss of vectors and constants, and its gradients by the vectors."""
    leaves = [tensor.detach().requires_grad_() for tensor in vectors]

    def work() -> tuple[Tensor, ...]:
        value = loss(*leaves, *constants)
        return value.detach(), *torch.autograd.grad(value, leaves)

    return work


def in_words(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
