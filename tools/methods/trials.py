"""What is trained and what is claimed of it: every variant of every method, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One training. recipe and overrides as train.py takes them; name: unique in its method."""

    method: str
    name: str
    recipe: str
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return f"{self.method}/{self.name.replace(' ', '-')}"


@dataclass(frozen=True)
class Claim:
    """That one variant of a method retrieves better than another; source: where it is said."""

    method: str
    better: str
    worse: str
    source: str


DEMO = "configs/demo.yaml"
CVRL = "configs/cvrl_small.yaml"
VCLR = "configs/vclr_small.yaml"

VARIANTS = (
    Variant(
        "videomoco",
        "plain MoCo",
        DEMO,
        ("run.stages.moco.run.steps=600", "run.stages.adversarial.run.steps=100",
         "run.stages.adversarial.method.generator=none", "method.decay=1.0"),
    ),
    Variant(
        "videomoco",
        "adversarial drop and decay",
        DEMO,
        ("run.stages.moco.run.steps=600", "run.stages.adversarial.run.steps=100"),
    ),
    Variant("cvrl", "decreasing intervals", CVRL),
    Variant("cvrl", "uniform intervals", CVRL, ("clip.interval=uniform",)),
    Variant("cvrl", "increasing intervals", CVRL, ("clip.interval=increasing",)),
    Variant("cvrl", "per-frame augmentation", CVRL, ("augment.consistent=false",)),
    Variant("vclr", "all four losses", VCLR),
    Variant(
        "vclr", "inter and intra", VCLR, ("method.segment_weight=0.0", "method.order_weight=0.0")
    ),
)  # fmt: skip

CLAIMS = (
    Claim("videomoco", "adversarial drop and decay", "plain MoCo", "VideoMoCo, abstract"),
    Claim("cvrl", "decreasing intervals", "per-frame augmentation", "CVRL, ablation"),
    Claim("cvrl", "decreasing intervals", "uniform intervals", "CVRL, ablation"),
    Claim("cvrl", "uniform intervals", "increasing intervals", "CVRL, ablation"),
    Claim("vclr", "all four losses", "inter and intra", "VCLR, ablation"),
)

# Scalars of metrics.jsonl that say whether a method's own task is learned, and what chance gives.
TASKS = {("vclr", "all four losses"): ("order_accuracy", 0.25)}
