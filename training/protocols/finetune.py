"""The whole network trained on the labels."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import Manifest
from pipeline.windows import Rows
from training.errors import ConfigError
from training.optim import OptimConfig
from training.protocols import fitting
from training.protocols.fitting import Fitted, classifier
from training.protocols.job import Job
from training.protocols.outcome import Outcome


@dataclass
class Options(Fitted):
    freeze_norm: bool = False  # batch norms keep the statistics of pretraining (VideoMoCo)
    encoder_lr: float = 1.0  # factor of the learning rate before the classifier (ViCC: 0.1 or 1)
    layer_lr: float = 1.0  # further factor of every stage of the encoder, counted from its end
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=0.1, weight_decay=1e-4, schedule="cosine")
    )


class FixedStatistics(nn.Module):
    """An encoder that trains while its batch norms normalise by their running statistics."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def train(self, mode: bool = True) -> FixedStatistics:
        super().train(mode)
        for layer in self.encoder.modules():
            if isinstance(layer, _BatchNorm):
                layer.eval()
        return self

    def forward(self, clip):
        return self.encoder(clip)


def measure(job: Job) -> Outcome:
    """Top-1 and top-5 accuracy after fine-tuning all layers.

    VideoMoCo's code keeps the batch statistics and takes no dropout, ViCC's takes dropout 0.9:
    configs/eval/videomoco_finetune.yaml and vicc_finetune.yaml. Raises ConfigError for options
    that make no sense.
    """
    check(job.options, job.sets["train"])
    return fitting.measure(job, *network(job))


def check(options: Options, train: Manifest | Rows) -> None:
    """Raise ConfigError naming the option that makes no sense, or has no effect."""
    fitting.check(options, train)
    for name in ("encoder_lr", "layer_lr"):
        if not getattr(options, name) > 0:
            raise ConfigError(
                f"error: eval.{name}: expected more than 0, got {getattr(options, name)}"
            )
    if options.layer:
        raise ConfigError(
            f"error: eval.layer={options.layer} has no effect where all layers are trained"
        )


def network(job: Job) -> tuple[list[tuple[nn.Module, float]], nn.Module]:
    """What is trained, at which share of the rate, and the encoder with a new classifier.

    Raises ConfigError for a baseline without a network.
    """
    options, encoder = job.options, job.encoder()
    if not hasattr(encoder, "feature_dim"):
        raise ConfigError(f"error: {job.source.name} is no network that could be fine-tuned")
    encoder.requires_grad_(True)
    head = classifier(encoder.feature_dim, job.classes, options, seed=job.recipe.run.seed)
    body = FixedStatistics(encoder) if options.freeze_norm else encoder
    parts = [(head, 1.0), *stages(encoder, options.encoder_lr, options.layer_lr)]
    return parts, nn.Sequential(body, head)


def stages(encoder: nn.Module, factor: float, per_stage: float) -> list[tuple[nn.Module, float]]:
    """The stages of an encoder, each with the factor of its rate: the last has `factor`."""
    trained = [stage for stage in encoder.children() if any(True for _ in stage.parameters())]
    if len(trained) == 1:  # S3D has all of its stages in one list
        return stages(trained[0], factor, per_stage)
    return [(stage, factor * per_stage**n) for n, stage in enumerate(reversed(trained))]
