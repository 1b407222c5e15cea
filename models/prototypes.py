"""Prototypes: directions that embeddings are shared out among evenly, in place of negatives.

Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments" (SwAV), NeurIPS 2020 (arXiv 2006.09882), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ops import sinkhorn

# B embeddings of this rank, R rows of a queue, P prototypes, D dimensions


class Prototypes(nn.ParameterList):
    """Sets of unit vectors [P, D], each a clustering of its own; as drawn, even over the sphere."""

    def __init__(self, counts: Sequence[int], dim: int):
        super().__init__(nn.Parameter(torch.randn(count, dim)) for count in counts)
        self.normalise()

    @torch.no_grad()
    def normalise(self) -> None:
        """Back to unit length, in place; after each optimiser step."""
        for vectors in self:
            vectors.copy_(F.normalize(vectors, dim=1))


@torch.no_grad()
def assign(
    embedding: Tensor,
    prototypes: Tensor,
    queue: Tensor | None = None,
    *,
    epsilon: float,
    iterations: int,
) -> Tensor:
    """Soft assignment [B, P] of embedding [B, D] to prototypes [P, D], all of unit length.

    queue: [R, D], older embeddings that take their share of the prototypes, scored anew by those
    of now. Over the rows of all ranks; see `models.ops.sinkhorn`, whose errors it raises.
    """
    # Autocast would round the scores to 8 bits, and epsilon magnifies them twentyfold.
    with torch.autocast(embedding.device.type, enabled=False):
        directions = prototypes.to(embedding.dtype).T
        scores = embedding @ directions
        of_queue = None if queue is None else queue.to(embedding.dtype) @ directions
    return sinkhorn(scores, epsilon=epsilon, iterations=iterations, queue_scores=of_queue)
