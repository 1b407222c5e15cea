"""Recipes: one YAML file, typed by the parts' own dataclasses, with dotted overrides.

Unknown keys and wrong types are errors that name the key. `run.stages` maps a stage's name to
overrides of the recipe; the stages run one after the other, each from the weights of the last.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from models import method_config
from pipeline import AugmentConfig, ClipConfig, DataConfig, FlowConfig
from pipeline.augment import check as check_augment
from pipeline.clip import check as check_clip
from pipeline.flow.config import check as check_flow
from pipeline.loader import check as check_data
from training.errors import ConfigError
from training.optim import OptimConfig
from training.optim import check as check_optim

# What a stage may not change: it would be another run.
FIXED_IN_STAGES = ("backbone", "data.train", "data.split", "flow", "method.name")
METHOD = "videomoco"  # of a recipe that names none
OF_A_STAGE = ("run.epochs", "run.steps")  # the only keys of `run` that a stage may set


@dataclass
class BackboneConfig:
    name: str = "r2plus1d_18"
    width: int = 64  # channels of the first stage; 64 is the papers' network
    norm_eps: float = 0.0  # of its batch norms; 0: the network's own (s3d 1e-3, all others 1e-5)
    weights: str = ""  # file to start from, of Kinema or as published; empty: random weights
    head_weights: bool = False  # the method's heads start from the head in that file, too

    def network(self) -> dict[str, Any]:
        """Arguments of `models.build_backbone`."""
        return {"name": self.name, "width": self.width, "norm_eps": self.norm_eps}


@dataclass
class OnlineConfig:
    manifest: str = ""  # labelled videos that ask each other while training; empty: none
    split: str = ""  # use only these rows of it; empty: all
    every_epochs: float = 10.0  # and at the end of every stage
    clips: int = 1  # uniform clips of a video
    batch_size: int = 8  # videos at once, in each process


@dataclass
class RunConfig:
    dir: str = ""  # run folder; empty: runs/<name of the recipe>
    epochs: float = 200.0  # of this stage
    steps: int = 0  # of this stage, instead of epochs; 0: as epochs say
    seed: int = 0
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 on a GPU that has it
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0  # CPU threads of the trainer; 0: as torch finds. Other threads, other bits
    channels_last: bool = True  # memory format of 3-D convolutions
    compile: bool = False  # networks by torch.compile: minutes at the start, then faster steps
    cuda_graph: bool = False  # each step as one launch; one GPU. Helps where launches are the limit
    save_every_steps: int = 1000
    keep_checkpoints: int = (
        2  # newest ones; at least 2, so that a damaged one is never the only one
    )
    log_every_steps: int = 10  # lines on the terminal and loggers; metrics.jsonl has every step
    tensorboard: bool = False  # curves in run.dir/tb
    wandb: str = ""  # project of Weights & Biases; empty: none
    mlflow: str = ""  # experiment of MLflow; empty: none
    stages: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A resolved configuration: one field for each part of the program, in data-flow order."""

    data: DataConfig
    clip: ClipConfig
    augment: AugmentConfig
    flow: FlowConfig  # of the views whose flow the method asks for, or a flow network's evaluation
    backbone: BackboneConfig
    method: Any  # the dataclass of the method's own options, and its name
    optim: OptimConfig
    online: OnlineConfig
    run: RunConfig

    def plain(self) -> dict[str, Any]:
        """The recipe as dicts and lists, for config.yaml and the checkpoint."""
        return {part.name: asdict(getattr(self, part.name)) for part in fields(self)}

    def method_options(self) -> dict[str, Any]:
        """Options of the method without its name."""
        options = {f.name: getattr(self.method, f.name) for f in fields(self.method)}
        del options["name"]
        return options


def load(path: str | Path, overrides: list[str], *, staged: bool = True) -> Recipe:
    """The recipe in `path` with `key=value` overrides. Raises ConfigError in one line.

    staged: false leaves its stages out, for a network that none of them has trained.
    """
    given, typed = read_yaml(Path(path)), read_overrides(overrides)
    if not staged and isinstance(given.get("run"), dict):
        given["run"].pop("stages", None)
    for key in _leaves(typed):
        _refuse_hidden(key, given)
    asked = OmegaConf.merge(OmegaConf.create(given), typed)
    recipe = resolve(OmegaConf.to_container(asked), where=str(path))
    for name in recipe.run.stages:
        stage_recipe(recipe, name)
    if not recipe.run.dir:
        recipe.run.dir = str(Path("runs") / Path(path).stem)
    return recipe


