"""The trainings and measurements of one seed after another, some side by side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tools.demo import Step
from tools.methods import data
from tools.methods.calls import call
from tools.methods.trials import Plan, Task, Training, Variant
from training.errors import ConfigError

RETRIEVAL, TASK = "retrieval.json", "task.json"
SETTINGS = "trial.json"  # beside a result: what it is the result of
# The trainings side by side have all cores busy: a process more for each would only cost its start.
IN_LINE = "data.workers=0"


@dataclass(frozen=True)
class Run:
    """A training under one seed. root: the seed's folder."""

    training: Training
    seed: int
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "runs" / self.training.name

    def manifest(self, split: str) -> Path:
        return data.manifest(self.root, self.training.data, split)

    @property
    def trunk(self) -> Run | None:
        return replace(self, training=self.training.trunk) if self.training.trunk else None

    def steps(self) -> list[Step]:
        """What trains it; one that has begun goes on."""
        begun = any(self._checkpoints().glob("step_*.pt"))
        branch = [] if begun or self.trunk is None else [self._branch()]
        return [*branch, self._command("train", "train.py")]

    def checkpoint(self, stage: str = "") -> Path:
        """The last one, of a stage or of all."""
        if not stage:
            return max(self._checkpoints().glob("step_*.pt"))
        steps = [line["step"] for line in self._metrics() if line["stage"] == stage]
        return self._checkpoints() / f"step_{max(steps):08d}.pt"

    def settings(self) -> dict:
        """All that the weights depend on besides the program: another value makes them anew."""
        return {"seed": self.seed, **json.loads(json.dumps(asdict(self.training)))}

    def _branch(self) -> Step:
        source = self.trunk.checkpoint(self.training.shared)
        return self._command("branch", "-m", "tools.methods.branch", str(source))

    def _command(self, name: str, *program: str) -> Step:
        settings = [f"data.train={self.manifest('train')}", f"run.dir={self.folder}",
                    f"run.seed={self.seed}", IN_LINE, *self.training.overrides]  # fmt: skip
        return Step(f"{name} {self.folder}", [*program, self.training.recipe, *settings])

    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def _metrics(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").open()]


@dataclass(frozen=True)
class Trial:
    """A variant that is measured under one seed; `untrained`: its network before training.

    parts: the trials whose results it joins.
    """

    variant: Variant
    run: Run
    clips: int
    untrained: bool = False
    parts: tuple[Trial, ...] = ()
    task: Task | None = None

    @property
    def seed(self) -> int:
        return self.run.seed

    @property
    def folder(self) -> Path:
        return self.start if self.untrained else self.run.root / self.variant.folder

    @property
    def start(self) -> Path:
        """Folder of the untrained network: one for all that are alike, see `network_of`."""
        options = ["joined"] if self.variant.joins else self.variant.options
        return self.run.root / "untrained" / "-".join([self.run.training.data, *options])

    @property
    def result(self) -> Path:
        return self.folder / RETRIEVAL

    def steps(self) -> list[Step]:
        own_task = [self._own_task()] if self.task and not self.untrained else []
        return [self._retrieval(), *own_task]

    def settings(self) -> dict:
        """All that the result depends on besides the program."""
        training = self.run.settings()
        if self.untrained:
            training = {"seed": self.seed, "recipe": self.run.training.recipe,
                        "overrides": network_of(self.run.training)}  # fmt: skip
        own_task = self.task.scalar if self.task and not self.untrained else ""
        return {"training": training, "data": self.run.training.data, "clips": self.clips,
                "stage": self.variant.stage, "options": list(self.variant.options),
                "joins": list(self.variant.joins), "own_task": own_task}  # fmt: skip

    def share(self) -> float:
        """R@1 of the test videos, from 0 to 1."""
        return json.loads(self.result.read_text())["result"]["R@1"]

    def task_share(self) -> float:
        """The scalar of the method's own task on the test videos."""
        return json.loads((self.folder / TASK).read_text())[self.task.scalar]

    def _retrieval(self) -> Step:
        if self.parts:
            folders = [str(part.folder) for part in self.parts]
            command = ["evaluate.py", "fuse", "--results", *folders]
        else:
            command = ["evaluate.py", "retrieval", *self._source(), *self.variant.options,
                       IN_LINE, "--clips", str(self.clips), *self._manifests()]  # fmt: skip
        return Step(f"evaluate {self.folder}", [*command, "-o", str(self.folder)])

    def _source(self) -> list[str]:
        if not self.untrained:
            return ["--checkpoint", str(self.run.checkpoint(self.variant.stage))]
        training = self.run.training
        return ["--checkpoint", "random", "--recipe", training.recipe, f"run.seed={self.seed}",
                *network_of(training)]  # fmt: skip

    def _manifests(self) -> list[str]:
        return [
            "--train",
            str(self.run.manifest("train")),
            "--test",
            str(self.run.manifest("test")),
        ]

    def _own_task(self) -> Step:
        command = ["-m", "tools.methods.held_out", str(self.run.checkpoint(self.variant.stage)),
                   "--data", str(self.run.manifest("test")), "--scalar", self.task.scalar,
                   "-o", f"{self.folder}/{TASK}"]  # fmt: skip
        return Step(f"own task {self.folder}", command)


def network_of(training: Training) -> list[str]:
    """The overrides that say what an untrained network is and sees, sorted."""
    parts = ("backbone.", "clip.frames=", "clip.stride=", "augment.size=", "augment.eval_scale=")
    return sorted(text for text in training.overrides if text.startswith(parts))


def trials(folder: Path, plan: Plan, seeds: Iterable[int]) -> list[Trial]:
    """Every variant under every seed, and the untrained network of each, those alike once."""
    tasks = {(task.method, task.variant): task for task in plan.tasks}
    found: list[Trial] = []
    for seed in seeds:
        for untrained in (True, False):
            own: dict[tuple[str, str], Trial] = {}
            by_folder: dict[Path, Trial] = {}
            for variant in plan.variants:
                run = Run(variant.training, seed, folder / f"seed{seed}")
                parts = tuple(own[variant.method, name] for name in variant.joins)
                clips = plan.data[variant.training.data].clips
                task = tasks.get((variant.method, variant.name))
                trial = Trial(variant, run, clips, untrained, parts, task)
                own[variant.method, variant.name] = by_folder.setdefault(trial.folder, trial)
            found += by_folder.values()
    return found


def run_all(todo: Sequence[Trial], *, jobs: int) -> None:
    """Trains and measures what has no result yet, `jobs` at a time.

    Raises StepFailed, and ConfigError where the folder has trials of other settings.
    """
    missing = [trial for trial in todo if not is_done(trial)]
    with ThreadPoolExecutor(jobs) as pool:
        try:
            _wait(_trainings(pool, missing).values())
            _wait([pool.submit(_measure, trial) for trial in missing if not trial.parts])
            _wait([pool.submit(_measure, trial) for trial in missing if trial.parts])
        finally:
            pool.shutdown(cancel_futures=True)


def is_done(trial: Trial) -> bool:
    """Whether there is a result. Raises ConfigError for one of other settings."""
    _refuse_other(trial.folder, trial.settings())
    own_task = trial.task is None or trial.untrained or (trial.folder / TASK).exists()
    return trial.result.exists() and own_task


def _trainings(pool: ThreadPoolExecutor, missing: Sequence[Trial]) -> dict[Path, Future]:
    """Every training once; those with a trunk wait for it, so they are begun last."""
    runs = {trial.run.folder: trial.run for trial in missing if not trial.untrained}
    trunks = {run.trunk.folder: run.trunk for run in runs.values() if run.trunk}
    begun: dict[Path, Future] = {}
    for folder, run in sorted((trunks | runs).items(), key=lambda item: item[1].trunk is not None):
        trunk = begun[run.trunk.folder] if run.trunk else None
        begun[folder] = pool.submit(_train, run, trunk)
    return begun


def _wait(futures: Iterable[Future]) -> None:
    for future in futures:
        future.result()


def _train(run: Run, trunk: Future | None) -> None:
    if trunk:
        trunk.result()
    _refuse_other(run.folder, run.settings())
    start = time.perf_counter()
    _call_all(run, run.folder)
    print(f"seed {run.seed}  trained {run.training.name}, {_since(start)}", flush=True)


def _measure(trial: Trial) -> None:
    start = time.perf_counter()
    _call_all(trial, trial.folder)
    name = "untrained" if trial.untrained else trial.variant.name
    print(
        f"seed {trial.seed}  {trial.variant.method}  {name}: R@1 {100 * trial.share():.1f} %, "
        f"{_since(start)}",
        flush=True,
    )


def _since(start: float) -> str:
    return f"{time.perf_counter() - start:.0f} s"


def _refuse_other(folder: Path, settings: dict) -> None:
    stored = folder / SETTINGS
    if stored.exists() and json.loads(stored.read_text()) != settings:
        raise ConfigError(
            f"error: the folder has a trial with other settings · {stored} · choose another "
            "folder, or delete this trial's"
        )


def _call_all(work: Run | Trial, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(json.dumps(work.settings(), indent=2) + "\n")
    for step in work.steps():
        call(step, folder)
