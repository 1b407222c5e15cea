"""Training a classifier on labelled clips, the encoder frozen or not, and asking it of videos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from pipeline import Manifest, Place, build_loader
from pipeline.clip import ClipConfig
from pipeline.windows import Rows
from training import distributed, optim
from training.config import Recipe
from training.distributed import Process
from training.errors import ConfigError, NumericError
from training.features import clips_of, failed_once, flow_of
from training.optim import OptimConfig, build_optimizer, lr_at, set_lr
from training.protocols.job import Job
from training.protocols.outcome import Outcome, classified
from training.protocols.under_way import UnderWay
from training.protocols.views import Views
from training.protocols.whole_batch import WholeBatchDropout, over_whole_batches

WEIGHT_STD = 0.01  # of a new classifier (VideoMoCo's code)
NOTED = ("path", "key", "code", "detail")  # of a damaged video; not in which epoch it was met


@dataclass
class Fitted(Views):
    """Options of classifiers that are trained on augmented clips."""

    l2: bool = False  # scale features to unit length before the classifier
    batch_norm: bool = False  # of the features before the classifier, after l2
    dropout: float = 0.0  # of the features
    epochs: float = 100.0  # one random clip of every training video in each
    batch_size: int = 128  # clips of a step over all processes
    train_size: int = 0  # side of a training view, pixels; 0: augment.size
    # what the views of a test video are averaged as: CVRL and ViCC, or VideoMoCo
    mean_of: Literal["probabilities", "logits"] = "probabilities"
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=0.1, weight_decay=0.0, schedule="cosine")
    )

    @property
    def trains_on_clips(self) -> bool:
        return getattr(self, "solver", "") != "lbfgs"


class Frozen(nn.Module):
    """An encoder that nothing changes: no gradients, and running statistics stay as they are."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)

    def forward(self, clip: Tensor) -> Tensor:
        with torch.no_grad():
            return self.encoder(clip)


