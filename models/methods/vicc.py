"""ViCC: views of a video predict each other's cluster, first of one stream, then of pictures and
optical flow together.

Source: Toering et al., "Self-supervised Video Representation Learning with Cross-Stream
Prototypical Contrasting", WACV 2022 (arXiv 2106.10137). Where its released code
(github.com/martinetoering/ViCC) and the equations disagree, an option names both; the paper's own
text could not be checked.

A training is a sequence of stages, each with a `stream` that learns: rgb and flow alone, then by
turns with `cross`, where the other stream is frozen and only shows what it has learnt. Both streams
are in the state of every stage, so a stage goes on from the streams as the one before left them.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.batchnorm import check_sync, sync_batch_norm
from models.diagnostics import feature_std, pair_figures, prototype_figures
from models.gather import gather, world_size
from models.heads import projection_head, unit
from models.methods._method import Method, Objective, ViewNeeds, check_choices, check_counts
from models.ops import swapped_prediction
from models.prototypes import Prototypes, assign
from models.queue import FeatureQueue
from models.streams import three_channels

# B videos, V views, T frames, D embedding dimensions, P prototypes, R queue slots

OTHER = {"rgb": "flow", "flow": "rgb"}


@dataclass(frozen=True)
class Config:
    """Options of ViCC. "code" is the released code at a9a9d23."""

    stream: Literal["rgb", "flow"] = "rgb"  # the one that is trained, and that evaluation takes
    cross: bool = False  # with the views of the other stream, frozen; the method's second half
    dim: int = 128  # embedding; code
    # Prototypes of each set; code: one of 300. Losses of several sets are averaged, as by SwAV's
    # authors in DeepCluster-v2.
    prototypes: list[int] = field(default_factory=lambda: [300])
    # Older embeddings of each view that share in the assignment, over all ranks; code: 1920 (480
    # on each of 4 GPUs). 0: none.
    queue_size: int = 1920
    # Epoch of the stage from which the queue takes part, once it is full; README: 200 alone, 25
    # with cross. The code's job for rgb alone has 150.
    queue_epoch: float = 200.0
    freeze_epochs: float = 100.0  # of the stage in which prototypes rest; code: 100, cross 0
    temperature: float = 0.1  # code
    epsilon: float = 0.05  # how soft assignments are; code
    iterations: int = 3  # of Sinkhorn-Knopp; code
    # Views that predict an assignment: all others, or with cross those of the other stream alone,
    # the code's --predict_only_mod, which it parses and leaves unused.
    predict: Literal["all", "other_modality"] = "all"
    # Whether gradients pass through the second view, too; code: with --sync_bn alone, which its
    # jobs leave out. False: it is encoded without gradient, as a batch of its own. The code also
    # shuffles that batch over the ranks, which hides a query's key; here is none to be found out.
    second_view_gradient: bool = True
    # sync: batch statistics of all ranks; code, --sync_bn. plain: of each rank's clips.
    batch_norm: Literal["sync", "plain"] = "sync"
    seed: int = 0  # of the queues' first rows, which take no part

    def __post_init__(self) -> None:
        check_choices(self)
        check_counts(self, "dim", "iterations")
        if not self.prototypes or min(self.prototypes) < 2:
            raise ValueError(
                f"prototypes: {list(self.prototypes)} must be one set or more, of 2 or more each; "
                "[300] in the code"
            )
        for name in ("queue_size", "queue_epoch", "freeze_epochs"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: {getattr(self, name)} must be 0 or more")
        for name, known in (("temperature", 0.1), ("epsilon", 0.05)):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name}: {getattr(self, name)} must be above 0; {known} in the code"
                )
        if self.predict == "other_modality" and not self.cross:
            raise ValueError("predict: other_modality needs two streams; set cross: true or all")


def build(backbone: nn.Module, config: Config, *, frames: int, size: tuple[int, int]) -> ViCC:
    """The method around `backbone`, for clips [B, 3, frames, *size] and flow of that size."""
    return ViCC(backbone, config)


class Stream(nn.Module):
    """A backbone, its head, and the prototypes that its embeddings are compared with."""

    def __init__(self, backbone: nn.Module, config: Config):
        super().__init__()
        self.backbone = sync_batch_norm(backbone) if config.batch_norm == "sync" else backbone
        # 1x1x1 convolutions in the code, after the pool: linear maps.
        self.head = projection_head(backbone.feature_dim, config.dim, mlp=True)
        self.prototypes = Prototypes(config.prototypes, config.dim)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # it was trained for

    def forward(self, clip: Tensor) -> Tensor:
        """[B, 3, T, H, W], or flow of 2 channels, -> unit vectors [B, D]."""
        return unit(self.head(self.backbone(three_channels(clip))))


class Phase(NamedTuple):
    """What changes inside a stage."""

    frozen: bool  # prototypes
    queue: bool  # takes part in the assignments


class ViCC(Method):
    """Two streams s and t of one architecture, of which s learns, and a queue for each view.

    With c_k the prototypes of s, z = n(h f(clip)) of unit length and Q the queue of view a,

        q_a = Sinkhorn(z_a . c, Q . c)             soft assignments of view a, constants
        l(z, q) = - sum_k q_k log softmax_k(z . c_k / temperature)

        alone   L = 1/2 [l(z_1, q_2) + l(z_2, q_1)]           of x1, x2: pictures, or flow
        cross   L = 1/4 sum_a 1/3 sum_(b != a) l(v_b, q_a)    v = z_s(x1), z_s(x2), z_t(f2), z_t(f1)

    where x are the views of stream s and f those of t; with `other_modality` an assignment is
    predicted by the 2 views of the other stream. Moves all of s, its prototypes once they are
    no longer frozen. t never changes, its running statistics included.

    The streams start with the same weights of the backbone, hence both from those of a file, and
    share no tensor; heads and prototypes are drawn for each.
    """

    optional = ("queues.",)  # of the views of a stage

    def __init__(self, backbone: nn.Module, config: Config):
        super().__init__()
        self.config = config
        pair = {"rgb": backbone, "flow": deepcopy(backbone)}
        self.streams = nn.ModuleDict({name: Stream(net, config) for name, net in pair.items()})
        self.other.requires_grad_(False)
        modality = [config.stream] * 2
        if config.cross:
            modality += [OTHER[config.stream]] * 2
        self.predicted = _predicted(modality, config.predict)
        self.views = ViewNeeds(2, flow=(0, 1) if "flow" in modality else ())
        self.queues = nn.ModuleList(
            FeatureQueue(config.queue_size, config.dim, seed=config.seed + view)
            for view in range(len(modality) if config.queue_size else 0)
        )
        self.phase = Phase(frozen=False, queue=False)  # until `begin_step` tells
        self._pending: tuple[Tensor, Tensor] | None = None  # keys and ids for after_step
        self._may_cross = not config.cross
        self.train()

    @property
    def trained(self) -> Stream:
        """s."""
        return self.streams[self.config.stream]

    @property
    def other(self) -> Stream:
        """t."""
        return self.streams[OTHER[self.config.stream]]

    def encoder(self) -> nn.Module:
        return self.trained.backbone

    def heads(self) -> list[nn.Module]:
        return [stream.head for stream in self.streams.values()]

    def train(self, mode: bool = True) -> ViCC:
        super().train(mode)
        self.other.eval()
        return self

    def load_previous(self, state: dict[str, Tensor]) -> tuple[list[str], list[str]]:
        """As of every method, but for the queues: those of a stage start empty."""
        streams = {name: t for name, t in state.items() if not name.startswith(self.optional)}
        return super().load_previous(streams)

    def begin_step(self, epoch: float, samples: int) -> None:
        config = self.config
        if not self._may_cross:
            self._check_other()
        full = bool(self.queues) and samples >= config.queue_size
        self.phase = Phase(
            frozen=epoch < config.freeze_epochs, queue=full and epoch >= config.queue_epoch
        )
        self.trained.prototypes.requires_grad_(not self.phase.frozen)

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
        self.check_ranks(world_size(), views[0].device.type)
        embedded = self._embed(views, flow)
        self._hold(embedded, index)
        each = [self._predict(embedded, vectors) for vectors in self.trained.prototypes]
        losses, figures = zip(*each, strict=True)
        loss = torch.stack(losses).mean()
        scalars = {name: torch.stack([f[name] for f in figures]).mean() for name in figures[0]}
        scalars |= self._figures(*(view.detach() for view in embedded[:2]))
        moves = [p for p in self.trained.parameters() if p.requires_grad]
        return [Objective(loss, moves)], {"loss": loss.detach(), **scalars}

    @torch.no_grad()
    def after_step(self) -> None:
        if self.queues:
            assert self._pending is not None, "after_step without a forward before it"
            keys, ids = self._pending
            for queue, of_view in zip(self.queues, keys.unbind(1), strict=True):
                queue.enqueue(of_view.contiguous(), ids)
            self._pending = None
        if not self.phase.frozen:
            self.trained.prototypes.normalise()
        self.trained.steps += 1

    @torch.no_grad()
    def nearest_prototypes(
        self, views: tuple[Tensor, ...], flow: tuple[Tensor, ...] | None
    ) -> list[Tensor]:
        """Of each set the prototype [B] that is nearest to the first view of every video."""
        view = self.trained(self._clips(views, flow)[self.config.stream][0])
        return [(view @ vectors.T).argmax(dim=1) for vectors in self.trained.prototypes]

    def _figures(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Of the two views of s. All queues are of one age."""
        age = self.queues[0].age_figures() if self.queues else {}
        return {**pair_figures(first, second), "feature_std": feature_std(first), **age}

    def _check_other(self) -> None:
        """Once, since it waits for the device."""
        if not self.other.steps:
            name = OTHER[self.config.stream]
            raise ValueError(
                f"vicc: cross: true learns from the {name} stream, which no stage has trained; "
                f"put a stage with stream: {name}, cross: false before"
            )
        self._may_cross = True

    def _clips(
        self, views: tuple[Tensor, ...], flow: tuple[Tensor, ...] | None
    ) -> dict[str, tuple[Tensor, ...] | None]:
        if self.views.flow and flow is None:
            raise ValueError(
                "vicc: the batch has no flow, which stream: flow and cross: true learn from"
            )
        return {"rgb": views, "flow": flow}

    def _embed(self, views: tuple[Tensor, ...], flow: tuple[Tensor, ...] | None) -> list[Tensor]:
        """V unit vectors of each video, [B, D] each, in the order of v."""
        clips = self._clips(views, flow)
        first, second = clips[self.config.stream]
        embedded = [self.trained(first)]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.second_view_gradient):
            embedded.append(self.trained(second))
        if self.config.cross:
            first, second = clips[OTHER[self.config.stream]]
            with torch.no_grad():  # in one batch, for its statistics are the running ones
                embedded += self.other(torch.cat([second, first])).chunk(2)
        return embedded

    def _hold(self, embedded: list[Tensor], index: Tensor) -> None:
        """Keeps the embeddings of all ranks until the step is done."""
        if not self.queues:
            return
        keys = gather(torch.stack(embedded, dim=1))  # [world * B, V, D]
        for queue in self.queues:
            queue.check_holds(len(keys))
        self._pending = keys, gather(index)

    def _predict(
        self, embedded: list[Tensor], prototypes: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one set of prototypes, and its figures of the first view."""
        config = self.config
        queues = [queue.keys if self.phase.queue else None for queue in self.queues]
        options = {"epsilon": config.epsilon, "iterations": config.iterations}
        assigned = [
            assign(z.detach(), prototypes, queue, **options)
            for z, queue in zip(embedded, queues or [None] * len(embedded), strict=True)
        ]
        # An assignment has as many predictors as a view has assignments to predict, so the mean
        # over assignments of the mean over predictors is that of the views' mean losses.
        targets = [torch.stack([assigned[a] for a in own]) for own in self.predicted]
        pairs = zip(embedded, targets, strict=True)
        losses = [swapped_prediction(z, prototypes, q, config.temperature) for z, q in pairs]
        first = embedded[0].detach(), prototypes.detach(), targets[0]
        return torch.stack(losses).mean(), prototype_figures(*first, config.temperature)


def _predicted(modality: list[str], predict: str) -> list[list[int]]:
    """For each view the views whose assignments it predicts."""
    numbers = range(len(modality))
    if predict == "all":
        return [[a for a in numbers if a != b] for b in numbers]
    return [[a for a in numbers if modality[a] != modality[b]] for b in numbers]
