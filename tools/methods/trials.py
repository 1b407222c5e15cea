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
    is_default: bool = False  # the method itself, which has to beat its untrained network

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

# Every training is short, so that all of them end within 25 minutes on two cores: what is compared
# has the same number of steps and samples.
MOCO = ("run.stages.moco.run.steps=300", "run.stages.adversarial.run.steps=100")
SHORT = ("data.batch_size=32", "run.steps=400")

VARIANTS = (
    Variant(
        "videomoco",
        "plain MoCo",
        DEMO,
        (*MOCO, "run.stages.adversarial.method.generator=none", "method.decay=1.0"),
    ),
    Variant("videomoco", "adversarial drop and decay", DEMO, MOCO, is_default=True),
    Variant("cvrl", "decreasing intervals", CVRL, SHORT, is_default=True),
    Variant("cvrl", "uniform intervals", CVRL, (*SHORT, "clip.interval=uniform")),
    Variant("cvrl", "increasing intervals", CVRL, (*SHORT, "clip.interval=increasing")),
    Variant("cvrl", "per-frame augmentation", CVRL, (*SHORT, "augment.consistent=false")),
    Variant("vclr", "all four losses", VCLR, SHORT, is_default=True),
    Variant(
        "vclr",
        "inter and intra",
        VCLR,
        (*SHORT, "method.segment_weight=0.0", "method.order_weight=0.0"),
    ),
)

CLAIMS = (
    Claim("videomoco", "adversarial drop and decay", "plain MoCo", "VideoMoCo, abstract"),
    Claim("cvrl", "decreasing intervals", "per-frame augmentation", "CVRL, ablation"),
    Claim("cvrl", "decreasing intervals", "uniform intervals", "CVRL, ablation"),
    Claim("cvrl", "uniform intervals", "increasing intervals", "CVRL, ablation"),
    Claim("vclr", "all four losses", "inter and intra", "VCLR, ablation"),
)

# Scalars of metrics.jsonl that say whether a method's own task is learned, and what chance gives.
TASKS = {("vclr", "all four losses"): ("order_accuracy", 0.25)}
