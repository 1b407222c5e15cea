"""What is trained, what is measured of it, what is claimed: every trial of the check, as data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tools.demo import Scale


@dataclass(frozen=True)
class Training:
    """A run of train.py; name: unique, its folder. data: a key of DATA.

    trunk: a training whose stages up to `shared`, the name of one, are this one's as well. They are
    trained once, and this one goes on from that stage's last checkpoint.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()
    data: str = "scenes"
    trunk: Training | None = None
    shared: str = ""


@dataclass(frozen=True)
class Variant:
    """A network that is measured: a row of the table. name: unique in its method.

    stage: measured at the end of this stage of the training; empty: of the last one. options: of
    evaluate.py, for the untrained network as well. joins: the two variants, RGB and flow, whose
    similarities are summed; such a variant has the training of both.
    """

    method: str
    name: str
    training: Training
    stage: str = ""
    options: tuple[str, ...] = ()
    joins: tuple[str, ...] = ()
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


@dataclass(frozen=True)
class Task:
    """That a method's own task is learned: a scalar of its steps, on the test videos.

    It has to be above `least` by `clear`, both shares, chance being such a `least`.
    """

    method: str
    variant: str
    scalar: str
    words: str
    least: float
    clear: float
    source: str


@dataclass(frozen=True)
class Plan:
    """All trials of a check."""

    variants: tuple[Variant, ...]
    claims: tuple[Claim, ...] = ()
    tasks: tuple[Task, ...] = ()
    data: dict[str, Scale] = field(default_factory=dict)

    def of(self, methods: list[str]) -> Plan:
        """The same of some methods only, with the data that they need."""
        variants = tuple(v for v in self.variants if v.method in methods)
        used = {v.training.data for v in variants}
        return Plan(
            variants,
            tuple(claim for claim in self.claims if claim.method in methods),
            tuple(task for task in self.tasks if task.method in methods),
            {name: scale for name, scale in self.data.items() if name in used},
        )

    @property
    def methods(self) -> list[str]:
        return sorted({variant.method for variant in self.variants})


# 8 x 60 = 480 videos to train on and to search, 8 x 100 = 800 that ask: of a share of 20 % the
# standard error is sqrt(0.2 x 0.8 / 800), 1.4 points. In `passing` ones time shows, without which
# there is no order to tell.
SCENES = Scale(
    "", classes=8, train_videos=60, test_videos=100, clips=2, video_options=("--size", "32")
)
PASSING = replace(SCENES, video_options=(*SCENES.video_options, "--progress"))
# Scene and object tell nothing of the class, the motion alone does; nothing else moves, for at 32
# pixels a camera's way is most of the flow.
MOTION = replace(SCENES, video_options=(*SCENES.video_options, "--motion-only", "--calm"))

DEMO = "configs/demo.yaml"
CVRL = "configs/cvrl_small.yaml"
VCLR = "configs/vclr_small.yaml"
VICC = "configs/vicc_small.yaml"

# What all networks have in common, so that they have one untrained network. ResNet-18 sees every
# frame by itself: a step takes it a third of the time that R3D-18 needs, and 600 steps of CVRL
# brought it 16 points of R@1 where 300 brought R3D-18 six (seed 1).
NETWORK = (
    "backbone.name=resnet18",
    "backbone.width=8",
    "clip.frames=4",
    "clip.stride=3",
    "augment.size=24",
)
# Every training is short, that all of them together take minutes: what is compared has the same
# number of steps and samples.
SHORT = (
    *NETWORK,
    "augment.eval_scale=0.7",  # as near as the crops of training, on average
    "run.save_every_steps=100000",  # and at the end of every stage
)
FAST = ("optim.lr=3e-3", "optim.warmup_epochs=1")

# The recipe's pace: at a faster one VideoMoCo learns the age of its keys and little else.
MOCO = (*SHORT, "run.stages.moco.run.steps=900", "run.stages.adversarial.run.steps=100")
CVRL_SHORT = (
    *SHORT,
    *FAST,
    "augment.scale=[0.2,1.0]",
    "data.batch_size=32",
    "method.hidden_layers=1",
    "run.steps=450",
)
# Crops and light that leave the time of a segment to be seen.
VCLR_SHORT = (
    *SHORT,
    *FAST,
    "augment.scale=[0.5,1.0]",
    "augment.brightness=0.2",
    "augment.contrast=0.2",
    "run.steps=350",
)

