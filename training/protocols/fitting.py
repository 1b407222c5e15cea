"""Training a classifier on labelled clips, the encoder frozen or not, and asking it of videos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.batchnorm import mean_statistics, running_statistics
from pipeline import Manifest, Place, build_loader
from pipeline.clip import ClipConfig
from training import distributed, optim
from training.config import Recipe
from training.distributed import Process
from training.errors import ConfigError, NumericError
from training.features import clips_of, failed_once, flow_of
from training.optim import OptimConfig, build_optimizer, lr_at, set_lr
from training.protocols.job import Job
from training.protocols.outcome import Outcome, classified
from training.protocols.views import Views, extract

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
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=0.1, weight_decay=0.0, schedule="cosine")
    )


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
        nn.Dropout(options.dropout) if options.dropout else None,
        linear,
    ]
    return nn.Sequential(*[layer for layer in layers if layer is not None])


def check(options: Fitted, train: Manifest) -> None:
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


def measure(job: Job, parts: Sequence[tuple[nn.Module, float]], model: nn.Module) -> Outcome:
    """Trains a classifier and asks it of all clips of the test videos: the mean of its softmax.

    parts: modules of `model` to train, each with a factor of its learning rate. What is measured is
    the last state: nothing is chosen by the test videos.
    """
    train, options = job.sets["train"], job.options
    model = model.to(job.process.device)
    damaged = fit(model, parts, train, job.source.recipe, options, job.process)
    job.seen["train"] = {"failed": damaged}
    asked = nn.Sequential(model, nn.Softmax(dim=1))
    found = extract(
        asked, job.sets["test"], job.recipe, sampling=job.sampling("test"), process=job.process
    )
    job.note("test", found.failed)
    return classified(found.raw, found.label, found.index)


def fit(
    model: nn.Module,
    parts: Sequence[tuple[nn.Module, float]],
    train: Manifest,
    recipe: Recipe,
    options: Fitted,
    process: Process,
) -> list[dict]:
    """Minimises cross entropy over one random augmented clip of every video and epoch.

    Returns the damaged videos, in whose place others were shown. The last batches are full ones
    that begin the next epoch.
    """
    steps = max(1, round(options.epochs * len(train) / options.batch_size))
    optimizers = [(build_optimizer(part, options.optim), factor) for part, factor in parts]
    damaged: dict[str, dict] = {}
    loader = training_loader(train, recipe, options, process, damaged)
    wrapped, seed = distributed.wrap(model, process).train(), recipe.run.seed
    for step, batch in enumerate(loader.batches(0, steps)):
        at = options.epochs * step / steps
        lr = lr_at(at, options.optim, epochs=options.epochs, global_batch=options.batch_size)
        distributed.seed_step(seed, step, process.rank)
        with distributed.precision(recipe.run.precision, process):
            loss = F.cross_entropy(wrapped(clips_of(batch, recipe)[0]).float(), batch.label)
        for optimizer, factor in optimizers:
            set_lr(optimizer, factor * lr)
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer, _ in optimizers:
            optimizer.step()
        if (step + 1) % max(1, steps // 10) == 0:
            _report(f"step {step + 1}/{steps}", lr, loss.item(), process)
    _share_statistics(model, process)
    found = distributed.of_all_ranks(list(damaged.values()), process)
    return failed_once([entry for entries in found for entry in entries])


def _report(where: str, lr: float, loss: float, process: Process) -> None:
    """A line on the terminal. Raises NumericError for a loss that is no number."""
    if not math.isfinite(loss):
        raise NumericError(f"error: the loss is {loss} at {where} · lower eval.optim.lr, {lr:.4g}")
    if process.is_main:
        print(f"{where}  lr {lr:.4g}  loss {loss:.3f}", flush=True)


def training_loader(
    train: Manifest, recipe: Recipe, options: Fitted, process: Process, damaged: dict[str, dict]
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


@torch.no_grad()
def _share_statistics(model: nn.Module, process: Process) -> None:
    """Give all processes the mean of their running statistics, so that they measure one network."""
    own = running_statistics(model)
    states = distributed.of_all_ranks({name: t.cpu() for name, t in own.items()}, process)
    for name, mean in mean_statistics(states).items():
        own[name].copy_(mean)
