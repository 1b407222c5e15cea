"""Video encoders and the methods that train them; knows nothing of files.

backbones/   clip [B, 3, T, H, W] -> feature [B, D]
methods/     one file per published method: views -> objectives
ops/         losses as functions; no state
queue, momentum, keys, heads, batchnorm, gather, diagnostics: what methods share
streams: flow as the input of a network of pictures
weights, layouts: state dicts of others into a backbone, by their names
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.backbones import BACKBONES
from models.lookup import unknown
from models.methods import load, names
from models.methods._method import Method, Objective, ViewNeeds
from models.streams import three_channels

__all__ = [
    "Method",
    "Objective",
    "ViewNeeds",
    "build_backbone",
    "build_method",
    "method_config",
    "names",
    "three_channels",
]


def build_backbone(name: str, *, width: int = 64, norm_eps: float = 0.0) -> nn.Module:
    """An encoder with random weights: clip [B, 3, T, H, W] -> feature [B, feature_dim].

    width: channels after the stem, 64 in the papers. norm_eps: of its batch norms, 0 for the
    network's own. Raises ValueError for a name that is not in `models.backbones.BACKBONES` and for
    a value that makes no sense.
    """
    if name not in BACKBONES:
        raise ValueError(unknown("backbone", name, BACKBONES))
    if width < 2:
        raise ValueError(f"backbone.width: {width} base channels are too few; take 2 or more")
    if not norm_eps >= 0:
        raise ValueError(
            f"backbone.norm_eps: {norm_eps} must be above 0, or 0 for the network's own"
        )
    backbone = BACKBONES[name](width=width)
    for layer in backbone.modules():
        if norm_eps and isinstance(layer, _BatchNorm):
            layer.eps = norm_eps
    return backbone


def method_config(name: str) -> type:
    """The frozen dataclass of a method's options. Raises ValueError for an unknown method."""
    return load(name).Config


def build_method(
    name: str, backbone: nn.Module, *, frames: int, size: int | tuple[int, int], **options
) -> Method:
    """A method around `backbone` for clips of `frames` frames of `size` pixels (side or (H, W)).

    `options` are fields of `method_config(name)`; a name or value that does not fit raises
    ValueError.
    """
    module = load(name)
    fields = module.Config.__dataclass_fields__
    for option in options:
        if option not in fields:
            raise ValueError(unknown(f"option of method {name!r}:", option, fields))
    height, width = (size, size) if isinstance(size, int) else size
    return module.build(backbone, module.Config(**options), frames=frames, size=(height, width))
