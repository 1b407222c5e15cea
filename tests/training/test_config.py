"""Recipes: what is read, what is refused, and that nothing in them is there for show."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from models import build_backbone, build_method, method_config, names
from pipeline import AugmentConfig, ClipConfig, DataConfig, FlowConfig
from pipeline.clip import check_views
from pipeline.flow.config import DisConfig, NvofConfig, Tvl1Config
from training import config
from training.config import BackboneConfig, Recipe, RunConfig
from training.errors import ConfigError
from training.optim import OptimConfig
from training.stages import check_sampling

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "smoke.yaml"
SHIPPED = sorted((ROOT / "configs").glob("*.yaml"))
SECTIONS = ("data", "clip", "augment", "flow", "backbone", "method", "optim", "online", "run")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def refused(path: Path, *overrides: str) -> str:
    """The one line with which a recipe is refused."""
    with pytest.raises(ConfigError) as caught:
        config.load(path, list(overrides))
    line = str(caught.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


# What is read


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_load_and_build_what_can_train(path):
    """In the processes that a recipe is for, on the clips that it asks for."""
    recipe = config.load(path, [])
    # Of stages that say the same, as ViCC's second cycle does, one.
    named = {str(own): name for name, own in recipe.run.stages.items()}.values()
    stages = [config.stage_recipe(recipe, name) for name in named] or [recipe]
    for stage in stages:
        # Width and queue do not change what is accepted, only how long it takes to build.
        backbone = build_backbone(stage.backbone.name, width=4)
        options = {**stage.method_options(), "queue_size": 16}
        method = build_method(
            stage.method.name, backbone, frames=stage.clip.frames, size=stage.augment.size,
            **{key: options[key] for key in stage.method_options()},
        )  # fmt: skip
        assert method.encoder() is not None
        check_sampling(stage, method)
        check_views(stage.clip, method.views.number)
        assert stage.augment.consistent or not method.views.flow
        alone = stage.run.device == "cpu"
        method.check_ranks(*(1, "cpu") if alone else (8, "cuda"))
        assert not (alone and method.views.exchanged)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_printed_recipe_is_the_same_recipe(path, tmp_path):
    recipe = config.load(path, [])
    again = config.load(written(tmp_path, OmegaConf.to_yaml(OmegaConf.create(recipe.plain()))), [])
    assert again.plain() == recipe.plain()


@pytest.mark.parametrize("written_as", ["1e-3", "1.0e-3", "0.001", "1E-3", ".1e-2"])
def test_exponents_are_numbers(tmp_path, written_as):
    for recipe in (
        config.load(written(tmp_path, f"optim: {{lr: {written_as}}}\n"), []),
        config.load(SMOKE, [f"optim.lr={written_as}"]),
    ):
        assert recipe.optim.lr == 0.001 and type(recipe.optim.lr) is float


def test_values_have_the_types_of_their_fields():
    recipe = config.load(SMOKE, ["optim.lr=1", "clip.frames=8", "augment.scale=[0.5,1]"])
    assert recipe.optim.lr == 1.0 and type(recipe.optim.lr) is float
    assert recipe.clip.frames == 8 and type(recipe.clip.frames) is int
    assert recipe.augment.scale == [0.5, 1.0]


def test_the_run_folder_is_named_after_the_recipe(tmp_path):
    assert config.load(SMOKE, []).run.dir == "runs/smoke"
    assert config.load(SMOKE, ["run.dir=/x y"]).run.dir == "/x y"


def test_what_is_not_said_has_its_default(tmp_path):
    recipe = config.load(written(tmp_path, "clip: {frames: 8}\n"), [])
    assert recipe.optim == OptimConfig() and recipe.data == DataConfig()
    assert recipe.clip == ClipConfig(frames=8)


# Unknown keys, wrong types


@pytest.mark.parametrize(
    "override, nearest",
    [
        ("data.batchsize=4", "data.batch_size"),
        ("clip.frame=4", "clip.frames"),
        ("augment.gray_scale=0", "augment.grayscale"),
        ("backbone.widht=4", "backbone.width"),
        ("method.temprature=1", "method.temperature"),
        ("optim.weight_deacy=0", "optim.weight_decay"),
        ("run.epoch=3", "run.epochs"),
        ("optimizer.lr=3", "optim"),
    ],
)
def test_an_unknown_key_names_the_nearest(override, nearest, tmp_path):
    line = refused(SMOKE, override)
    asked = override.split("=")[0]
    assert f"{asked if nearest != 'optim' else 'optimizer'}: unknown key · " in line
    assert f"did you mean '{nearest}'?" in line
    section, key = [*asked.split(".")]
    line = refused(written(tmp_path, f"{section}:\n  {key}: 3\n"))
    assert f"did you mean '{nearest}'?" in line and str(tmp_path) in line


def test_an_unknown_key_like_no_other_lists_what_there_is():
    line = refused(SMOKE, "clip.qqqqqq=1")
    assert "known: clip.frames, clip.stride, clip.sampling" in line


@pytest.mark.parametrize(
    "override, says",
    [
        ("clip.frames=many", "clip.frames: "),
        ("clip.frames=2.5", "clip.frames: "),
        ("optim.lr=fast", "optim.lr: "),
        ("optim.betas=0.9", "optim.betas: "),
        ("augment.consistent=perhaps", "augment.consistent: "),
        ("data.decoder=vlc", "data.decoder: "),
        ("run.precision=fp8", "run.precision: "),
        ("clip=16", "clip: expected a group of keys, got 16"),
        ("method=videomoco", "method: expected a group of keys, got 'videomoco'"),
        ("run.stages=3", "run.stages: "),
        ("run.stages.moco=3", "run.stages.moco: expected a group of keys, got 3"),
        ("run.stages.moco.clip=3", "clip: expected a group of keys, got 3 · run.stages.moco"),
        ("clip.frames=0", "clip.frames: expected at least 1, got 0"),
        ("optim.lr=0", "optim.lr: expected above 0, got 0.0"),
        ("data.batch_size=0", "data.batch_size: expected at least 1, got 0"),
        ("run.keep_checkpoints=1", "run.keep_checkpoints: expected at least 2, got 1"),
        ("run.seed=-1", "run.seed: expected 0 to 2^63 - 1, got -1"),
        ("run.save_every_steps=0", "run.save_every_steps and run.log_every_steps: expected at"),
        ("method.name=videomocco", "unknown method 'videomocco'; did you mean 'videomoco'?"),
        ("method.name=[1]", "method.name: "),
        ("method.dim=0", "error: method.dim: 0 must be 1 or more · "),
        ("method.dim=wide", "error: method.dim: Value 'wide'"),
        ("method.decay=0", "error: method.decay: 0.0 is outside (0, 1] · "),
        ("optim.betas=[0.9]", "optim.betas: expected two numbers"),
    ],
)
def test_wrong_values_are_named(override, says):
    assert says in refused(SMOKE, override)


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "the recipe is empty"),
        ("# only a comment\n", "the recipe is empty"),
        ("just words\n", "just words: unknown key"),
        ("- a\n- b\n", "not a recipe: expected groups of keys, got a list"),
        ("clip:\n\tframes: 3\n", "not a recipe in YAML"),
        ("clip: {frames: 3\n", "not a recipe in YAML"),
        ("clip: {frames: 3}\nclip: {frames: 4}\n", "found duplicate key clip"),
        ("clip:\n  frames: 3\n  frames: 4\n", "found duplicate key frames"),
        ("clip:\n", "clip: expected a group of keys, got None"),
        ("3: {frames: 3}\n", "3: unknown key"),
        ("clip: {3: 3}\n", "clip.3: unknown key"),
        ("clip: {frames: null}\n", "clip.frames: "),
        ("clip: {frames: '${nowhere}'}\n", "nowhere"),
        ("run: {stages: {a: {optim: {lr: 1}}}}\nclip: \x00\n", "not a recipe in YAML"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, text, says):
    path = written(tmp_path, text)
    line = refused(path)
    assert says in line and (str(path) in line), line


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00clip")
    assert "not a recipe in YAML" in refused(path)


def test_no_such_recipe(tmp_path):
    line = refused(tmp_path / "none.yaml")
    assert line.startswith(f"error: cannot read the recipe · {tmp_path / 'none.yaml'} · No such")
    assert "Is a directory" in refused(tmp_path)


@pytest.mark.parametrize(
    "tag", ["object/apply:os.system", "object/new:os.system", "name:os.system"]
)
def test_objects_in_yaml_do_not_run(tmp_path, tag):
    canary = tmp_path / "canary"
    path = written(tmp_path, f"clip: !!python/{tag} ['touch {canary}']\n")
    assert "not a recipe in YAML" in refused(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "text, key",
    [
        ("clip:\n  frames: ???\n", "clip.frames"),
        ("clip: ???\n", "clip"),
        ('augment:\n  scale: [0.5, "???"]\n', "augment.scale.1"),
        ("run: {stages: {a: {optim: {lr: '???'}}}}\n", "run.stages.a.optim.lr"),
    ],
)
def test_a_value_that_is_still_to_come(tmp_path, text, key):
    path = written(tmp_path, text)
    assert refused(path) == f"error: {key}: ??? is no value · {path} · write one, or no key"


@pytest.mark.parametrize("key", ["clip.frames", "clip", "run.stages.moco.optim.lr", "run.dir"])
def test_an_override_that_is_still_to_come(key):
    line = f"error: {key}: ??? is no value · the command line · write one, or no key"
    assert refused(SMOKE, f"{key}=???") == line
    with pytest.raises(ConfigError, match=re.escape(line)):
        config.of_checkpoint(config.load(SMOKE, []).plain(), "moco", [f"{key}=???"])


# Overrides


@pytest.mark.parametrize("override", ["optim.lr", "--lr=3", "optim.lr 3"])
def test_an_override_without_a_value(override):
    assert f"'{override}': expected key=value, as optim.lr=0.03" in refused(SMOKE, override)


@pytest.mark.parametrize("override", ["optim.lr=[1", "optim.lr={", "=3", "optim..lr=3"])
def test_an_override_that_cannot_be_read(override):
    refused(SMOKE, override)


def test_the_last_override_wins():
    assert config.load(SMOKE, ["optim.lr=1", "optim.lr=2"]).optim.lr == 2


def test_overrides_reach_a_view_by_its_number(tmp_path):
    """A number in a dotted key is the number that YAML reads, also over a recipe that has it."""
    path = written(tmp_path, "augment: {views: {1: {blur: 0.1, solarize: 0.2}}}\n")
    recipe = config.load(path, ["augment.views.1.blur=0.5", "augment.views.0.flip=0"])
    assert recipe.augment.views == {0: {"flip": 0}, 1: {"blur": 0.5, "solarize": 0.2}}
    printed = written(tmp_path, OmegaConf.to_yaml(recipe.plain()))
    assert config.load(printed, []).augment == recipe.augment
    own = ["run.stages.moco.augment.views.1.blur=0.3"]
    stages = config.load(SMOKE, [*own, "augment.views={1: {flip: 0.1}}"])
    assert config.stage_recipe(stages, "moco").augment.views == {1: {"flip": 0.1, "blur": 0.3}}
    again = config.of_checkpoint(recipe.plain(), "pretrain", ["augment.views.1.blur=0.9"])
    assert again.augment.views[1] == {"blur": 0.9, "solarize": 0.2}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("augment.views.1.blurr=1", "augment.views.1.blurr: unknown key · did you mean 'blur'?"),
        ("augment.views.1.blur=2", "augment.views.1.blur: expected a probability, got 2"),
        ("augment.views.1=2", "augment.views.1: expected a group of keys, got 2"),
        ("augment.views.left.blur=1", "augment.views.left: "),
        ("augment.views=1", "augment.views: "),
        ("clip.segments=0", "clip.segments: expected at least 1, got 0"),
        ("clip.interval_power=0", "clip.interval_power: expected above 0, got 0.0"),
    ],
)
def test_wrong_values_of_views_and_clips_are_named(override, says):
    assert says in refused(SMOKE, override)


def test_an_override_that_a_stage_hides(tmp_path):
    line = refused(SMOKE, "method.generator=random")
    assert "method.generator is set by stage 'moco' · write run.stages.moco.method.gen" in line
    recipe = config.load(SMOKE, ["run.stages.moco.method.generator=random"])
    assert config.stage_recipe(recipe, "moco").method.generator == "random"
    assert config.stage_recipe(recipe, "adversarial").method.generator == "adversarial"


def test_what_no_stage_has_trained_takes_any_key():
    """As the untrained flow stream of ViCC, whose stages set the stream."""
    recipe = config.load(SMOKE, ["method.generator=random"], staged=False)
    assert recipe.method.generator == "random" and recipe.run.stages == {}


# Stages


def test_a_stage_overrides_and_keeps_the_rest():
    recipe = config.load(SMOKE, ["run.stages.moco.optim.lr=0.5", "run.stages.moco.run.steps=3"])
    moco, adversarial = (config.stage_recipe(recipe, name) for name in recipe.run.stages)
    assert (moco.optim.lr, moco.run.steps) == (0.5, 3)
    assert (adversarial.optim.lr, adversarial.run.steps) == (0.001, 6)
    assert moco.optim.schedule == adversarial.optim.schedule == "cosine"
    assert moco.clip == recipe.clip and moco.run.stages == {}


def test_an_unknown_key_inside_a_stage():
    line = refused(SMOKE, "run.stages.moco.optim.lrr=0.5")
    assert "optim.lrr: unknown key · run.stages.moco · did you mean 'optim.lr'?" in line


@pytest.mark.parametrize(
    "key",
    [
        "backbone.width",
        "data.train",
        "data.split",
        "flow.operator",
        "flow.tvl1.warps",
        "method.name",
        "run.seed",
        "run.dir",
    ],
)
def test_a_stage_cannot_become_another_run(key):
    value = {"method.name": "videomoco", "flow.operator": "dis"}.get(key, "3")
    line = refused(SMOKE, f"run.stages.moco.{key}={value}")
    assert f"run.stages.moco sets {key}, which stays the same in all stages" in line


def test_a_stage_that_changes_nothing(tmp_path):
    recipe = config.load(written(tmp_path, "run: {stages: {a: , b: {run: {epochs: 3}}}}\n"), [])
    assert config.stage_recipe(recipe, "a").run.epochs == RunConfig().epochs
    assert config.stage_recipe(recipe, "b").run.epochs == 3


def test_the_recipe_of_a_checkpoint_is_that_of_its_stage():
    plain = config.load(SMOKE, []).plain()
    recipe = config.of_checkpoint(plain, "moco", ["clip.stride=3"])
    assert (recipe.method.generator, recipe.clip.stride) == ("none", 3)


def test_differences_name_leaves():
    a = {"x": {"y": 1, "z": [1]}, "same": 3, "gone": 4}
    b = {"x": {"y": 2, "z": [1, 2]}, "same": 3, "new": {"w": 5}}
    assert config.differences(a, b) == {
        "gone": (4, None),
        "new": (None, {"w": 5}),
        "x.y": (1, 2),
        "x.z": ([1], [1, 2]),
    }


# Nothing for show


def attributes_read() -> set[str]:
    """Names that the program reads from objects, or asks for by a string."""
    found: set[str] = set()
    for path in [*ROOT.glob("*.py"), *(p for d in ("pipeline", "models", "training")
                                       for p in (ROOT / d).rglob("*.py"))]:  # fmt: skip
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
                found |= {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
            elif isinstance(node, (ast.Tuple, ast.Dict)):
                # for name in ("frames", "stride"): getattr(config, name)
                keys = node.keys if isinstance(node, ast.Dict) else node.elts
                found |= {k.value for k in keys if isinstance(k, ast.Constant)}
    return found


def test_every_field_of_a_recipe_is_read_somewhere():
    sections = [DataConfig, ClipConfig, AugmentConfig, BackboneConfig, OptimConfig, RunConfig]
    sections += [FlowConfig, Tvl1Config, NvofConfig, DisConfig]
    sections += [method_config(name) for name in names()]
    read = attributes_read()
    unread = [
        f"{section.__module__}.{section.__qualname__}.{field.name}"
        for section in sections
        for field in fields(section)
        if field.name not in read
    ]
    assert not unread


def test_sections_are_the_parts_of_a_recipe():
    recipe = config.load(SMOKE, [])
    assert tuple(field.name for field in fields(Recipe)) == SECTIONS
    assert all(is_dataclass(getattr(recipe, section)) for section in SECTIONS)
