"""How others name the tensors of the backbones here, as functions from name to name.

Names here are torchvision's. CoCLR: github.com/TengdaHan/CoCLR and, with the same S3D,
github.com/martinetoering/ViCC. mmaction2: github.com/open-mmlab/mmaction2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# CoCLR's modules and their places in torchvision's `features`; the places between are pools.
COCLR = {
    "Conv_1a": 0, "Conv_2b": 2, "Conv_2c": 3, "Mixed_3b": 5, "Mixed_3c": 6, "Mixed_4b": 8,
    "Mixed_4c": 9, "Mixed_4d": 10, "Mixed_4e": 11, "Mixed_4f": 12, "Mixed_5b": 14, "Mixed_5c": 15,
}  # fmt: skip
COCLR_NORM_EPS = 1e-5  # of its batch norms: torch's default, not S3D's 1e-3
_COCLR_MODULE = re.compile(rf"(?P<above>(?:.*\.)?)(?P<module>{'|'.join(COCLR)})\.(?P<inside>.+)")
# It registers every module a second time, in `block1` to `block5`.
_COCLR_TWICE = re.compile(r"(?:.*\.)?block\d\.\d\..+")
_COCLR_LEAVES = (
    (re.compile(r"\bconv([12])\."), lambda found: f"{int(found[1]) - 1}.0."),
    (re.compile(r"\bbn([12])\."), lambda found: f"{int(found[1]) - 1}.1."),
    (re.compile(r"\bconv\."), "0."),
    (re.compile(r"\bbn\."), "1."),
)
# Its encoder is a sequence: backbone 0, pool 1, head 2 to 4, of 1x1x1 convolutions.
_COCLR_HEAD = re.compile(r"(?P<above>.*)\.(?P<number>[24])\.(?P<leaf>weight|bias)")


def is_coclr(names: Iterable[str]) -> bool:
    """Whether the names are those of CoCLR's S3D."""
    return any(_COCLR_MODULE.fullmatch(name) for name in names)


def from_coclr(name: str) -> str | None:
    """torchvision's name of a tensor of CoCLR's S3D; `<encoder>.head.` for its head's; None for a
    second name of a tensor.
    """
    if found := _COCLR_MODULE.fullmatch(name):
        inside = found["inside"]
        for pattern, replacement in _COCLR_LEAVES:
            inside = pattern.sub(replacement, inside)
        # Of an Inception branch's first unit torchvision drops the 0: branch0 is that unit.
        inside = inside.replace("branch0.0.", "branch0.", 1)
        return f"{found['above']}features.{COCLR[found['module']]}.{inside}"
    if _COCLR_TWICE.fullmatch(name):
        return None
    if found := _COCLR_HEAD.fullmatch(name):
        return f"{found['above']}.head.{int(found['number']) - 2}.{found['leaf']}"
    return name


def is_mmaction2(names: Iterable[str]) -> bool:
    """Whether the names are those of a residual network of mmaction2."""
    return any(re.fullmatch(r"(?:.*\.)?conv1\.conv\.weight", name) for name in names)


def from_mmaction2(name: str) -> str:
    """torchvision's name of a tensor of mmaction2's ResNet or ResNet3dSlowOnly."""
    name = re.sub(r"\bconv(\d)\.conv\.", r"conv\1.", name)
    name = re.sub(r"\bconv(\d)\.bn\.", r"bn\1.", name)
    return re.sub(r"\bdownsample\.(conv|bn)\.", lambda f: f"downsample.{int(f[1] == 'bn')}.", name)


def to_mmaction2(name: str) -> str:
    """mmaction2's name of a tensor of a residual network, inside a recognizer."""
    name = re.sub(r"\bbn(\d)\.", r"conv\1.bn.", re.sub(r"\bconv(\d)\.", r"conv\1.conv.", name))
    name = re.sub(r"\bdownsample\.0\.", "downsample.conv.", name)
    return "backbone." + re.sub(r"\bdownsample\.1\.", "downsample.bn.", name)
