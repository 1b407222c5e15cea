"""VCLR: momentum contrast of frames, of frame tuples that stand for a video, and of their order.

Source: Kuang et al., "Video Contrastive Learning with Global Context", ICCVW 2021 (arXiv
2108.02722). Where summaries of the paper and the released code
(github.com/amazon-science/video-contrastive-learning) disagree, an option names both.

A video is cut into S segments, each shown to the query and to the key by a frame of its own. With
`clip.frames` above 1 every "frame" here is a clip, and any video backbone will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.diagnostics import contrast_figures, feature_std
from models.frame_order import FrameOrder, OrderLabel, OrderNorm, check_frames, normalised
from models.gather import gather, world_size
from models.heads import projection_head, unit
from models.keys import KeySide, Protection, check_groups
from models.methods._method import Method, Objective, ViewNeeds, check_choices, check_counts
from models.momentum import momentum_twin, momentum_update
from models.ops import info_nce
from models.queue import FeatureQueue

# B videos, S segments, T frames of a clip (1: the paper's), D embedding dimensions, K queue slots

LOSSES = ("inter", "intra", "segment", "order")


@dataclass(frozen=True)
class Config:
    """Options of VCLR. "code" is the released code at 4fb66c3."""

    segments: int = 3  # S, the same as clip.segments; code
    dim: int = 128  # embedding of each of the four heads; code
    queue_size: int = 131_072  # K of each of the two queues; code
    # How keys are stored; bfloat16 halves the queues and lets a GPU multiply in it. Code: float32.
    queue_dtype: Literal["float32", "bfloat16"] = "float32"
    momentum: float = 0.999  # of the key encoder; code
    temperature: float = 0.1  # of the inter and the segment loss; code
    intra_temperature: float = 0.1  # code
    mlp: bool = True  # two-layer heads; code, --model_mlp
    # Weights of the losses, 1 in the code. A loss of weight 0 is not computed: its head, its queue
    # and the frames that it alone needs are left out.
    inter_weight: float = 1.0
    intra_weight: float = 1.0
    segment_weight: float = 1.0
    order_weight: float = 1.0
    # joint: which of the two tuples are shuffled, in four classes; code. binary: whether the
    # query's is, as summaries of the paper say (its text could not be checked).
    order_label: OrderLabel = "joint"
    # Axis of the order embeddings' unit length. feature: each embedding, as in the other losses.
    # frame: each channel over the frames; code, where it alone lets W compare frames: FrameOrder.
    order_norm: OrderNorm = "feature"
    order_hidden: int = 0  # units between the order embeddings and W; code: none
    reverse_is_order: bool = True  # a tuple backwards counts as in order; code
    # apart: x^q, the key of each frame and each tuple are batches of their own, with their own
    # batch statistics; code. together: one batch a side, where x^q needs no second encoding.
    batches: Literal["apart", "together"] = "apart"
    exclude_same_video: bool = True  # not in the code: an earlier key of the video as a negative
    # How a query's batch statistics are kept from its key's; code: shuffled over ranks, for which
    # `exchange` is the cheap equal. split: any number of devices. plain: no protection.
    key_batch_norm: Protection = "split"
    split_groups: int = 8  # the code trained on 8 GPUs, so 8 sets of statistics per batch
    seed: int = 0  # of the queues' random first keys

    def __post_init__(self) -> None:
        check_choices(self)
        if self.segments < 1:
            raise ValueError(f"segments: {self.segments} must be 1 or more; 3 in the code")
        check_counts(self, "dim")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum: {self.momentum} is outside (0, 1]")
        for name in ("temperature", "intra_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be above 0; 0.1 in the code")
        for loss in LOSSES:
            if not self.weight(loss) >= 0:
                raise ValueError(f"{loss}_weight: {self.weight(loss)} must be 0 or more")
        if not self.losses:
            keys = ", ".join(f"{loss}_weight" for loss in LOSSES)
            raise ValueError(f"{keys}: all are 0, which leaves nothing to train")
        if "intra" in self.losses and self.segments == 1:
            raise ValueError(
                "segments: 1 leaves intra no other frame; take more or intra_weight: 0"
            )
        if "order" in self.losses:
            check_frames(self.segments, reverse_is_order=self.reverse_is_order)
        if self.order_hidden < 0:
            raise ValueError(f"order_hidden: {self.order_hidden} must be 0, linear, or more")
        check_groups(self.split_groups)

    def weight(self, loss: str) -> float:
        weights = self.inter_weight, self.intra_weight, self.segment_weight, self.order_weight
        return weights[LOSSES.index(loss)]

    @property
    def losses(self) -> tuple[str, ...]:
        """The losses that are on."""
        return tuple(loss for loss in LOSSES if self.weight(loss) != 0)


def build(backbone: nn.Module, config: Config, *, frames: int, size: tuple[int, int]) -> VCLR:
    """The method around `backbone`, for clips [B, 3, frames, *size] of each segment."""
    return VCLR(backbone, config)


class Encoder(nn.Module):
    """A backbone and a head for each loss, on several frames of every video."""

    def __init__(self, backbone: nn.Module, config: Config):
        super().__init__()
        self.order_norm = config.order_norm
        self.backbone = backbone
        heads = {
            loss: projection_head(backbone.feature_dim, config.dim, mlp=config.mlp)
            for loss in config.losses
        }
        self.heads = nn.ModuleDict(heads)

    def features(self, frames: Tensor) -> Tensor:
        """[B, N, 3, T, H, W] -> [B, N, features], in one batch whose neighbours share a video."""
        return self.backbone(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def embed(self, loss: str, features: Tensor) -> Tensor:
        """[B, N, features] -> [B, N, D], normalised; of the mean frame, N = 1, for segment."""
        if loss == "segment":
            features = features.mean(dim=1, keepdim=True)
        embedding = self.heads[loss](features)
        return normalised(embedding, self.order_norm) if loss == "order" else unit(embedding)


class VCLR(Method):
    """Query encoder with a head for each loss, its momentum twin, two queues, order classifier.

    Views of a video: t^q_1..t^q_S, t^k_1..t^k_S, one frame of each segment for query and for key,
    and x^1, a second augmentation of x^q, which is t^q_1 or t^q_S. x^2..x^S are the rest of t^q.
    With f the backbone, h the loss's own head, ' the momentum twin, n(.) to unit length,

        q = n(h f(x^q))      k_j = n(h' f'(x^j))      Q the queue of the loss
        inter    mean_j InfoNCE(q, k_j, Q)               each k_j alone against the queue
        intra    mean_(j > 1) InfoNCE(q, k_1, {k_j})     two-way: the same frame, or another
        segment  InfoNCE(v, v', Q),  v = n(h mean_s f(t^q_s)), v' likewise of t^k
        order    cross-entropy of FrameOrder(n(h f(t^q)), n(h' f'(t^k)))
        loss     = sum of weight x loss                  moves query encoder and order classifier

    The queue of inter receives all k_j of the batch, that of segment all v'. A video costs 1 + S
    frames of the query encoder, x^q and t^q, and 2 S of the key encoder, x^1..x^S and t^k; with
    `together` S and 2 S.
    """

    # Losses may come and go between the stages of a training.
    optional = ("query.heads.", "key.heads.", "queues.", "order.")

    def __init__(self, backbone: nn.Module, config: Config):
        super().__init__()
        self.config = config
        self.key_side = KeySide(config.key_batch_norm, config.split_groups)
        views = 2 * config.segments + 1
        key_views = tuple(range(config.segments, views)) if self.key_side.exchanges else ()
        self.views = ViewNeeds(views, exchanged=key_views, sampling="segments")
        self.query = self.key_side.convert(Encoder(backbone, config))
        self.key = momentum_twin(self.query)
        self.queues = _queues(config)
        self.order: FrameOrder | None = None
        if "order" in config.losses:
            self.order = FrameOrder(
                config.segments,
                config.dim,
                label=config.order_label,
                reverse_is_order=config.reverse_is_order,
                hidden=config.order_hidden,
            )
        order_of_keys = config.order_label == "joint"
        self.key_losses = tuple(x for x in config.losses if x != "order" or order_of_keys)
        self.contrasts_frames = bool({"inter", "intra"} & set(config.losses))
        self.reads_tuples = bool({"segment", "order"} & set(config.losses))
        self.keys_of_tuples = bool({"segment", "order"} & set(self.key_losses))
        self._pending: dict[str, tuple[Tensor, Tensor]] = {}  # keys and ids for after_step

    def encoder(self) -> nn.Module:
        return self.query.backbone

    def heads(self) -> list[nn.Module]:
        return [*self.query.heads.values(), *self.key.heads.values()]

    def check_ranks(self, world: int, device: str) -> None:
        self.key_side.check(world, device)

    def forward(
        self,
        views: tuple[Tensor, ...],
        flow: tuple[Tensor, ...] | None,
        index: Tensor,
        start_frames: Tensor | None = None,
    ) -> tuple[list[Objective], dict[str, Tensor]]:
        if start_frames is None:
            raise ValueError(
                "vclr: the batch has no start_frames to tell which frame the last view shows; "
                "take clip.sampling: segments"
            )
        self.check_ranks(world_size(), views[0].device.type)
        last = start_frames[:, -1] != start_frames[:, 0]  # [B] whether x^q is of segment S
        query = self._queries(views, last)
        key, keys = self._keys(views, last)
        self._hold(keys, index)
        losses, accuracy = self._losses(query, key, index)
        loss = sum(self.config.weight(name) * value for name, value in losses.items())
        scalars = {f"loss_{name}": value.detach() for name, value in losses.items()}
        scalars = {"loss": loss.detach(), **scalars, **accuracy, **self._figures(query, key)}
        return [Objective(loss, self._moves())], scalars

    @torch.no_grad()
    def after_step(self) -> None:
        momentum_update(self.key, self.query, momentum=self.config.momentum)
        for loss, queue in self.queues.items():
            assert loss in self._pending, "after_step without a forward before it"
            queue.enqueue(*self._pending.pop(loss))

    def _moves(self) -> list[nn.Parameter]:
        order = [] if self.order is None else list(self.order.parameters())
        return [*self.query.parameters(), *order]

    def _queries(self, views: tuple[Tensor, ...], last: Tensor) -> dict[str, Tensor]:
        """Embeddings of every loss: [B, 1, D], or of order [B, S, D]."""
        first, final = views[0], views[self.config.segments - 1]
        frame = tuples = None
        again = not self.reads_tuples or self.config.batches == "apart"
        if self.contrasts_frames and again:
            frame = self.query.features(_either(last, final, first)[:, None])
        if self.reads_tuples:
            tuples = self.query.features(torch.stack(views[: self.config.segments], dim=1))
        if self.contrasts_frames and not again:
            frame = _either(last, tuples[:, -1:], tuples[:, :1])
        return self._embeddings(self.query, frame, tuples, self.config.losses)

    @staticmethod
    def _embeddings(
        encoder: Encoder, frames: Tensor | None, tuples: Tensor | None, losses: tuple[str, ...]
    ) -> dict[str, Tensor]:
        needs = {"inter": frames, "intra": frames, "segment": tuples, "order": tuples}
        return {loss: encoder.embed(loss, needs[loss]) for loss in losses}

    def _keys(
        self, views: tuple[Tensor, ...], last: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Keys of every loss for this rank's queries, and those of all ranks in their order.

        inter, intra: [B, S, D] of x^1..x^S. segment: [B, 1, D]. order: [B, S, D].
        """
        if not self.key_losses:
            return {}, {}
        frames = self._key_frames(views, last)
        own, of_all = self.key_side.keys(self._encode_keys, frames)
        return self._by_loss(own), self._by_loss(of_all)

    def _key_frames(self, views: tuple[Tensor, ...], last: Tensor) -> Tensor:
        """x^1..x^S and t^k, as far as a loss needs them: [B, N, 3, T, H, W]."""
        segments, frames = self.config.segments, []
        if self.contrasts_frames:
            frames.append(views[-1][:, None])
            rest = [_either(last, views[s], views[s + 1]) for s in range(segments - 1)]
            if rest:
                frames.append(self.key_side.brought(torch.stack(rest, dim=1)))
        if self.keys_of_tuples:
            frames.append(torch.stack(views[segments : 2 * segments], dim=1))
        return torch.cat(frames, dim=1)

    def _encode_keys(self, frames: Tensor) -> Tensor:
        """[B, N, 3, T, H, W] -> [B, n, D], all keys of a video, for ranks to exchange at once."""
        segments, batches = self.config.segments, [frames.shape[1]]
        if self.config.batches == "apart":
            batches = [1] * segments * self.contrasts_frames + [segments] * self.keys_of_tuples
        features = [self.key.features(part) for part in frames.split(batches, dim=1)]
        features = torch.cat(features, dim=1)
        own, tuples = features[:, :segments], features[:, -segments:]
        keys = self._embeddings(self.key, own, tuples, self.key_losses)
        return torch.cat(list(keys.values()), dim=1)

    def _by_loss(self, keys: Tensor) -> dict[str, Tensor]:
        counts = [1 if loss == "segment" else self.config.segments for loss in self.key_losses]
        return dict(zip(self.key_losses, keys.split(counts, dim=1), strict=True))

    def _hold(self, keys: dict[str, Tensor], index: Tensor) -> None:
        """Keeps the keys of all ranks, and their videos, until the step is done."""
        ids = gather(index)
        for loss, queue in self.queues.items():
            per_video = keys[loss].shape[1]
            queue.check_holds(keys[loss].shape[0] * per_video)
            self._pending[loss] = (
                keys[loss].flatten(0, 1),
                ids[:, None].expand(-1, per_video).flatten(),
            )

    def _losses(
        self, query: dict[str, Tensor], key: dict[str, Tensor], index: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Every loss, and what only its computation tells."""
        losses, accuracy = {}, {}
        for loss in self.config.losses:
            if loss == "intra":
                losses[loss] = self._intra(query[loss], key[loss])
            elif loss == "order":
                tuples = [side[loss] for side in (query, key) if loss in side]
                losses[loss], accuracy["order_accuracy"] = self.order(*tuples)
            else:
                losses[loss] = self._contrast(loss, query[loss], key[loss], index)
        return losses, accuracy

    def _contrast(self, loss: str, query: Tensor, key: Tensor, index: Tensor) -> Tensor:
        config, queue = self.config, self.queues[loss]
        query_id, queue_id = (index, queue.ids) if config.exclude_same_video else (None, None)
        return info_nce(
            query[:, 0],
            key,
            queue.keys,
            config.temperature,
            query_id=query_id,
            queue_id=queue_id,
            unit=True,
        )

    def _intra(self, query: Tensor, key: Tensor) -> Tensor:
        others = key[:, 1:]  # [B, S - 1, D], each the one rival of the positive
        positive = key[:, :1].expand_as(others)
        return info_nce(
            query.expand_as(others).flatten(0, 1),
            positive.flatten(0, 1),
            others.flatten(0, 1)[:, None],
            self.config.intra_temperature,
            unit=True,
        )

    def _figures(self, query: dict[str, Tensor], key: dict[str, Tensor]) -> dict[str, Tensor]:
        """See models/diagnostics.py and FeatureQueue; those of the segment queue say so."""
        first = next(iter(query.values())).detach()[:, 0]
        figures = {"feature_std": feature_std(unit(first))}
        for loss, queue in self.queues.items():
            own = contrast_figures(query[loss].detach()[:, 0], key[loss], queue.keys)
            prefix = "" if loss == "inter" else f"{loss}_"
            for name, value in {**own, **queue.age_figures()}.items():
                figures[prefix + name] = value
        return figures


def _queues(config: Config) -> nn.ModuleDict:
    """Of the losses that contrast with other videos; each its own random first keys."""
    dtype = getattr(torch, config.queue_dtype)
    queues = {
        loss: FeatureQueue(config.queue_size, config.dim, seed=config.seed + number, dtype=dtype)
        for number, loss in enumerate(("inter", "segment"))
        if loss in config.losses
    }
    return nn.ModuleDict(queues)


def _either(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Sample by sample one of two tensors [B, ...]; condition [B]."""
    return torch.where(condition.view(-1, *[1] * (yes.ndim - 1)), yes, no)
