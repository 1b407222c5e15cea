"""InfoNCE of queries against their keys and a queue of negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from models.ops import reference


# B queries, K queued keys, D dimensions
def info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float,
    weight: Tensor | None = None,
    query_id: Tensor | None = None,
    queue_id: Tensor | None = None,
) -> Tensor:
    """The contrastive loss of MoCo with weighted negatives, averaged over the batch.

        l+_i  = q_i . k_i / t
        l-_ij = w_j (q_i . Q_j) / t       left out where query_id_i == queue_id_j != -1
        loss  = mean_i [ log( exp l+_i + sum_j exp l-_ij ) - l+_i ]

    query, key: [B, D]. queue: [K, D]. weight: [K], multiplies the similarity, so that 0 makes a
    negative neutral and does not remove it (VideoMoCo's temporal decay). query_id [B] and
    queue_id [K]: int64, given together; -1 matches nothing. No gradient goes to queue, weight or
    ids. Inputs below float32 are raised to it first, also under autocast. Returns a scalar.

    Raises ValueError where shapes do not fit, or one of the ids is given alone.

    Source: He et al., CVPR 2020 (arXiv 1911.05722), equation 1.
    """
    if query.shape != key.shape or query.ndim != 2 or queue.shape[1:] != query.shape[1:]:
        raise ValueError(
            f"info_nce: query {list(query.shape)}, key {list(key.shape)} and queue "
            f"{list(queue.shape)} do not fit; expected [B, D], [B, D] and [K, D]"
        )
    if (query_id is None) != (queue_id is None):
        raise ValueError("info_nce: query_id and queue_id belong together; give both or neither")
    # Autocast would round the similarities to 8 bits of mantissa before they are divided by t.
    with torch.autocast(query.device.type, enabled=False):
        return reference.info_nce(query, key, queue, temperature, weight, query_id, queue_id)