def resolve(given: dict[str, Any], *, where: str) -> Recipe:
    """A recipe from plain values, typed and complete. `where` is named in errors."""
    method = given.get("method")
    parts = _parts(method.get("name", METHOD) if isinstance(method, dict) else METHOD, where)
    config = OmegaConf.create({part: OmegaConf.structured(kind) for part, kind in parts.items()})
    OmegaConf.set_readonly(config.method, False)  # its dataclass is frozen
    for part, values in given.items():
        _merge(config, part, values, where)
    try:
        recipe = Recipe(**{part: _built(config, part) for part in parts})
        _check(recipe)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"error: {_first_line(error)} · {where}") from error
    return recipe


def _built(config: DictConfig, part: str) -> Any:
    """The dataclass of a part. A method, which knows no recipe, names its own fields in errors."""
    try:
        return OmegaConf.to_object(config[part])
    except OmegaConfBaseException:
        raise
    except ValueError as error:
        raise ValueError(f"{part}.{error}") from error


def of_checkpoint(plain: dict[str, Any], stage: str, overrides: list[str]) -> Recipe:
    """The recipe of the stage that a checkpoint was saved in, with overrides for evaluation."""
    recipe = resolve(_numbered(plain), where="the checkpoint")
    own = stage_recipe(recipe, stage) if stage in recipe.run.stages else recipe
    merged = OmegaConf.merge(OmegaConf.create(own.plain()), read_overrides(overrides))
    return resolve(OmegaConf.to_container(merged), where="the command line")


def stage_recipe(recipe: Recipe, name: str) -> Recipe:
    """The recipe of one stage: its overrides over everything else."""
    overrides = recipe.run.stages[name] or {}
    if not isinstance(overrides, dict):
        raise ConfigError(f"error: run.stages.{name}: expected a group of keys, got {overrides!r}")
    for key in _leaves(overrides):
        fixed = any(key == f or key.startswith(f + ".") for f in FIXED_IN_STAGES)
        if fixed or (key.startswith("run.") and key not in OF_A_STAGE):
            raise ConfigError(
                f"error: run.stages.{name} sets {key}, which stays the same in all stages · "
                "set it at the top of the recipe"
            )
    plain = recipe.plain()
    plain["run"]["stages"] = {}
    merged = OmegaConf.merge(OmegaConf.create(plain), OmegaConf.create(overrides))
    return resolve(OmegaConf.to_container(merged), where=f"run.stages.{name}")


def group(name: str, kind: type, *layers: tuple[dict[str, Any], str]) -> Any:
    """A group of keys beside the recipe: the dataclass `kind` with the values of all layers, later
    ones over earlier. A layer's second part is named in errors. Raises ConfigError in one line.
    """
    config = OmegaConf.create({name: OmegaConf.structured(kind)})
    for values, where in layers:
        _merge(config, name, values, where)
    return OmegaConf.to_object(config[name])


def differences(a: dict, b: dict, prefix: str = "") -> dict[str, tuple]:
    """Dotted keys whose values differ between two plain configurations, with both values."""
    found = {}
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found |= differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found[prefix + key] = (left, right)
    return found


def _parts(method: str, where: str) -> dict[str, type]:
    try:
        options = method_config(method)
    except ValueError as error:
        raise ConfigError(f"error: method.name: {error} · {where}") from error
    frozen = options.__dataclass_params__.frozen
    named = make_dataclass("MethodConfig", [("name", str, method)], bases=(options,), frozen=frozen)
    return {
        "data": DataConfig,
        "clip": ClipConfig,
        "augment": AugmentConfig,
        "flow": FlowConfig,
        "backbone": BackboneConfig,
        "method": named,
        "optim": OptimConfig,
        "online": OnlineConfig,
        "run": RunConfig,
    }


def _merge(config: DictConfig, part: str, values: Any, where: str) -> None:
    if part not in config:
        raise ConfigError(_unknown(str(part), list(config), where))
    if not isinstance(values, dict):
        raise ConfigError(f"error: {part}: expected a group of keys, got {values!r} · {where}")
    for key in values:
        if key not in config[part]:
            raise ConfigError(
                _unknown(f"{part}.{key}", [f"{part}.{k}" for k in config[part]], where)
            )
    try:
        config[part].merge_with(values)
    except OmegaConfBaseException as error:
        key = error.full_key or part
        raise ConfigError(f"error: {key}: {_first_line(error)} · {where}") from error