class UnitLength(nn.Module):
    """Vectors [B, D] scaled to length 1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.float(), dim=1)


def classifier(features: int, classes: int, options: Fitted, *, seed: int) -> nn.Sequential:
    """[l2, batch norm, dropout,] linear layer: features [B, D] -> logits [B, classes]."""
    linear = nn.Linear(features, classes)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(linear.weight, std=WEIGHT_STD, generator=generator)
    nn.init.zeros_(linear.bias)
    layers = [
        UnitLength() if options.l2 else None,
        nn.BatchNorm1d(features) if options.batch_norm else None,
        WholeBatchDropout(options.dropout) if options.dropout else None,
        linear,
    ]
    return nn.Sequential(*[layer for layer in layers if layer is not None])


def check(options: Fitted, train: Manifest | Rows) -> None:
    """Raise ConfigError naming the option that makes no sense, or has no effect."""
    if options.train != "uniform":
        raise ConfigError(
            f"error: eval.train={options.train} has no effect where a classifier is trained: it "
            "sees one random clip of every training video in each epoch"
        )
    wrong = {
        "epochs": (not options.epochs > 0, "expected more than 0"),
        "dropout": (not 0 <= options.dropout < 1, "expected at least 0 and less than 1"),
        "batch_size": (
            not 1 <= options.batch_size <= len(train),
            f"expected 1 to {len(train)}, the training videos",
        ),
    }
    for name, (is_wrong, expected) in wrong.items():
        if is_wrong:
            raise ConfigError(f"error: eval.{name}: {expected}, got {getattr(options, name)}")
    try:
        optim.check(options.optim)
    except ValueError as error:
        raise ConfigError(f"error: eval.{error}") from error


def refuse_unused(options: Views, kind: type, base: type, cure: str) -> None:
    """Raise ConfigError for an option that `kind` adds to `base` and that is not as by default."""
    default = type(options)()
    own = {field.name for field in fields(kind)} - {field.name for field in fields(base)}
    changed = sorted(name for name in own if getattr(options, name) != getattr(default, name))
    if changed:
        raise ConfigError(f"error: eval.{changed[0]} has no effect without {cure}")


def measure(
    job: Job,
    parts: Sequence[tuple[nn.Module, float]],
    model: nn.Module,
    *,
    train: Manifest | Rows | None = None,
    name: str = "",
) -> Outcome:
    """Trains a classifier and asks it of all views of the test videos: the mean of its softmax, or
    the softmax of its mean.

    parts: modules of `model` to train, each with a factor of its learning rate. train: other videos
    than all of the training set. name: of the files that a killed process goes on from, else the
    protocol's. What is measured is the last state: nothing is chosen by the test videos.
    """
    train, options, name = train or job.sets["train"], job.options, name or job.protocol
    model, key = model.to(job.process.device), job.key_of_training(train)
    under_way = UnderWay(job.folder / f"{name}_training.pt", key, job.process)
    damaged = fit(model, parts, train, job.source.recipe, options, job.process, under_way)
    earlier = job.seen.get("train", {"failed": []})["failed"]
    job.seen["train"] = {"failed": failed_once([*earlier, *damaged])}
    softmax = nn.Softmax(dim=1)
    asked = model if options.mean_of == "logits" else nn.Sequential(model, softmax)
    # Damaged videos stand for the weights, too: mended since, they are trained on anew.
    key = {"training": key, "damaged": damaged, "test": job.key("test"), "of": options.mean_of}
    found = job.outputs(f"{name}_outputs", "test", key, lambda: asked)
    job.note("test", found.failed)
    probabilities = softmax(found.raw) if options.mean_of == "logits" else found.raw
    outcome = classified(probabilities, found.label, found.index)
    return replace(outcome, mean_of=options.mean_of)


def fit(
    model: nn.Module,
    parts: Sequence[tuple[nn.Module, float]],
    train: Manifest | Rows,
    recipe: Recipe,
    options: Fitted,
    process: Process,
    under_way: UnderWay | None = None,
) -> list[dict]:
    """Minimises cross entropy over one random augmented clip of every video and epoch.

    Any number of processes trains the same network, up to rounding. Returns the damaged videos, in
    whose place others were shown. The last batches are full ones that begin the next epoch.
    under_way: where the state is kept after each epoch, and what a killed training goes on from.
    """
    steps = max(1, round(options.epochs * len(train) / options.batch_size))
    optimizers = [(build_optimizer(part, options.optim), factor) for part, factor in parts]
    plain = [optimizer for optimizer, _ in optimizers]
    first, met = under_way.load(model, plain) if under_way else (0, [])
    damaged = {entry["key"]: entry for entry in met}
    loader = training_loader(train, recipe, options, process, damaged)
    wrapped = distributed.wrap(over_whole_batches(model, process.device), process).train()
    for step, batch in enumerate(loader.batches(first, steps), first):
        at = options.epochs * step / steps
        lr = lr_at(at, options.optim, epochs=options.epochs, global_batch=options.batch_size)
        distributed.seed_step(recipe.run.seed, step, 0)  # alike: a mask is of the whole batch
        with distributed.precision(recipe.run.precision, process):
            loss = F.cross_entropy(wrapped(clips_of(batch, recipe)[0]).float(), batch.label)
        _move(optimizers, loss, lr)
        if (step + 1) % max(1, steps // 10) == 0:
            _report(f"step {step + 1}/{steps}", lr, loss.item(), process)
        if under_way and step + 1 < steps and _ends_epoch(step, options, len(train)):
            under_way.save(step + 1, model, plain, list(damaged.values()))
    if under_way and first < steps:  # trained: what moved it is of no use any more
        under_way.save(steps, model, [], list(damaged.values()))
    found = distributed.of_all_ranks(list(damaged.values()), process)
    return failed_once([entry for entries in found for entry in entries])


def _move(optimizers: Sequence[tuple[Optimizer, float]], loss: Tensor, lr: float) -> None:
    """One step of every optimizer, at its share of the rate."""
    for optimizer, factor in optimizers:
        set_lr(optimizer, factor * lr)
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    for optimizer, _ in optimizers:
        optimizer.step()


def _ends_epoch(step: int, options: Fitted, videos: int) -> bool:
    """Whether the step's batch has the last video of an epoch."""
    return (step + 1) * options.batch_size // videos > step * options.batch_size // videos


def _report(where: str, lr: float, loss: float, process: Process) -> None:
    """A line on the terminal. Raises NumericError for a loss that is no number."""
    if not math.isfinite(loss):
        raise NumericError(f"error: the loss is {loss} at {where} · lower eval.optim.lr, {lr:.4g}")
    if process.is_main:
        print(f"{where}  lr {lr:.4g}  loss {loss:.3f}", flush=True)


def training_loader(
    train: Manifest | Rows,
    recipe: Recipe,
    options: Fitted,
    process: Process,
    damaged: dict[str, dict],
):
    """Loader of one random clip a sample; what does not decode is entered in `damaged` by key.

    What the recipe says of single views is of the pretraining.
    """

    def note(entries: list[dict]) -> None:
        damaged.update({e["key"]: {name: e[name] for name in NOTED} for e in entries})

    return build_loader(
        train,
        clip=ClipConfig(frames=recipe.clip.frames, stride=recipe.clip.stride, sampling="same"),
        augment=replace(recipe.augment, views={}, size=options.train_size or recipe.augment.size),
        data=replace(recipe.data, batch_size=options.batch_size),
        seed=recipe.run.seed,
        views=1,
        place=Place(process.rank, process.world, str(process.device)),
        noted=note,
        flow=flow_of(recipe),
        flow_views=(0,) if flow_of(recipe) else (),
    )
