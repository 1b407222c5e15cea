"""The stages of a run: when each begins and ends, and how a stage is built from the one before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from models import Method, build_backbone, build_method
from pipeline import ClipConfig, DataError, Manifest, Place, build_loader
from pipeline.clip import frames_of_segments, span, with_next_frame
from pipeline.lanes import AUTO
from pipeline.loader import Loader
from pipeline.quarantine import Quarantine
from training import weights
from training.checkpoint import Checkpoint
from training.config import Recipe, stage_recipe
from training.distributed import Process, of_all_ranks
from training.errors import CheckpointError, ConfigError
from training.optim import build_optimizer, load_state, lr_at


@dataclass(frozen=True)
class Stage:
    """Steps [first_step, last_step) of the run, under one recipe.

    first_sample: samples that the stages before have used; the run's samples are numbered on.
    """

    name: str
    number: int
    recipe: Recipe
    first_step: int
    last_step: int
    first_sample: int
    videos: int

    @property
    def steps_per_epoch(self) -> float:
        return self.videos / self.recipe.data.batch_size

    def samples(self, step: int) -> int:
        """Samples that all ranks have used in the stage before the step `step` of the run."""
        return (step - self.first_step) * self.recipe.data.batch_size

    def epoch(self, step: int) -> float:
        """Epochs of the stage before that step: exact where they are whole."""
        return self.samples(step) / self.videos

    def lr(self, step: int) -> float:
        """Learning rate of the step `step` of the run."""
        return lr_at(
            self.epoch(step),
            self.recipe.optim,
            epochs=self.epoch(self.last_step),
            global_batch=self.recipe.data.batch_size,
        )


def plan(recipe: Recipe, videos: int) -> list[Stage]:
    """All stages of a run over a data set of `videos`; a recipe without stages is one stage.

    A stage of e epochs has e x videos // batch steps: batches run on across the ends of epochs,
    so no video is left out of an epoch.
    """
    names = list(recipe.run.stages)
    recipes = [stage_recipe(recipe, name) for name in names] or [recipe]
    stages, step, sample = [], 0, 0
    for number, (name, own) in enumerate(zip(names or ["pretrain"], recipes, strict=True)):
        steps = own.run.steps or int(own.run.epochs * videos // own.data.batch_size)
        if steps < 1:
            raise ConfigError(
                f"error: stage '{name}' has no step: {own.run.epochs} epochs of {videos} videos in "
                f"batches of {own.data.batch_size} · raise run.epochs or lower data.batch_size"
            )
        stages.append(Stage(name, number, own, step, step + steps, sample, videos))
        step, sample = step + steps, sample + steps * own.data.batch_size
    return stages


def build(
    stage: Stage,
    process: Process,
    *,
    fresh: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Method, torch.optim.Optimizer]:
    """The stage's method with its first weights, the same in every process, and its optimiser.

    fresh, say: of `first_method`. Raises what it does, and ValueError where the method cannot train
    in so many processes of that kind.
    """
    method = first_method(stage, fresh=fresh, say=say)
    method.check_ranks(process.world, process.device.type)
    method.to(process.device)
    return method, build_optimizer(method, stage.recipe.optim)


def first_method(
    stage: Stage, *, fresh: bool = True, say: Callable[[str], None] = lambda line: None
) -> Method:
    """The stage's method with its first weights, on the CPU: enough to look at it.

    fresh: no checkpoint will replace these weights, so the first stage takes those of
    backbone.weights and tells `say` which. Raises CheckpointError where they do not fit.
    """
    recipe = stage.recipe
    torch.manual_seed(recipe.run.seed + stage.number)
    backbone = build_backbone(**recipe.backbone.network())
    file = recipe.backbone.weights if fresh and stage.number == 0 else ""
    if file:
        say(f"backbone: {weights.load(Path(file), backbone)}")
    method = build_method(
        recipe.method.name,
        backbone,
        frames=recipe.clip.frames,
        size=recipe.augment.size,
        **recipe.method_options(),
    )
    if file and recipe.backbone.head_weights:
        weights.start_heads(Path(file), method)
        say("heads: all start from the file's")
    if recipe.run.channels_last:
        _channels_last(method)
    return method


def _channels_last(module: nn.Module) -> None:
    """Weights of convolutions in the memory format that cuDNN and oneDNN are fastest in.

    The format of the weights carries over to their outputs, so inputs need no conversion.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            layer.to(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d):
            layer.to(memory_format=torch.channels_last)


