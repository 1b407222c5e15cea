"""The settings of the flow operators, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# DALI's numbers for them; slow is the most exact.
NVOF_PRESETS = {"slow": 0.0, "medium": 0.5, "fast": 1.0}


@dataclass
class Tvl1Config:
    scales: int = 5  # at most; fewer where a side would have less than 16 pixels
    scale_step: float = 0.8  # side of a scale / side of the next finer
    warps: int = 5  # of each scale
    iterations: int = 30  # of each warp
    attachment: float = 0.15  # lambda: how much a difference in grey counts against rough flow
    tightness: float = 0.3  # theta: how far the primal and the dual solution may be apart
    time_step: float = 0.25  # tau of the dual step; converges up to 0.25


@dataclass
class NvofConfig:
    preset: Literal["slow", "medium", "fast"] = "medium"
    grid: int = 1  # pixels of a side that share one vector: 1, 2, 4; Turing has 4 alone


@dataclass
class DisConfig:
    preset: Literal["ultrafast", "fast", "medium"] = "fast"


@dataclass
class FlowConfig:
    operator: Literal["auto", "nvof", "tvl1", "dis"] = "auto"
    encoding: Literal["raw", "image"] = "raw"  # u and v in pixels, or three channels of bytes
    # of image, as the code of ViCC has it: a picture like another, see pipeline.flow.encoding
    official: bool = False
    tvl1: Tvl1Config = field(default_factory=Tvl1Config)
    nvof: NvofConfig = field(default_factory=NvofConfig)
    dis: DisConfig = field(default_factory=DisConfig)


def check(config: FlowConfig) -> None:
    """Raise ValueError naming the field when a value is out of its range."""
    if config.encoding not in ("raw", "image"):
        raise ValueError(f"flow.encoding: expected raw or image, got {config.encoding!r}")
    if config.official and config.encoding != "image":
        raise ValueError(
            "flow.official: treats flow as a picture, and raw is none; set flow.encoding=image"
        )
    _check_tvl1("flow.tvl1", config.tvl1)
    if (preset := config.nvof.preset) not in NVOF_PRESETS:
        raise ValueError(f"flow.nvof.preset: expected slow, medium or fast, got {preset!r}")
    if (grid := config.nvof.grid) not in (1, 2, 4):
        raise ValueError(f"flow.nvof.grid: expected 1, 2 or 4 pixels, got {grid}")
    if (preset := config.dis.preset) not in ("ultrafast", "fast", "medium"):
        raise ValueError(f"flow.dis.preset: expected ultrafast, fast or medium, got {preset!r}")


def _check_tvl1(where: str, config: Tvl1Config) -> None:
    for name in ("scales", "warps", "iterations"):
        if (value := getattr(config, name)) < 1:
            raise ValueError(f"{where}.{name}: expected at least 1, got {value}")
    for name in ("attachment", "tightness"):
        if not (value := getattr(config, name)) > 0:
            raise ValueError(f"{where}.{name}: expected more than 0, got {value}")
    if not 0 < config.time_step <= 0.25:
        raise ValueError(
            f"{where}.time_step: expected a number in (0, 0.25], where the dual step converges, "
            f"got {config.time_step}"
        )
    if not 0 < config.scale_step < 1:
        raise ValueError(
            f"{where}.scale_step: expected a number between 0 and 1, got {config.scale_step}"
        )
