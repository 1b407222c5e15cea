"""VideoMoCo: momentum contrast whose queries lose the frames that matter most.

Source: Pan et al., "VideoMoCo: Contrastive Video Representation Learning with Temporally
Adversarial Examples", CVPR 2021 (arXiv 2103.05905). Where paper and released code
(github.com/tinapan-pt/VideoMoCo) disagree, an option names both.

With generator "none" and decay 1 this is MoCo v1 (`mlp` False) or v2 (`mlp` True) on clips, which
is also the first half of the published training.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.diagnostics import contrast_figures, feature_std
from models.frame_drop import Content, Estimator, drop_frames, frames_to_drop
from models.gather import gather, world_size
from models.generator import FrameScorer
from models.heads import projection_head, unit
from models.keys import KeySide, Protection, check_groups
from models.methods._method import Method, Objective, ViewNeeds, check_choices, check_counts
from models.momentum import momentum_twin, momentum_update
from models.ops import info_nce
from models.queue import FeatureQueue

# B clips, T frames, D embedding dimensions, K queue slots


@dataclass(frozen=True)
class Config:
    """Options of VideoMoCo. "code" is the released code at 42e069a."""

    dim: int = 128  # embedding; MoCo, section 3.3
    queue_size: int = 65_536  # K; MoCo, table 1 and code
    # How keys are stored; bfloat16 halves the queue and lets a GPU multiply in it. Code: float32.
    queue_dtype: Literal["float32", "bfloat16"] = "float32"
    momentum: float = 0.999  # of the key encoder; MoCo, section 4.1 and code
    temperature: float = 0.07  # MoCo, section 3.3 and code
    mlp: bool = False  # two-layer head; MoCo v2. Off in VideoMoCo's README
    generator: Literal["adversarial", "random", "none"] = "adversarial"  # none: epochs 0-99, README
    drop_fraction: float = 0.25  # 8 of 32 frames; code
    drop_content: Content = "mean"  # of the dropped frame over (C, H, W); code
    estimator: Estimator = "ste"  # gradient through the choice; official: code
    decay: float = 0.99999  # t of the temporal decay, 1 is off; paper, section 3.3, and code
    # Exponent of the decay. key: position in the queue, as the paper is quoted (oldest of 65,536:
    # 0.519). step: optimiser steps, the code (batch 32: 0.980).
    decay_unit: Literal["key", "step"] = "key"
    exclude_same_video: bool = True  # not in the code: an earlier key of the video as a negative
    generator_weight: float = 100.0  # of the generator's loss; code
    # The contrastive loss also moves the generator, against the paper's objective; code.
    generator_sees_loss: bool = False
    # How a query's batch statistics are kept from its key's; code: shuffled over ranks, for which
    # `exchange` is the cheap equal. split: any number of devices. plain: no protection.
    key_batch_norm: Protection = "split"
    split_groups: int = 8  # MoCo trained on 8 GPUs, so 8 sets of statistics per batch
    seed: int = 0  # of the queue's random first keys

    def __post_init__(self) -> None:
        check_choices(self)
        check_counts(self, "dim")
        for name, above in (("momentum", 0.0), ("decay", 0.0), ("drop_fraction", 0.0)):
            value = getattr(self, name)
            if not above < value <= 1:
                raise ValueError(f"{name}: {value} is outside (0, 1]")
        if not self.temperature > 0:
            raise ValueError(f"temperature: {self.temperature} must be above 0; 0.07 in the paper")
        check_groups(self.split_groups)


def build(backbone: nn.Module, config: Config, *, frames: int, size: tuple[int, int]) -> VideoMoCo:
    """The method around `backbone`, for clips [B, 3, frames, *size]."""
    return VideoMoCo(backbone, config, frames=frames, size=size)


class VideoMoCo(Method):
    """Query encoder, its momentum twin, a queue of keys and, if adversarial, the generator.

    With x' the query clip less the frames that the generator G chose, q = E(x'), r = E(x),
    k = twin(view 1), all of unit length, Q_j the queue with ages a_j:

        L_D = InfoNCE(q, k, Q weighted by decay ** a_j)      moves encoder and head
        L_G = -generator_weight * mean_(b, d) |q - r|        moves the generator

    Both are derivatives at the same weights: the loop steps after the second.
    """

    optional = ("generator.",)

    def __init__(self, backbone: nn.Module, config: Config, *, frames: int, size: tuple[int, int]):
        super().__init__()
        self.config = config
        self.key_side = KeySide(config.key_batch_norm, config.split_groups)
        self.views = ViewNeeds(2, exchanged=(1,) if self.key_side.exchanges else ())
        self.query = self._query_encoder(backbone)
        self.key = momentum_twin(self.query)
        dtype = getattr(torch, config.queue_dtype)
        self.queue = FeatureQueue(config.queue_size, config.dim, seed=config.seed, dtype=dtype)
        self.generator: nn.Module | None = None
        if config.generator == "adversarial":
            self.generator = FrameScorer(frames=frames, size=size)
        self.dropped_frames = frames_to_drop(frames, config.drop_fraction)
        if config.generator != "none" and self.dropped_frames >= frames:
            raise ValueError(
                f"drop_fraction: {config.drop_fraction} of {frames} frames leaves none; "
                "lower it, take longer clips or set generator: none"
            )
        self._pending: tuple[Tensor, Tensor] | None = None  # keys and ids for after_step

    def _query_encoder(self, backbone: nn.Module) -> nn.Module:
        config = self.config
        head = projection_head(backbone.feature_dim, config.dim, mlp=config.mlp)
        encoder = nn.Sequential(OrderedDict(backbone=backbone, head=head))
        return self.key_side.convert(encoder)

    def encoder(self) -> nn.Module:
        return self.query.backbone

    def heads(self) -> list[nn.Module]:
        return [self.query.head, self.key.head]

    def check_ranks(self, world: int, device: str) -> None:
        self.key_side.check(world, device)

    def forward(
        self,
        views: tuple[Tensor, ...],
        flow: tuple[Tensor, ...] | None,
        index: Tensor,
        start_frames: Tensor | None = None,
    ) -> tuple[list[Objective], dict[str, Tensor]]:
        clip, key_clip = views
        self.check_ranks(world_size(), clip.device.type)
        real = None
        if self.generator is not None:
            # Before the dropped clip, as in the code: the order of the running statistics. It is
            # the constant of L_G, so it needs no graph.
            with torch.no_grad():
                real = unit(self.query(clip))  # [B, D]
        query = unit(self.query(self._drop(clip)))  # [B, D]
        ids = gather(index)
        key, keys = self.key_side.keys(lambda clips: unit(self.key(clips)), key_clip)
        self.queue.check_holds(len(keys))
        self._pending = keys, ids
        loss = self._contrast(query, key, index)
        objectives = [Objective(loss, self._encoder_moves())]
        scalars = {"loss": loss.detach(), **self._figures(query.detach(), key)}
        if real is not None:
            distance = (query - real).abs().mean()
            loss_generator = -self.config.generator_weight * distance
            objectives.insert(0, Objective(loss_generator, list(self.generator.parameters())))
            scalars["loss_generator"] = loss_generator.detach()
            scalars["drop_distance"] = distance.detach()
        return objectives, scalars

    @torch.no_grad()
    def after_step(self) -> None:
        assert self._pending is not None, "after_step without a forward before it"
        momentum_update(self.key, self.query, momentum=self.config.momentum)
        self.queue.enqueue(*self._pending)
        self._pending = None

    def _encoder_moves(self) -> list[nn.Parameter]:
        moves = list(self.query.parameters())
        if self.generator is not None and self.config.generator_sees_loss:
            moves += self.generator.parameters()
        return moves

    def _drop(self, clip: Tensor) -> Tensor:
        config = self.config
        if config.generator == "none":
            return clip
        if self.generator is not None:
            scores = self.generator(clip)
        else:
            scores = torch.rand(clip.shape[0], clip.shape[2], device=clip.device)
        return drop_frames(
            clip,
            scores,
            self.dropped_frames,
            content=config.drop_content,
            estimator=config.estimator,
        )

    def _contrast(self, query: Tensor, key: Tensor, index: Tensor) -> Tensor:
        config, queue = self.config, self.queue
        query_id, queue_id = (index, queue.ids) if config.exclude_same_video else (None, None)
        return info_nce(
            query,
            key,
            queue.keys,
            config.temperature,
            query_id=query_id,
            queue_id=queue_id,
            age=None if config.decay == 1 else queue.ages(unit=config.decay_unit),
            decay=config.decay,
            unit=True,
        )

    def _figures(self, query: Tensor, key: Tensor) -> dict[str, Tensor]:
        return {
            **contrast_figures(query, key, self.queue.keys),
            "feature_std": feature_std(query),
            **self.queue.age_figures(),
        }