def _unknown(key: str, known: list[str], where: str) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
    return f"error: {key}: unknown key · {where} · {hint}"


def read_yaml(path: Path) -> dict[str, Any]:
    """The groups of keys in a file. Raises ConfigError where it holds anything else, or nothing."""
    try:
        # OmegaConf's loader is safe, reads 1e-3 as a number and refuses a key given twice.
        given = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except OSError as error:
        raise ConfigError(f"error: cannot read the recipe · {path} · {error.strerror}") from error
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"error: not a recipe in YAML · {path} · {_one_line(error)}") from error
    if not isinstance(given, dict):
        raise ConfigError(f"error: not a recipe: expected groups of keys, got a list · {path}")
    if not given:
        raise ConfigError(f"error: the recipe is empty · {path} · see configs/ for examples")
    _refuse_missing(given, str(path))
    return _numbered(given)


def read_overrides(overrides: list[str]) -> dict[str, Any]:
    """Nested groups from `key=value`, later ones over earlier. Raises ConfigError."""
    for override in overrides:
        if "=" not in override or override.startswith("-"):
            raise ConfigError(f"error: '{override}': expected key=value, as optim.lr=0.03")
    try:
        given = OmegaConf.to_container(OmegaConf.from_dotlist(overrides))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"error: cannot read an override · {_one_line(error)}") from error
    _refuse_missing(given, "the command line")
    return _numbered(given)


def _numbered(tree: Any, name: str = "") -> Any:
    """The tree with numbers as keys of `views`; in dotted keys and in JSON they are text."""
    if not isinstance(tree, dict):
        return tree
    numbers = {key: int(key) for key in tree if name == "views" and str(key).isdecimal()}
    return {numbers.get(key, key): _numbered(value, key) for key, value in tree.items()}


def _refuse_missing(tree: Any, where: str, key: str = "") -> None:
    """To OmegaConf ??? is a value yet to come, and merging one keeps the default."""
    if tree == MISSING:
        raise ConfigError(f"error: {key}: {MISSING} is no value · {where} · write one, or no key")
    children = dict(enumerate(tree)) if isinstance(tree, list) else tree
    for name, value in children.items() if isinstance(children, dict) else ():
        _refuse_missing(value, where, f"{key}.{name}" if key else str(name))


def _refuse_hidden(key: str, given: dict[str, Any]) -> None:
    """An override that every stage would override again has no effect: say so."""
    for name, stage in ((given.get("run") or {}).get("stages") or {}).items():
        if key in _leaves(stage):
            raise ConfigError(
                f"error: {key} is set by stage '{name}' · write run.stages.{name}.{key}=..."
            )


def _leaves(tree: Any, prefix: str = "") -> list[str]:
    """Dotted names of the values in nested groups; none in what is no group."""
    if not isinstance(tree, dict):
        return []
    keys = []
    for key, value in tree.items():
        is_group = isinstance(value, dict) and value
        keys += _leaves(value, f"{prefix}{key}.") if is_group else [f"{prefix}{key}"]
    return keys


def _check(recipe: Recipe) -> None:
    check_data(recipe.data)
    check_clip(recipe.clip)
    check_augment(recipe.augment)
    check_flow(recipe.flow)
    check_optim(recipe.optim)
    if recipe.backbone.head_weights and not recipe.backbone.weights:
        raise ValueError("backbone.head_weights: from which file? set backbone.weights")
    online, run = recipe.online, recipe.run
    if not online.every_epochs > 0:
        raise ValueError(f"online.every_epochs: expected more than 0, got {online.every_epochs}")
    if online.clips < 1:
        raise ValueError(f"online.clips: expected at least 1, got {online.clips}")
    if online.batch_size < 1:
        raise ValueError(f"online.batch_size: expected at least 1, got {online.batch_size}")
    if run.keep_checkpoints < 2:
        raise ValueError(f"run.keep_checkpoints: expected at least 2, got {run.keep_checkpoints}")
    if not 0 <= run.seed < 2**63:
        raise ValueError(f"run.seed: expected 0 to 2^63 - 1, got {run.seed}")
    if run.save_every_steps < 1 or run.log_every_steps < 1:
        raise ValueError("run.save_every_steps and run.log_every_steps: expected at least 1")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
