"""First weights of a network, as its authors draw them. Batch norm starts as the identity: torch's
default, which every one of them keeps.
"""

from __future__ import annotations

import math

from torch import nn

# Standard deviation of a unit normal that is cut off at two of them: TensorFlow's truncated normal.
CUT_AT_TWO = 0.8796256610342398


def convolutions(module: nn.Module) -> list[nn.Module]:
    """All 2-D and 3-D convolutions inside `module`."""
    return [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Conv3d))]


def kaiming_fan_out(module: nn.Module) -> None:
    """N(0, 2 / fan_out): torchvision's residual networks (He et al., arXiv 1502.01852)."""
    for conv in convolutions(module):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")


def variance_scaling(module: nn.Module) -> None:
    """Variance 1 / fan_in, normal, cut off at two deviations: CVRL's code (Keras' default)."""
    for conv in convolutions(module):
        fan_in = conv.weight[0].numel()
        deviation = math.sqrt(1 / fan_in) / CUT_AT_TWO
        nn.init.trunc_normal_(conv.weight, std=deviation, a=-2 * deviation, b=2 * deviation)


def normal(module: nn.Module, *, deviation: float) -> None:
    """N(0, deviation^2) whatever the fan: the Inception family."""
    for conv in convolutions(module):
        nn.init.normal_(conv.weight, std=deviation)
