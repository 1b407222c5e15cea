"""Weights of others into a backbone, by the names in their state dicts. Knows nothing of files.

A backbone is found wherever it stands in a file: under `module.` (DistributedDataParallel),
`_orig_mod.` (torch.compile), `encoder_q.` (MoCo, VideoMoCo, ViCC), `backbone.`, `query.backbone.`
(Kinema), or several of them; what stands beside it (queue, head, classifier, slow twin) is left. A
checkpoint of Kinema's own says which of two streams it trained, and with which eps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.backbones.s3d import NORM_EPS as S3D_NORM_EPS
from models.backbones.s3d import S3D
from models.layouts import COCLR_NORM_EPS, from_coclr, from_mmaction2, is_coclr, is_mmaction2

WRAPPERS = {"module", "_orig_mod"}
# Where files keep their tensors: MoCo, VideoMoCo, ViCC, mmaction2; VCLR; Kinema.
KEPT_UNDER = ("state_dict", "model", "method")
# Parts of the name of a copy that is not the one to take: MoCo, VCLR, ViCC, CoCLR; Kinema.
COPIES = {"encoder_k", "model_ema", "second", "sampler", "key", "twin"}
HEADS = ("head", "inter", "fc", "fc_inter")  # Kinema, of VCLR's four the first; MoCo; VCLR
TORCH_NORM_EPS = 1e-5  # of all networks but S3D
NAMED = 4  # names listed of each kind


@dataclass(frozen=True)
class Loaded:
    """What became of every tensor. layout: whose names; prefix: under which the backbone stood.

    missing: buffers that the file does not have, with the values they had. unexpected: what stood
    beside the backbone and was left. doubt: what the file does not say and might be otherwise.
    """

    layout: str
    prefix: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    doubt: str = ""

    def __str__(self) -> str:
        number = len(self.loaded)
        place = f" from '{self.prefix}'" if self.prefix else ""
        text = f"{number} of {number + len(self.missing)} tensors{place} ({self.layout}'s names)"
        if self.missing:
            text += f"; missing, as they were before: {_listed(self.missing)}"
        if self.unexpected:
            text += f"; left out: {_listed(self.unexpected)}"
        return f"{text}; {self.doubt}" if self.doubt else text


def load_backbone(
    backbone: nn.Module, content: Mapping[str, Any], *, norm_eps: float | None = None
) -> Loaded:
    """Copies into `backbone` all its tensors that `content` has, a state dict or what holds one.

    norm_eps: of the batch norms as they were trained, 0 for the network's own, where the caller
    knows; else as a checkpoint says. Where nobody does, and the backbone's is not what those who
    publish have trained with, it stays, and the answer has the doubt. Of two streams it takes the
    one that the checkpoint's stage trained.

    Raises ValueError, and loads nothing, where no name fits, a shape differs, the file has more
    or fewer layers than the backbone, or was trained with another eps of the batch norms.
    """
    tensors, layout = _renamed(tensors_of(content))
    own = backbone.state_dict()
    prefix = _prefix(tensors, own, stream=_trained_stream(content))
    found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    shared = [name for name in own if name in found]
    unexpected = tuple(sorted(found.keys() - own.keys()))
    _refuse_deeper(backbone, unexpected)
    for name in shared:
        if found[name].shape != own[name].shape:
            raise ValueError(
                f"{name} is {_shape(found[name])} in the file and {_shape(own[name])} in the "
                "backbone: another network (backbone.name) or width (backbone.width)"
            )
    _refuse_shallower(backbone, found)
    if norm_eps is None:
        said = _at(content, "config", "backbone", "norm_eps")
        norm_eps = COCLR_NORM_EPS if layout == "CoCLR" else said
    doubt = _compared_eps(backbone, norm_eps)
    backbone.load_state_dict({name: found[name] for name in shared}, strict=False)
    missing = tuple(name for name in own if name not in found)
    return Loaded(layout, prefix, tuple(shared), missing, unexpected, doubt)


def head_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The projection head that was trained on the backbone, by the names of
    `models.heads.projection_head`: weight, bias or 0.weight, 0.bias, 2.weight, 2.bias.

    Raises ValueError where there is none, or several.
    """
    tensors, _ = _renamed(tensors_of(content))
    heads: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        for place in [place for place, part in enumerate(parts) if part in HEADS]:
            # A 1x1x1 convolution after the pool is a linear map.
            kernel = tensor.flatten(1) if tensor.ndim > 2 else tensor
            heads.setdefault(tuple(parts[: place + 1]), {})[".".join(parts[place + 1 :])] = kernel
    if not heads:
        raise ValueError(f"no projection head in the file; looked for {', '.join(HEADS)}")
    place = _only(list(heads), what="a projection head", stream=_trained_stream(content))
    return heads[place]


