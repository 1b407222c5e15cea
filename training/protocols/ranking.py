"""Which videos of a gallery are nearest to a query: one order for every protocol."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_VALUES = 2**25  # similarities held at once, 256 MB


def ranked(query: Tensor, gallery: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Similarities and rows of the k gallery vectors [G, D] nearest to each query [Q, D].

    Both [Q, k], best first; the similarity is the dot product in float64, of equal ones the first
    row of the gallery comes first.
    """
    gallery = gallery.double()
    chunks = query.double().split(max(1, CHUNK_VALUES // max(1, len(gallery))))
    values, rows = zip(*(_best(part @ gallery.T, k) for part in chunks), strict=True)
    return torch.cat(values), torch.cat(rows)


def nearest(query: Tensor, gallery: Tensor, k: int) -> Tensor:
    """The rows of `ranked` alone."""
    return ranked(query, gallery, k)[1]


def place_of(score: Tensor, label: Tensor) -> Tensor:
    """[n] the place from 0 of each label among its scores [n, classes], in the order of `ranked`.

    So equal scores never make a class right by chance: a higher class waits behind a lower one. A
    score that is no number is behind all.
    """
    own = score.gather(1, label[:, None])
    later = torch.arange(score.shape[1], device=score.device) >= label[:, None]
    behind = (score < own) | ((score == own) & later)
    return (~behind).sum(1)


def _best(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`topk`, but stable: sorting all is slow, so it is kept for rows where the k-th has equals."""
    values, rows = similarity.topk(k)
    rows = rows.sort(dim=1).values
    values, order = similarity.gather(1, rows).sort(dim=1, descending=True, stable=True)
    rows = rows.gather(1, order)
    tied = (similarity >= values[:, -1:]).sum(1) > k
    if tied.any():
        all_values, all_rows = similarity[tied].sort(dim=1, descending=True, stable=True)
        values[tied], rows[tied] = all_values[:, :k], all_rows[:, :k]
    return values, rows
