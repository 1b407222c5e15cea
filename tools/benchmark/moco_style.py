"""The loop that MoCo and VideoMoCo were published with, written anew: what ours is measured by.

Its habits: tensors in NCDHW, logits in memory, one Python turn for every parameter of the momentum
encoder, a queue whose position is a Python int, the loss read by the host in every step, a step of
the optimiser for each network, and the adversarial loss pulled through the encoder's own weights.

Where the published programs are slower still it does not follow them: batches are not shuffled
among processes, frames are dropped by our own code and not in a loop over clips and frames, and
autograd's anomaly mode is off.

Source: He et al., CVPR 2020 (arXiv 1911.05722), algorithm 1; Pan et al., CVPR 2021
(arXiv 2103.05905).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.frame_drop import drop_frames

# B clips, K queue slots, D dimensions


class Queue:
    """Keys, the numbers of their videos and their ages in steps, as VideoMoCo counts them."""

    def __init__(self, keys: Tensor, ids: Tensor):
        self.keys, self.ids = keys, ids  # [K, D], [K] int64
        self.ages = torch.zeros_like(ids)
        self.position = torch.zeros(1, dtype=torch.int64, device=keys.device)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, ids: Tensor) -> None:
        """Writes keys [B, D] of videos ids [B]; K has to be a multiple of B, as MoCo asserts."""
        first, batch = int(self.position), len(keys)
        assert len(self.keys) % batch == 0, f"{len(self.keys)} slots, batches of {batch}"
        self.keys[first : first + batch] = keys
        self.ids[first : first + batch] = ids
        self.ages += 1
        self.ages[first : first + batch] = 1
        self.position[0] = (first + batch) % len(self.keys)


@torch.no_grad()
def momentum_loop(twin: Sequence[Tensor], source: Sequence[Tensor], momentum: float) -> None:
    """The moving average, one parameter after the other."""
    for slow, fast in zip(twin, source, strict=True):
        slow.data = slow.data * momentum + fast.data * (1.0 - momentum)


class MocoStyle:
    """The networks, their optimisers and one step of them.

    generator: of the frames' scores, or None for plain MoCo. The networks are copied.
    """

    def __init__(
        self,
        encoder: nn.Module,
        generator: nn.Module | None,
        queue: Queue,
        *,
        temperature: float,
        momentum: float,
        decay: float,
        dropped_frames: int,
        lr: float,
        autocast: torch.autocast,
    ):
        self.query, self.generator = deepcopy(encoder), deepcopy(generator)
        self.key = deepcopy(encoder).requires_grad_(False)
        self.queue = queue
        self.temperature, self.momentum, self.decay = temperature, momentum, decay
        self.dropped_frames = dropped_frames
        self.autocast = autocast
        nets = [net for net in (self.query, self.generator) if net is not None]
        self.optimizers = [
            torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
            for net in nets
        ]

    def networks(self) -> list[nn.Module]:
        return [net for net in (self.query, self.key, self.generator) if net is not None]

    def step(self, clip: Tensor, key_clip: Tensor, index: Tensor) -> float:
        """The contrastive loss, on the host."""
        with self.autocast:
            query, real = self._queries(clip)
            logits = self._logits(query, key_clip, index)
            label = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
            loss = F.cross_entropy(logits, label)
        accuracy = _accuracy(logits, label)
        if real is None:
            self.optimizers[0].zero_grad()
            loss.backward()
        else:
            self._backward_both(loss, -100.0 * F.l1_loss(query, real))
        for optimizer in self.optimizers:
            optimizer.step()
        del accuracy  # printed every so many steps
        return loss.item()

    def _queries(self, clip: Tensor) -> tuple[Tensor, Tensor | None]:
        """q [B, D] of the clip, or of the clip less its dropped frames and then of the whole."""
        if self.generator is None:
            return F.normalize(self.query(clip).float(), dim=1), None
        real = F.normalize(self.query(clip).float(), dim=1)
        dropped = drop_frames(clip, self.generator(clip), self.dropped_frames)
        return F.normalize(self.query(dropped).float(), dim=1), real

    def _logits(self, query: Tensor, key_clip: Tensor, index: Tensor) -> Tensor:
        """[B, 1 + K]; moves the momentum encoder and the queue on."""
        with torch.no_grad():
            momentum_loop(list(self.key.parameters()), list(self.query.parameters()), self.momentum)
            key = F.normalize(self.key(key_clip).float(), dim=1)
        positive = torch.einsum("bd,bd->b", query, key)[:, None]
        negative = torch.einsum("bd,kd->bk", query, self._negatives())
        logits = torch.cat([positive, negative], dim=1) / self.temperature
        self.queue.enqueue(key, index)
        return logits

    def _negatives(self) -> Tensor:
        keys = self.queue.keys.clone().detach()
        if self.decay == 1:
            return keys
        return keys * (self.decay ** self.queue.ages.float())[:, None]

    def _backward_both(self, loss: Tensor, loss_generator: Tensor) -> None:
        """As in the published code: each loss goes through everything, then half is cleared."""
        of_query, of_generator = self.optimizers
        of_generator.zero_grad()
        loss_generator.backward(retain_graph=True)
        of_query.zero_grad()
        loss.backward()


@torch.no_grad()
def _accuracy(logits: Tensor, label: Tensor, *, top: tuple[int, ...] = (1, 5)) -> list[Tensor]:
    """Shares of queries whose key is among the nearest, by sorting all logits."""
    ranked = logits.topk(max(top), dim=1).indices
    hits = ranked.eq(label[:, None])
    return [hits[:, :k].any(dim=1).float().mean() for k in top]