def tensors_of(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one that a checkpoint keeps, by names without the
    wrappers of DistributedDataParallel and torch.compile. Raises ValueError where there are none.
    """
    for key in KEPT_UNDER:
        if isinstance(content.get(key), Mapping):
            return tensors_of(content[key])
    tensors = {
        ".".join(part for part in name.split(".") if part not in WRAPPERS): tensor
        for name, tensor in content.items()
        if isinstance(tensor, Tensor)
    }
    if not tensors:
        raise ValueError(
            f"no tensors in it, neither at the top nor under {', '.join(KEPT_UNDER)}; "
            f"found {_listed(sorted(map(str, content))) or 'nothing'}"
        )
    return tensors


def _renamed(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors by torchvision's names, and whose names they had."""
    if is_coclr(tensors):
        renamed = {from_coclr(name): tensor for name, tensor in tensors.items()}
        renamed.pop(None, None)
        return renamed, "CoCLR"
    if is_mmaction2(tensors):
        return {from_mmaction2(name): tensor for name, tensor in tensors.items()}, "mmaction2"
    return tensors, "torchvision"


def _at(tree: object, *keys: object) -> Any:
    """What stands there in nested mappings; None where nothing does."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _trained_stream(content: Mapping[str, Any]) -> str:
    """Of a checkpoint of Kinema's ViCC the stream that its stage trained; of all others none."""
    config = content.get("config")
    of_stage = _at(config, "run", "stages", content.get("stage"), "method", "stream")
    return of_stage or _at(config, "method", "stream") or ""


def _prefix(tensors: dict[str, Tensor], own: Mapping[str, Tensor], *, stream: str) -> str:
    """What stands before the backbone's names where most of them are found."""
    counts: Counter[tuple[str, ...]] = Counter()
    for name in tensors:
        parts = tuple(name.split("."))
        for place in range(len(parts)):
            if ".".join(parts[place:]) in own:
                counts[parts[:place]] += 1
    if not counts:
        raise ValueError(_nothing_fits(list(own), list(tensors)))
    most = max(counts.values())
    places = [above for above, n in counts.items() if n == most]
    best = _only(places, what="the backbone", stream=stream)
    return "".join(f"{part}." for part in best)


def _only(places: list[tuple[str, ...]], *, what: str, stream: str) -> tuple[str, ...]:
    """The one place that is in the stream and not inside a copy, or the only one there is."""
    originals = [place for place in places if not COPIES & set(place)] or places
    originals = [place for place in originals if stream in place] or originals
    if len(originals) > 1:
        listed = _listed([f"'{'.'.join(place)}'" for place in originals])
        raise ValueError(f"{what} stands in several places of the file: {listed}; keep one of them")
    return originals[0]


def _refuse_deeper(backbone: nn.Module, unexpected: tuple[str, ...]) -> None:
    children = {name for name, _ in backbone.named_children()}
    layers = [name for name in unexpected if name.split(".")[0] in children]
    if layers:
        raise ValueError(
            f"the backbone has no place for {_listed(layers)}: another network (backbone.name)"
        )


def _refuse_shallower(backbone: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Buffers may be missing: files of old have no count of batches."""
    own = [name for name, _ in backbone.named_parameters()]
    absent = [name for name in own if name not in found]
    if absent:
        raise ValueError(
            f"of the backbone's {len(own)} weights the file lacks {_listed(absent)}: another "
            "network (backbone.name)"
        )


def _published_eps(backbone: nn.Module) -> float:
    """What all who publish weights by torchvision's or mmaction2's names have trained with."""
    return S3D_NORM_EPS if isinstance(backbone, S3D) else TORCH_NORM_EPS


def _compared_eps(backbone: nn.Module, said: float | None) -> str:
    """Refuses another eps than the backbone's. said: by the file, None where it does not; then what
    there is to doubt is returned.
    """
    eps = said or _published_eps(backbone)
    found = {layer.eps for layer in backbone.modules() if isinstance(layer, _BatchNorm)}
    if not found - {eps}:
        return ""
    if said is None:
        return (
            f"it does not say with what eps its batch norms were trained: the backbone's have "
            f"{min(found):g}, those of published ones {eps:g}, and another gives other features"
        )
    raise ValueError(
        f"its batch norms were trained with eps {eps:g} and the backbone's have {min(found):g}, "
        f"which gives other features; set backbone.norm_eps={eps:g}"
    )


def _nothing_fits(own: list[str], names: list[str]) -> str:
    mine = next(name for name in own if name.endswith(".weight"))
    (nearest,) = get_close_matches(mine, names, n=1, cutoff=0)
    return (
        f"none of the backbone's {len(own)} tensors is in the file: its first is '{mine}', the "
        f"nearest there '{nearest}'; another network (backbone.name)?"
    )


def _listed(names: list[str] | tuple[str, ...]) -> str:
    """`4: a, b, c, d` or `6: a, b, c, d ...`; the names alone where there is one."""
    shown = ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
    return shown if len(names) < 2 else f"{len(names)}: {shown}"


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a single number"
