"""NT-Xent in plain torch, a tile of logits at a time, and the eager form it is measured by."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.ops.reference.info_nce import TILE_KEYS, TILE_QUERIES

# R = 2 N rows, one view of N videos and then the other; K candidates, D dimensions. Logits and
# masses are logarithms to base 2: exp2 is torch's faster exponential.


@torch.no_grad()
def nt_xent(
    rows: Tensor, candidates: Tensor, first_row: int, temperature: float, shift: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss [], log2 of the mass of each row's negatives [R], share of them in its softmax [R]).

    rows: [R, D], which are also candidates[first_row : first_row + R]. A row's negatives are all
    candidates but itself and its positive, the other view. shift: subtract the largest logit
    before the exponential. Without it, exp2(logit) must be a float32.
    """
    rows, candidates = _wide(rows), _wide(candidates)
    log_mass = rows.new_full((len(rows),), -torch.inf)
    for tile in _tiles(rows, candidates, first_row, temperature):
        tile.leave_out(tile.logit, -torch.inf)
        mass = log_mass[tile.rows]
        mass.copy_(torch.logaddexp2(mass, _log_mass(tile.logit, shift)))
    positive = (rows * _positives(rows)).sum(dim=1) / temperature
    lead = log_mass * math.log(2) - positive  # of the negatives over the positive
    loss = torch.logaddexp(lead, lead.new_zeros(())).mean()
    return loss, log_mass, torch.sigmoid(lead)


@torch.no_grad()
def gradient(
    rows: Tensor,
    candidates: Tensor,
    log_mass: Tensor,
    pull: Tensor,
    first_row: int,
    temperature: float,
    shift: bool = True,
) -> Tensor:
    """What all candidates' losses together give to rows [R, D] as gradient.

    log_mass, pull: [K], of every candidate the mass of its negatives, and its share of negatives
    times d loss / d logit, the logit not to base 2 here. With e_ij = exp2(logit_ij - log_mass_i),

        d loss / d z_i = sum_j (pull_i e_ij + pull_j e_ji) z_j - (pull_i + pull_+) z_+

    over the negatives j and the positive of row i: a logit of two rows is in both their losses.
    Without `shift` one exponential is enough: exp2(logit_ij) (pull_i / mass_i + pull_j / mass_j).
    """
    rows, candidates = _wide(rows), _wide(candidates)
    own = slice(first_row, first_row + len(rows))
    own_mass, own_pull = log_mass[own, None], pull[own, None]
    per_mass = pull * torch.exp2(-log_mass)
    own_per_mass = per_mass[own, None]
    by_rows = -(own_pull + _positives(own_pull)) * _positives(rows)
    for tile in _tiles(rows, candidates, first_row, temperature):
        if shift:
            e = torch.exp2(tile.logit - own_mass[tile.rows]).mul_(own_pull[tile.rows])
            e += tile.logit.sub_(log_mass[tile.keys]).exp2_().mul_(pull[tile.keys])
        else:
            e = own_per_mass[tile.rows] + per_mass[tile.keys]
            e *= tile.logit.exp2_()
        # A logit that is in no mass may be far above it: infinite, or infinity times 0.
        tile.leave_out(e, 0)
        by_rows[tile.rows].addmm_(e, candidates[tile.keys])
    return by_rows


@dataclass(frozen=True)
class _Tile:
    """logit [rows, keys], of rows of one view."""

    rows: slice
    keys: slice
    own: int  # the diagonal where rows meet themselves, and where their positives
    positive: int
    logit: Tensor

    def leave_out(self, tile: Tensor, value: float) -> None:
        """Sets `value` in the place of every row itself and of its positive."""
        for diagonal in (self.own, self.positive):
            if -tile.shape[0] < diagonal < tile.shape[1]:
                tile.diagonal(diagonal).fill_(value)


def _tiles(rows: Tensor, candidates: Tensor, first_row: int, temperature: float) -> Iterator[_Tile]:
    scaled = rows * (math.log2(math.e) / temperature)
    views = len(rows) // 2
    logit = rows.new_empty(min(views, TILE_QUERIES) * min(len(candidates), TILE_KEYS))
    for keys in _slices(0, len(candidates), TILE_KEYS):
        for view, to_positive in ((0, views), (views, -views)):
            for part in _slices(view, view + views, TILE_QUERIES):
                shape = part.stop - part.start, keys.stop - keys.start
                tile = logit[: math.prod(shape)].view(shape)
                # Autocast would round them to 8 bits of mantissa, but leaves out= alone.
                torch.mm(scaled[part], candidates[keys].T, out=tile)
                own = first_row + part.start - keys.start
                yield _Tile(part, keys, own, own + to_positive, tile)


def _log_mass(logit: Tensor, shift: bool) -> Tensor:
    """log2 sum_j exp2(logit_ij), [rows]; overwrites `logit`."""
    if not shift:
        return logit.exp2_().sum(dim=1).log2_()
    peak = logit.amax(dim=1)
    # A row without negatives keeps -inf, and -inf - -inf is no number.
    base = peak.masked_fill_(peak == -torch.inf, 0)
    return logit.sub_(base[:, None]).exp2_().sum(dim=1).log2_().add_(base)


def _positives(rows: Tensor) -> Tensor:
    """Of every row that of the other view."""
    return rows.roll(len(rows) // 2, dims=0)


def _wide(rows: Tensor) -> Tensor:
    return rows.to(torch.promote_types(rows.dtype, torch.float32))


def _slices(first: int, end: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, end)) for start in range(first, end, size))


def eager(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """The mean loss of one process as it is usually written: [2 N, 2 N] logits and a cross-entropy.

    What the op is measured by, in speed, memory and precision.
    """
    rows = torch.cat([first, second])
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    logits = (rows @ rows.T / temperature).masked_fill(itself, -torch.inf)
    positive = torch.arange(len(rows), device=rows.device).roll(len(first))
    return F.cross_entropy(logits, positive)
