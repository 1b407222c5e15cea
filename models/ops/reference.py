"""Every op as its equation in plain torch: what runs on a CPU, and the baseline of a fused one."""

from __future__ import annotations

import torch
from torch import Tensor


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float,
    weight: Tensor | None,
    query_id: Tensor | None,
    queue_id: Tensor | None,
) -> Tensor:
    """See `models.ops.info_nce`; holds the [B, K] similarities."""
    query, key = _at_least_float32(query), _at_least_float32(key)
    queue = queue.detach().to(query.dtype)
    positive = (query * key).sum(dim=1) / temperature  # [B]
    negative = query @ queue.T  # [B, K]
    if weight is not None:
        negative = negative * weight.detach().to(query.dtype)
    negative = negative / temperature
    if query_id is not None:
        same_video = (query_id[:, None] == queue_id) & (queue_id != -1)
        negative = negative.masked_fill(same_video, -torch.inf)
    total = torch.logsumexp(torch.cat([positive[:, None], negative], dim=1), dim=1)
    return (total - positive).mean()
