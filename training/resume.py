"""From a run folder back to a running state, and from a running state into the folder."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

import torch

from models import Method
from models.batchnorm import mean_statistics, running_statistics
from pipeline import Manifest
from pipeline.lanes import AUTO
from pipeline.loader import Loader
from training import checkpoint, config, distributed
from training.checkpoint import Checkpoint
from training.distributed import Process
from training.errors import CheckpointError, ConfigError
from training.runlog import RunFolder, environment
from training.stages import Stage

# What a resumed run may change: nothing here alters a sample or a gradient.
FREE_ON_RESUME = {
    "data.train", "data.decoder", "data.lanes", "data.cpu_share", "data.workers",
    "data.prefetch_batches",
    "data.threads", "data.decode_timeout_seconds", "data.max_bad_fraction",
    "flow.operator",  # what it comes to is compared instead, see `flow_of_run`
    "run.dir", "run.device", "run.cuda_graph", "run.save_every_steps", "run.keep_checkpoints",
    "run.log_every_steps", "run.tensorboard", "run.wandb", "run.mlflow",
    "online.manifest", "online.split", "online.every_epochs", "online.clips",
    "online.batch_size",
}  # fmt: skip


def resume(
    asked: str, folder: RunFolder, recipe: config.Recipe, manifest: Manifest, process: Process
) -> Checkpoint | None:
    """The state to continue from in this process, or None for a fresh start.

    It has the running statistics of the process's own rank, or their mean when the number of
    processes is another one now.

    asked: "auto" (the newest complete checkpoint of the folder, if any), "never", or the path of
    a checkpoint. Raises ConfigError for "never" in a folder that has a run, CheckpointError for a
    missing or damaged file or one of another recipe or data set.
    """
    if asked == "never":
        if folder.has_run():
            raise ConfigError(
                f"error: the run folder is not empty · {folder.path} · choose another run.dir, or "
                "leave out --resume never to continue"
            )
        return None
    if asked == "auto":
        state = checkpoint.newest(folder.checkpoints, folder.say)
    else:
        state = checkpoint.load(Path(asked))
        _refuse_later(folder, state.step)
    if state:
        _check_same_run(state, recipe, manifest)
        folder.say(f"resuming at step {state.step}, stage '{state.stage}'")
        if len(state.rank_statistics) == process.world:
            state.method |= state.rank_statistics[process.rank]
    return state


def _refuse_later(folder: RunFolder, step: int) -> None:
    """To go back inside a folder would mix two runs in it, and delete the metrics of one."""
    later = [p.name for p in checkpoint.files(folder.checkpoints) if checkpoint.step_of(p) > step]
    if later:
        raise ConfigError(
            f"error: the run folder has checkpoints after step {step}: {', '.join(later)} · "
            f"{folder.path} · move them away, or choose another run.dir"
        )


def _check_same_run(state: Checkpoint, recipe: config.Recipe, manifest: Manifest) -> None:
    # Resolved, so that a key which the checkpoint's version did not have yet is at its default.
    before = config.resolve(state.config, where="the checkpoint").plain()
    changed = config.differences(before, recipe.plain())
    forbidden = {key: pair for key, pair in changed.items() if key not in FREE_ON_RESUME}
    if forbidden:
        table = ", ".join(f"{key} {old} -> {new}" for key, (old, new) in forbidden.items())
        raise CheckpointError(
            f"error: the checkpoint is of another recipe: {table} · take the old values, or start "
            "anew with another run.dir"
        )
    if state.data_fingerprint != manifest.fingerprint:
        raise CheckpointError(
            f"error: the checkpoint was made with another data set · {manifest.path} · restore "
            "that manifest, or start anew with another run.dir"
        )


def flow_of_run(state: Checkpoint | None, loader: Loader) -> dict[str, str]:
    """Operator and encoding of the run's flow, those of earlier stages included; empty: none.

    Raises CheckpointError where the loader makes it by another, as `auto` may on another machine.
    """
    before = state.flow if state else {}
    now = loader.flow.made_with if loader.flow else {}
    for key in before.keys() & now.keys():
        if before[key] != now[key]:
            raise CheckpointError(
                f"error: the run's flow is of flow.{key} {before[key]}, here it would be of "
                f"{now[key]} · set flow.{key}={before[key]}, or start anew with another run.dir"
            )
    return now or before


def share_of_run(state: Checkpoint | None) -> float | str:
    """The part of every batch that the CPU has decoded so far, or `auto` where that is open."""
    return state.config["data"].get("cpu_share", AUTO) if state else AUTO


def as_run(recipe: config.Recipe, loader: Loader) -> dict:
    """The recipe for a checkpoint: with the split of the batch that was found."""
    plain = recipe.plain()
    plain["data"]["cpu_share"] = loader.data.cpu_share
    return plain


@dataclass
class StageState:
    """One stage under way, and how it gets into the run folder. run_ends: last step of all stages.
    flow: of `flow_of_run`.

    The main process alone touches the disk, but all have to call `save`: each has running
    statistics of its own.
    """

    stage: Stage
    method: Method
    optimizer: torch.optim.Optimizer
    process: Process
    folder: RunFolder
    config: dict
    manifest: Manifest
    run_ends: int
    flow: dict[str, str]

    def checkpoint(self, step: int) -> Checkpoint:
        """All that changes the step after `step`, as it is in this process."""
        return Checkpoint(
            step=step,
            stage=self.stage.name,
            method=self.method.state_dict(),
            optimizer=self.optimizer.state_dict(),
            config=self.config,
            classes=list(self.manifest.classes),
            data_fingerprint=self.manifest.fingerprint,
            versions=environment(),
            world=self.process.world,
            flow=self.flow,
        )

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint belongs after `step`: at intervals, and where a stage ends."""
        every = self.stage.recipe.run.save_every_steps
        return step == self.stage.last_step or step % every == 0

    def save(self, step: int, *, stopping: bool) -> None:
        """Save, or say why not and go on: a full disk costs a checkpoint, not the run.

        Raises CheckpointError instead when nothing will be saved after this.
        """
        own = {name: each.cpu() for name, each in running_statistics(self.method).items()}
        ranks = distributed.of_all_ranks(own, self.process)
        if not self.process.is_main:
            return
        state = self.checkpoint(step)
        if self.process.world > 1:
            state.method |= mean_statistics(ranks)
            state.rank_statistics = ranks
        keep = self.stage.recipe.run.keep_checkpoints
        try:
            checkpoint.save(self.folder.checkpoints, state, keep=keep)
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            line = (
                f"error: checkpoint of step {step} not written: {reason} · "
                f"{self.folder.checkpoints} · free some space; the last good checkpoint is kept"
            )
            if stopping or step == self.run_ends:
                raise CheckpointError(line) from error
            self.folder.say(line)
