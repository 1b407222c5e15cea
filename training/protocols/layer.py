"""Features of an earlier stage of a backbone than its last."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.errors import ConfigError

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")  # what every backbone's `stages` gives

SMALL = (1, 3, 8, 32, 32)  # a clip that every backbone takes


class AtStage(nn.Module):
    """clip [B, 3, T, H, W] -> the mean over time and space of one of the encoder's feature maps."""

    def __init__(self, encoder: nn.Module, name: str):
        super().__init__()
        self.encoder, self.number = encoder.eval(), STAGES.index(name)
        with torch.no_grad():
            self.feature_dim = self(torch.zeros(SMALL)).shape[1]

    def forward(self, clip: Tensor) -> Tensor:
        return self.encoder.stages(clip)[self.number].mean(dim=(2, 3, 4))


def check(name: str) -> None:
    """Raise ConfigError for a stage that no backbone has."""
    if name and name not in STAGES:
        raise ConfigError(
            f"error: eval.layer: no stage '{name}' · expected one of {', '.join(STAGES)}, or "
            "nothing for the feature that the network ends with"
        )


def at_stage(encoder: nn.Module, name: str) -> nn.Module:
    """The encoder up to a stage; as it is without a name. Raises ConfigError for no network."""
    if not name:
        return encoder
    if not hasattr(encoder, "stages"):
        raise ConfigError(f"error: eval.layer={name}: a baseline without a network has no stages")
    return AtStage(encoder, name)