def restore(
    stage: Stage, method: Method, optimizer: torch.optim.Optimizer, state: Checkpoint
) -> str:
    """Continue `stage` from `state`: inside it exactly, at its start from the last one's weights.

    Returns what was loaded, in words. Raises CheckpointError when the tensors do not fit.
    """
    try:
        if state.stage != stage.name:
            loaded, fresh = method.load_previous(state.method)
            counts = f"{len(loaded)} tensors from '{state.stage}', {len(fresh)} new"
            return f"stage '{stage.name}': {counts}"
        method.load_state_dict(state.method)
        load_state(optimizer, state.optimizer)
    except (RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"error: the checkpoint does not fit stage '{stage.name}' · {reason}"
        ) from error
    return f"stage '{stage.name}': all {len(state.method)} tensors, from step {state.step}"


def training_loader(
    stage: Stage,
    manifest: Manifest,
    method: Method,
    process: Process,
    quarantine: Quarantine | None = None,
    *,
    cpu_share: float | str = AUTO,
    say: Callable[[str], None] = lambda line: None,
) -> Loader:
    """The stage's batches, with the views and the flow that its method asks for. quarantine: is
    told of damaged videos, and knows which are not tried again. cpu_share: where the recipe leaves
    it open, that of the run so far.

    Raises ConfigError where the recipe's clips are not those that the method needs, DataError where
    no video is long enough for its segments; `say` is told how many videos are too short, and what
    makes the flow.
    """
    recipe, data = stage.recipe, stage.recipe.data
    if data.cpu_share == AUTO:
        data = replace(data, cpu_share=cpu_share)
    needs = method.views
    check_sampling(recipe, method)
    _check_lengths(with_next_frame(recipe.clip) if needs.flow else recipe.clip, manifest, say)
    return build_loader(
        manifest,
        clip=recipe.clip,
        augment=recipe.augment,
        data=data,
        seed=recipe.run.seed,
        views=needs.number,
        exchanged=needs.exchanged if process.world > 1 else (),
        first_sample=stage.first_sample,
        place=Place(process.rank, process.world, str(process.device)),
        noted=quarantine.note if quarantine else lambda entries: None,
        refused=quarantine.refused(manifest) if quarantine else None,
        flow=recipe.flow,
        flow_views=needs.flow,
        agreed=lambda choice: of_all_ranks(choice, process)[0],
        say=say,
    )


def check_sampling(recipe: Recipe, method: Method) -> None:
    """Raises ConfigError where the recipe's clips are not those that the method's views need."""
    needed, asked = method.views.sampling, recipe.clip.sampling
    if needed and asked != needed:
        raise ConfigError(
            f"error: clip.sampling: {asked} does not give the views of {recipe.method.name} · set "
            f"clip.sampling={needed}"
        )


def _check_lengths(clip: ClipConfig, manifest: Manifest, say: Callable[[str], None]) -> None:
    """Videos that are too short for their clips are no error: some may be, and they are counted."""
    if clip.sampling == "segments":
        _check_segments(clip, manifest, say)
        return
    least = span(clip.frames, clip.stride)
    short, videos = int((manifest.frames < least).sum()), len(manifest)
    if short:
        say(
            f"{short} of {videos} videos are shorter than the {least} frames of a clip and loop "
            "(clip.frames, clip.stride)"
        )


def _check_segments(clip: ClipConfig, manifest: Manifest, say: Callable[[str], None]) -> None:
    least = frames_of_segments(clip)
    short, videos = int((manifest.frames < least).sum()), len(manifest)
    need = f"{clip.segments} segments for clips of {clip.frames} frames need"
    if short == videos:
        raise DataError(
            f"error: all {videos} videos are shorter than the {least} frames that {need} · "
            f"{manifest.path} · lower clip.segments, clip.frames or clip.stride"
        )
    if short:
        say(
            f"{short} of {videos} videos are shorter than the {least} frames that {need}: their "
            "segments overlap (clip.segments, clip.frames, clip.stride)"
        )
