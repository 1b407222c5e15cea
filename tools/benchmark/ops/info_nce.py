"""InfoNCE against a queue: loss and gradient by the query, of one batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from models.ops import info_nce
from models.ops.reference.info_nce import eager
from tools.benchmark import floor
from tools.benchmark.conditions import device_name
from tools.benchmark.measure import NotInstalled
from tools.benchmark.memory import free_bytes
from tools.benchmark.ops.problem import (
    COMPILED,
    EAGER,
    OURS,
    Problem,
    as_used,
    compiled,
    in_words,
    with_gradients,
)

# N queries, K keys, D dimensions

DIM, TEMPERATURE = 128, 0.07
ATTENTION, CUT = "attention with V = K", "cut-cross-entropy"
GOAL_SIZE = 256, 65_536
GOALS = {
    "cpu": {EAGER: 2.5},
    "cuda": {EAGER: 5.0, COMPILED: 1.3, ATTENTION: 1.3, CUT: 1.3},
}
# float32 [N, K] arrays alive at once, as measured: similarities, logits and their quotient by t,
# then the log-softmax and its gradients; compiled, all of it happens in the similarities' place.
ARRAYS = {EAGER: 3, COMPILED: 1}
EXACT_LOGITS = 2**24  # at a time: 128 MB of float64

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def problem(queries: int, keys: int, *, device: str, dtype: torch.dtype) -> Problem:
    """Random unit vectors, each key near its query."""
    generator = torch.Generator().manual_seed(queries + keys)

    def rows(count: int, near: Tensor | float = 0.0) -> Tensor:
        noise = torch.randn(count, DIM, generator=generator)
        return F.normalize(near + noise, dim=1)

    query = rows(queries)
    key, queue = rows(queries, near=8 * query), rows(keys)
    query, key, queue = (tensor.to(device, dtype) for tensor in (query, key, queue))
    made = Problem(
        op="info_nce",
        title=f"info_nce, N = {queries:,}, K = {keys:,}, D = {DIM}, {in_words(dtype)}",
        works={name: with_gradients(loss, [query], key, queue) for name, loss in _losses().items()},
        exact=lambda: _exact(query, key, queue),
        goals=GOALS[device] if (queries, keys) == GOAL_SIZE else {},
    )
    rates = floor.DEVICES.get(device_name())
    if dtype == torch.bfloat16 and rates:
        made.floor_seconds = floor.info_nce_seconds(rates, queries=queries, keys=keys, dim=DIM)
    _leave_out(made, queries * keys, device, dtype)
    return made


def _losses() -> dict[str, Loss]:
    moco = as_used(lambda query, key, queue: eager(query, key, queue, TEMPERATURE))
    return {
        OURS: lambda query, key, queue: info_nce(query, key, queue, TEMPERATURE, unit=True),
        EAGER: moco,
        COMPILED: compiled(moco),
        ATTENTION: _Attention.apply,
        CUT: _cut_cross_entropy,
    }


class _Attention(torch.autograd.Function):
    """One query an attention row, the queue as keys and as values, and the positive afterwards.

    torch's attention gives the mean of the values under the softmax, which is what the gradient
    needs; the loss needs the logarithm of the softmax's denominator too, which only the operators
    below `scaled_dot_product_attention` return.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        mean, log_mass = _attend(query[None, None], queue[None, None])
        lead = log_mass - (query * key).sum(dim=1, dtype=torch.float32) / TEMPERATURE
        pull = torch.sigmoid(lead) / (TEMPERATURE * len(query))
        ctx.save_for_backward(((mean - key) * pull[:, None]).to(query.dtype))
        return F.softplus(lead).mean()

    @staticmethod
    def backward(ctx, of_loss: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return of_loss.to(gradient.dtype) * gradient, None, None


def _attend(query: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """([N, D], [N]) of query [1, 1, N, D] and keys [1, 1, K, D], by the operator for them."""
    operators = torch.ops.aten
    scale = 1 / TEMPERATURE
    if query.device.type == "cpu":
        flash = operators._scaled_dot_product_flash_attention_for_cpu
        mean, log_mass = flash(query, keys, keys, scale=scale)
    elif query.dtype == torch.float32:  # flash attention takes 16 bits only
        efficient = operators._scaled_dot_product_efficient_attention
        mean, log_mass, *_ = efficient(query, keys, keys, None, True, scale=scale)
    else:
        flash = operators._scaled_dot_product_flash_attention
        mean, log_mass, *_ = flash(query, keys, keys, scale=scale)
    return mean[0, 0], log_mass[0, 0, : query.shape[2]]  # rows are padded to a multiple of 32


def _cut_cross_entropy(query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
    """Its loss with key 0 as the label of all gives the queue's mass, and the positive joins it.

    filter_eps None: by default it leaves out gradients of keys whose softmax is below about 2^-12,
    which among 65,536 keys is nearly all of them.
    """
    if not query.is_cuda:
        raise NotInstalled("its kernels need a GPU")
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError as error:
        raise NotInstalled("not installed: pip install cut-cross-entropy==25.1.1") from error
    return _cut(linear_cross_entropy, query, key, queue, filter_eps=None)


def _cut(linear_cross_entropy, query: Tensor, key: Tensor, queue: Tensor, **options) -> Tensor:
    scaled = query / TEMPERATURE
    label = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    loss = linear_cross_entropy(scaled, queue, label, reduction="none", **options).float()
    log_mass = loss + (scaled * queue[0]).sum(dim=1, dtype=torch.float32)
    positive = (scaled * key).sum(dim=1, dtype=torch.float32)
    return F.softplus(log_mass - positive).mean()


def _exact(query: Tensor, key: Tensor, queue: Tensor) -> tuple[Tensor, Tensor]:
    """By the eager form in float64, some queries at a time."""
    count, wide = len(query), queue.double()
    rows = max(1, EXACT_LOGITS // len(queue))
    parts = []
    for some, their_keys in zip(query.double().split(rows), key.double().split(rows), strict=True):
        work = with_gradients(partial(eager, temperature=TEMPERATURE), [some], their_keys, wide)
        loss, gradient = work()
        parts.append((loss * len(some) / count, gradient * len(some) / count))
    losses, gradients = zip(*parts, strict=True)
    return torch.stack(losses).sum(), torch.cat(gradients)


def _leave_out(made: Problem, logits: int, device: str, dtype: torch.dtype) -> None:
    """Sides that would not fit the memory, or of which half the time would be swapping."""
    free = free_bytes(device)
    for name, arrays in ARRAYS.items():
        needed = arrays * logits * 4
        if needed > 0.9 * free:
            del made.works[name]
            made.left_out[name] = f"needs about {needed / 1e9:.0f} GB, {free / 1e9:.0f} GB are free"