# Plain MoCo to the end, and the paper's second half from the same first one. The oldest of 128 keys
# counts 0.995^128 = 0.53, as that of the paper's 65,536 by 0.99999.
PLAIN = Training(
    "videomoco/plain",
    DEMO,
    (*MOCO, "method.decay=1.0", "run.stages.adversarial.method.generator=none"),
)
ADVERSARIAL = Training(
    "videomoco/adversarial",
    DEMO,
    (*MOCO, "method.decay=1.0", "run.stages.adversarial.method.decay=0.995"),
    trunk=PLAIN,
    shared="moco",
)

# DIS needs 32 pixels. The flow stream learns no second time: pictures are what it helped. R3D-18
# takes three times as long, and its pictures lost by the cross stage (18.2 to 15.2 %, one seed).
BOTH = (
    "backbone.name=resnet18",
    "backbone.width=8",
    "clip.frames=6",
    "clip.stride=2",
    "augment.size=32",
    "augment.eval_scale=1.0",
    "run.save_every_steps=100000",
    "run.keep_checkpoints=5",
    "run.stages.rgb.run.steps=300",
    "run.stages.flow.run.steps=300",
    "run.stages.cycle1_rgb.run.steps=250",
    "run.stages.cycle1_flow.run.steps=1",
)
TWO_STREAMS = Training("vicc/both", VICC, BOTH, data="motion")
FLOW = ("method.stream=flow",)


def _cvrl(name: str, *overrides: str) -> Training:
    return Training(f"cvrl/{name}", CVRL, (*CVRL_SHORT, *overrides))


def _vclr(name: str, *overrides: str) -> Training:
    return Training(f"vclr/{name}", VCLR, (*VCLR_SHORT, *overrides), data="passing")


VARIANTS = (
    Variant("videomoco", "plain MoCo", PLAIN),
    Variant("videomoco", "adversarial drop and decay", ADVERSARIAL, is_default=True),
    Variant("cvrl", "decreasing intervals", _cvrl("decreasing"), is_default=True),
    Variant("cvrl", "uniform intervals", _cvrl("uniform", "clip.interval=uniform")),
    Variant("cvrl", "increasing intervals", _cvrl("increasing", "clip.interval=increasing")),
    Variant("cvrl", "per-frame augmentation", _cvrl("per-frame", "augment.consistent=false")),
    Variant("vclr", "all four losses", _vclr("four"), is_default=True),
    Variant(
        "vclr",
        "inter and intra",
        _vclr("two", "method.segment_weight=0.0", "method.order_weight=0.0"),
    ),
    Variant("vicc", "RGB alone", TWO_STREAMS, stage="rgb"),
    Variant("vicc", "flow alone", TWO_STREAMS, stage="flow", options=FLOW),
    Variant("vicc", "cross-stream RGB", TWO_STREAMS, stage="cycle1_rgb", is_default=True),
    Variant("vicc", "RGB and flow", TWO_STREAMS, joins=("cross-stream RGB", "flow alone")),
)

CLAIMS = (
    Claim("videomoco", "adversarial drop and decay", "plain MoCo", "VideoMoCo, abstract"),
    Claim("cvrl", "decreasing intervals", "per-frame augmentation", "CVRL, ablation"),
    Claim("cvrl", "decreasing intervals", "uniform intervals", "CVRL, ablation"),
    Claim("cvrl", "uniform intervals", "increasing intervals", "CVRL, ablation"),
    Claim("vclr", "all four losses", "inter and intra", "VCLR, ablation"),
    Claim("vicc", "flow alone", "RGB alone", "motion alone tells the class"),
    Claim("vicc", "cross-stream RGB", "RGB alone", "ViCC, ablation"),
    Claim("vicc", "RGB and flow", "cross-stream RGB", "ViCC, tables"),
    Claim("vicc", "RGB and flow", "flow alone", "ViCC, tables"),
)

TASKS = (
    # One of four classes; 5 points are 4 standard errors of 1,920 test tuples at chance.
    Task(
        "vclr",
        "all four losses",
        "order_accuracy",
        "order accuracy",
        least=0.25,
        clear=0.05,
        source="VCLR, order loss",
    ),
    # Each video takes its nearest prototype, without Sinkhorn, which would share out any views
    # evenly. 1: as many are used as if each took one by chance; one for all videos: 0.3 %, an
    # untrained network: 6 %. Evenly is half of chance's at least.
    Task(
        "vicc",
        "cross-stream RGB",
        "prototype_use",
        "prototypes used, those of random picks being 100 %,",
        least=0.5,
        clear=0.0,
        source="ViCC, Sinkhorn",
    ),
)

PLAN = Plan(VARIANTS, CLAIMS, TASKS, {"scenes": SCENES, "passing": PASSING, "motion": MOTION})
