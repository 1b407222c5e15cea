"""Other programs that keep curves: TensorBoard, Weights & Biases, MLflow. All are optional.

metrics.jsonl has every number whatever they do. So each works in a thread of its own, which no step
waits for: one that fails, or does not answer, costs one line on the terminal and is not called
again; the run goes on, and ends.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Protocol

from training.config import Recipe

WAITING_STEPS = 1000  # for a logger that is behind; of one with more, it is told that it hangs
CLOSE_SECONDS = 30.0  # for all loggers together to send what they have


class Logger(Protocol):
    """A program that keeps curves. Its module is imported where it is made. All calls come from one
    thread.
    """

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
        self.every = recipe.run.log_every_steps
        self._noted: dict[int, dict[str, float]] = {}
        self._threads = [
            LoggerThread(name, lambda kind=kind: kind(recipe, folder, first=first), say)
            for name, kind in KINDS.items()
            if on and getattr(recipe.run, name)
        ]

    def note(self, step: int, values: dict[str, float]) -> None:
        """Values known at once, which go out with the scalars that are read some steps later."""
        if self._threads:
            self._noted[step] = values

    def add(self, step: int, scalars: dict[str, float]) -> None:
        values = {**scalars, **self._noted.pop(step, {})}
        if step % self.every == 0 or any(name.startswith("knn_") for name in scalars):
            for thread in self._threads:
                thread.add(step, values)

    def close(self) -> None:
        """Let all send what they have, for at most CLOSE_SECONDS."""
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.ask_to_close()
        for thread in self._threads:
            thread.wait_closed(max(0.0, deadline - time.monotonic()))


class LoggerThread:
    """A logger in its own thread. make: imports and starts it; say: is told, once, why it ended.

    The thread is a daemon: one that hangs does not keep the process from its end.
    """

    def __init__(self, name: str, make: Callable[[], Logger], say: Callable[[str], None]):
        self.name, self.say = name, say
        self._given_up = self._hangs = False
        self._steps: Queue[tuple[int, dict[str, float]] | None] = Queue(WAITING_STEPS)
        self._thread = Thread(target=self._work, args=(make,), name=name, daemon=True)
        self._thread.start()

    def add(self, step: int, values: dict[str, float]) -> None:
        """Hand over a step, without waiting."""
        self._put((step, values))

    def ask_to_close(self) -> None:
        """One that was only slow gets on with what it has, and then has to close as well."""
        if not self._hangs:
            self._put(None)
            return
        with suppress(Full):
            self._steps.put_nowait(None)
            self._hangs = False

    def wait_closed(self, seconds: float) -> None:
        self._thread.join(0 if self._hangs else seconds)
        if self._thread.is_alive():
            self._hang(f"not closed after {CLOSE_SECONDS:g} s")

    def _put(self, entry: tuple[int, dict[str, float]] | None) -> None:
        if self._given_up:
            return
        try:
            self._steps.put_nowait(entry)
        except Full:
            self._hang(f"does not answer, {WAITING_STEPS} steps wait")

    def _hang(self, reason: str) -> None:
        self._hangs = True
        self._give_up(reason)

    def _work(self, make: Callable[[], Logger]) -> None:
        try:
            logger = make()
            while (entry := self._steps.get()) is not None:
                logger.add(*entry)
            logger.close()
        # A foreign program over a network: it may fail in any way, or try to end the process.
        except (Exception, SystemExit) as error:
            self._give_up(" ".join(str(error).split())[:200] or type(error).__name__)

    def _give_up(self, reason: str) -> None:
        if not self._given_up:
            self._given_up = True
            self.say(f"run.{self.name}: {reason} · the run goes on without it")
