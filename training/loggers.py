"""Other programs that keep curves: TensorBoard, Weights & Biases, MLflow. All are optional.

metrics.jsonl has every number whatever they do, so a logger that fails costs one line on the
terminal and is not called again; the run goes on.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from training.config import Recipe


class Logger(Protocol):
    """A program that keeps curves. Its module is imported where it is made."""

    def add(self, step: int, values: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Events in `folder`/tb; those after the step `first` of an earlier attempt are hidden."""

    def __init__(self, recipe: Recipe, folder: Path, *, first: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tb"), purge_step=first + 1)

    def add(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `run.wandb`, named as the run folder. A resumed run continues it: its id
    is kept in `folder`/wandb.id.
    """

    def __init__(self, recipe: Recipe, folder: Path, *, first: int):
        import wandb

        kept = folder / "wandb.id"
        if not kept.exists():
            kept.write_text(secrets.token_hex(8))
        self._run = wandb.init(
            project=recipe.run.wandb, dir=str(folder), config=recipe.plain(), id=kept.read_text(),
            name=folder.name, resume="allow",
            settings=wandb.Settings(console="off"),  # it would come between terminal and live view
        )  # fmt: skip

    def add(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment `run.mlflow`, named as the run folder; each attempt is one."""

    def __init__(self, recipe: Recipe, folder: Path, *, first: int):
        import mlflow

        self._mlflow = mlflow
        mlflow.set_experiment(recipe.run.mlflow)
        mlflow.start_run(run_name=folder.name)
        mlflow.log_dict(recipe.plain(), "config.yaml")

    def add(self, step: int, values: dict[str, float]) -> None:
        # '@' of knn_R@1 is none of the characters that it allows in a name.
        named = {name.replace("@", "_at_"): value for name, value in values.items()}
        self._mlflow.log_metrics(named, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


KINDS: dict[str, Callable[..., Logger]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


class Loggers:
    """Those that `run` asks for. on: whether this process is the one that logs.

    They get each `run.log_every_steps`-th step, and every step with a retrieval measured.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, *, first: int, say: Callable[[str], None], on: bool
    ):
        self.say, self.every = say, recipe.run.log_every_steps
        self._loggers: dict[str, Logger] = {}
        self._noted: dict[int, dict[str, float]] = {}
        for name, kind in KINDS.items() if on else ():
            if getattr(recipe.run, name):
                logger = self._guarded(name, lambda kind=kind: kind(recipe, folder, first=first))
                if logger is not None:
                    self._loggers[name] = logger

    def note(self, step: int, values: dict[str, float]) -> None:
        """Values known at once, which go out with the scalars that are read some steps later."""
        if self._loggers:
            self._noted[step] = values

    def add(self, step: int, scalars: dict[str, float]) -> None:
        values = {**scalars, **self._noted.pop(step, {})}
        if step % self.every == 0 or any(name.startswith("knn_") for name in scalars):
            self._of_all(lambda logger: logger.add(step, values))

    def close(self) -> None:
        self._of_all(lambda logger: logger.close())

    def _of_all(self, act: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            self._guarded(name, lambda logger=logger: act(logger))

    def _guarded(self, name: str, act: Callable[[], Logger | None]) -> Logger | None:
        """What `act` returns; None where it fails, and the logger of that name is done with."""
        try:
            return act()
        except Exception as error:  # a foreign program over a network: it may fail in any way
            self._loggers.pop(name, None)
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            self.say(f"run.{name}: {reason} · the run goes on without it")
            return None
