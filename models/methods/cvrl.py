"""CVRL: two clips of a video find each other among those of all videos of the batch.

Source: Qian et al., "Spatiotemporal Contrastive Video Representation Learning", CVPR 2021 (arXiv
2008.03800). "code" is its release in TensorFlow's models (official/projects/video_ssl); the
paper's own text could not be checked. How far apart the two clips are is `clip.sampling: interval`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.batchnorm import check_sync, sync_batch_norm
from models.diagnostics import feature_std, pair_figures
from models.gather import world_size
from models.heads import batch_norm_head, unit
from models.methods._method import Method, Objective, ViewNeeds, check_choices, check_counts
from models.ops import nt_xent

# B videos, T frames, D embedding dimensions

MOST_HIDDEN_LAYERS = 3


@dataclass(frozen=True)
class Config:
    """Options of CVRL."""

    dim: int = 128  # embedding; code
    hidden_layers: int = 3  # of the head, 0 to 3; code
    hidden_dim: int = 2048  # code
    temperature: float = 0.1  # code
    # sum_of_views: the loss of the first views plus that of the second; code. mean: half of it,
    # as in SimCLR. It is a factor 2 of the learning rate for sgd, and none for lars and adamw.
    reduction: Literal["sum_of_views", "mean"] = "sum_of_views"
    # sync: batch statistics of all ranks, in encoder and head; code. plain: of each rank's clips,
    # by which the two views of a video could be told from the other ranks'.
    batch_norm: Literal["sync", "plain"] = "sync"

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.hidden_layers <= MOST_HIDDEN_LAYERS:
            raise ValueError(
                f"hidden_layers: {self.hidden_layers} is outside 0 to {MOST_HIDDEN_LAYERS}; "
                "3 in the code"
            )
        check_counts(self, "dim", "hidden_dim")
        if not self.temperature > 0:
            raise ValueError(f"temperature: {self.temperature} must be above 0; 0.1 in the code")


def build(backbone: nn.Module, config: Config, *, frames: int, size: tuple[int, int]) -> CVRL:
    """The method around `backbone`, for clips [B, 3, frames, *size]."""
    return CVRL(backbone, config)


class CVRL(Method):
    """Backbone and projection head; no momentum twin, no queue, no state but theirs.

    With z = head(backbone(clip)) of unit length, of both views of all videos of all ranks:

        L = NT-Xent(z, temperature)      moves backbone and head

    Both views go through in one batch, as in the code, so batch norms see them together.
    """

    views = ViewNeeds(2)

    def __init__(self, backbone: nn.Module, config: Config):
        super().__init__()
        self.config = config
        head = batch_norm_head(
            backbone.feature_dim,
            config.dim,
            hidden_layers=config.hidden_layers,
            hidden_dim=config.hidden_dim,
        )
        sync = config.batch_norm == "sync"
        self.backbone = sync_batch_norm(backbone) if sync else backbone
        self.head = sync_batch_norm(head) if sync else head

    def encoder(self) -> nn.Module:
        return self.backbone

    def heads(self) -> list[nn.Module]:
        return [self.head]

    def check_ranks(self, world: int, device: str) -> None:
        if self.config.batch_norm == "sync":
            check_sync("method.batch_norm", world, device, instead="plain")

    def forward(
        self,
        views: tuple[Tensor, ...],
        flow: tuple[Tensor, ...] | None,
        index: Tensor,
        start_frames: Tensor | None = None,
    ) -> tuple[list[Objective], dict[str, Tensor]]:
        config, clips = self.config, torch.cat(views)
        self.check_ranks(world_size(), clips.device.type)
        first, second = unit(self.head(self.backbone(clips))).chunk(2)  # [B, D] each
        loss = nt_xent(first, second, config.temperature, reduction=config.reduction, unit=True)
        figures = pair_figures(first.detach(), second.detach())
        spread = feature_std(first.detach())
        scalars = {"loss": loss.detach(), **figures, "feature_std": spread}
        return [Objective(loss, list(self.parameters()))], scalars
