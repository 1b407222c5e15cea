"""A slow copy of a module: the exponential moving average of its parameters.

Source: He et al., "Momentum Contrast", CVPR 2020 (arXiv 1911.05722), equation 2.
"""

from __future__ import annotations

from copy import deepcopy

from torch import nn

from models.ops import ema_


def momentum_twin(module: nn.Module) -> nn.Module:
    """A copy without gradients. Its buffers are its own: BN statistics come from its forward."""
    return deepcopy(module).requires_grad_(False)


def momentum_update(twin: nn.Module, module: nn.Module, *, momentum: float) -> None:
    """twin <- momentum * twin + (1 - momentum) * module, over parameters."""
    ema_(list(twin.parameters()), list(module.parameters()), momentum)
