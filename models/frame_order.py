"""Are these frames in their order? A task without labels for a tuple of frames of one video.

Source: Kuang et al., "Video Contrastive Learning with Global Context", ICCVW 2021 (arXiv
2108.02722), and its released code; where summaries of the paper and the code differ, an option
names both.
"""

from __future__ import annotations

from itertools import permutations
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# B tuples, S frames of each, D dimensions

OrderLabel = Literal["joint", "binary"]
OrderNorm = Literal["feature", "frame"]
MOST_FRAMES = 8  # 8! orders are a table of 2.6 MB, 10! one of 290


def shuffles(frames: int, *, reverse_is_order: bool) -> Tensor:
    """All orders [N, frames] that count as shuffled, int64; N = 0 where there are none.

    All but the forward order, and with `reverse_is_order` but the backward one: 4 of 6 for three.
    """
    # Lexicographic, so the first is the forward order and the last the backward one.
    orders = list(permutations(range(frames)))
    shuffled = orders[1 : -1 if reverse_is_order else None]
    return torch.tensor(shuffled, dtype=torch.int64).view(-1, frames)


def check_frames(frames: int, *, reverse_is_order: bool) -> None:
    """Raises ValueError where tuples of `frames` cannot be shuffled."""
    least = 3 if reverse_is_order else 2
    if not least <= frames <= MOST_FRAMES:
        why = "with reverse_is_order " if reverse_is_order and frames == 2 else ""
        raise ValueError(
            f"segments: {frames} {why}cannot be told from shuffled; take {least} to {MOST_FRAMES} "
            "or order_weight: 0"
        )


def normalised(embedding: Tensor, norm: OrderNorm) -> Tensor:
    """[B, S, D] of unit length: every embedding ("feature"), or every channel over the frames."""
    wide = torch.promote_types(embedding.dtype, torch.float32)
    return F.normalize(embedding.to(wide), dim=2 if norm == "feature" else 1)


class FrameOrder(nn.Module):
    """Classifier of which tuples were shuffled, from the embeddings of their frames.

    joint: W [o^q ; o^k] to four classes, 0 neither, 1 the query tuple, 2 the key tuple, 3 both
    (code). binary: W o^q to two, in order or not. Every tuple is shuffled with probability 1/2, to
    an order that is uniform over `shuffles`, drawn from torch's generator of the device.

    W is a linear map (code), a sum over frames: of embeddings normalised one by one it sees what
    says when a frame was, not what changes between frames. `hidden` units of a layer with ReLU
    before it, or channels normalised over the frames, let it compare them.
    """

    def __init__(
        self,
        frames: int,
        dim: int,
        *,
        label: OrderLabel = "joint",
        reverse_is_order: bool = True,
        hidden: int = 0,
    ):
        super().__init__()
        check_frames(frames, reverse_is_order=reverse_is_order)
        table = shuffles(frames, reverse_is_order=reverse_is_order)
        self.register_buffer("table", table, persistent=False)  # [N, S]
        tuples = 2 if label == "joint" else 1
        inputs, classes = tuples * frames * dim, 2**tuples
        self.classifier: nn.Module = nn.Linear(inputs, classes)
        if hidden:
            layers = nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, classes)
            self.classifier = nn.Sequential(*layers)

    def draw(self, batch: int) -> tuple[Tensor, Tensor]:
        """New orders [B, S] int64, and which of them are shuffled, [B] bool."""
        device = self.table.device
        shuffled = torch.rand(batch, device=device) < 0.5
        chosen = self.table[torch.randint(len(self.table), (batch,), device=device)]
        forward = torch.arange(self.table.shape[1], device=device)
        return torch.where(shuffled[:, None], chosen, forward), shuffled

    def forward(self, *tuples: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the true label, and the share of tuples that are classified right.

        tuples: normalised embeddings [B, S, D] in time order, of the query and, if joint, the key.
        """
        seen, label = [], 0
        for number, embeddings in enumerate(tuples):
            order, shuffled = self.draw(len(embeddings))
            seen.append(embeddings.take_along_dim(order[:, :, None], dim=1).flatten(1))
            label = label + shuffled.long() * 2**number
        logits = self.classifier(torch.cat(seen, dim=1))
        loss = F.cross_entropy(logits.to(seen[0].dtype), label)
        return loss, (logits.detach().argmax(dim=1) == label).float().mean()
