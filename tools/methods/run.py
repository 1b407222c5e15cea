"""The trainings and evaluations of one seed after another, some side by side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.demo import ROOT, Record, Scale, Step, StepFailed, data_steps, shown
from tools.methods.trials import Variant
from training.errors import ConfigError

RETRIEVAL = "retrieval.json"
SETTINGS = "trial.json"  # beside a result: what it is the result of


@dataclass(frozen=True)
class Trial:
    """A variant under one seed, in a folder of its own; `random` measures its untrained network."""

    variant: Variant
    seed: int
    folder: Path
    data: Path
    clips: int
    random: bool = False

    @property
    def result(self) -> Path:
        return self.folder / "eval" / RETRIEVAL

    def training(self) -> Step:
        settings = [f"data.train={self.data}/train.parquet", f"run.dir={self.folder}/run",
                    f"run.seed={self.seed}", *self.variant.overrides]  # fmt: skip
        return Step(f"train {self.folder}", ["train.py", self.variant.recipe, *settings])

    def evaluation(self) -> Step:
        if self.random:
            source = ["random", "--recipe", self.variant.recipe, f"run.seed={self.seed}"]
        else:
            source = [str(self._checkpoint())]
        command = ["evaluate.py", "retrieval", "--checkpoint", *source, "--clips", str(self.clips)]
        command += ["--train", f"{self.data}/train.parquet", "--test", f"{self.data}/test.parquet"]
        return Step(f"evaluate {self.folder}", [*command, "-o", f"{self.folder}/eval"])

    def _checkpoint(self) -> Path:
        return max((self.folder / "run" / "checkpoints").glob("step_*.pt"))

    def settings(self) -> dict:
        """All that the result depends on besides the program: another value makes it anew."""
        return {"recipe": self.variant.recipe, "overrides": list(self.variant.overrides),
                "seed": self.seed, "clips": self.clips, "random": self.random}  # fmt: skip

    def is_done(self) -> bool:
        """Whether there is a result. Raises ConfigError for one of other settings."""
        stored = self.folder / SETTINGS
        if stored.exists() and json.loads(stored.read_text()) != self.settings():
            raise ConfigError(
                f"error: the folder has a trial with other settings · {stored} · choose another "
                "folder, or delete this trial's"
            )
        return self.result.exists()

    def share(self, measure: str = "R@1") -> float:
        """A measured share of the test videos, from 0 to 1."""
        return json.loads(self.result.read_text())["result"][measure]

    def last_mean(self, scalar: str, steps: int = 100) -> float:
        """Mean of a training's scalar over its last steps."""
        lines = (self.folder / "run" / "metrics.jsonl").read_text().splitlines()[-steps:]
        values = [json.loads(line)[scalar] for line in lines]
        return sum(values) / len(values)


def trials(
    folder: Path, variants: Sequence[Variant], seeds: Iterable[int], *, clips: int
) -> list[Trial]:
    """Every variant under every seed, and once for each method its untrained network."""
    found = []
    for seed in seeds:
        own = folder / f"seed{seed}"
        methods = {variant.method: variant for variant in reversed(variants)}
        for method, variant in methods.items():
            found.append(
                Trial(variant, seed, own / method / "random", own / "data", clips, random=True)
            )
        found += [Trial(v, seed, own / v.folder, own / "data", clips) for v in variants]
    return found


def make_data(folder: Path, scale: Scale, seeds: Iterable[int]) -> None:
    """Videos and manifests of every seed; those that are there are left as they are.

    Raises ConfigError for a folder with data of another scale.
    """
    for seed in seeds:
        data = folder / f"seed{seed}" / "data"
        data.mkdir(parents=True, exist_ok=True)
        record = Record(data / "data.json", {"seed": seed, **_plain(scale)})
        for step in data_steps(data, scale, seed):
            if record.is_done(step):
                continue
            start = time.perf_counter()
            _call(step, data / "log.txt")
            record.note(step, time.perf_counter() - start, done=True)


def _plain(scale: Scale) -> dict:
    """As JSON gives it back."""
    return json.loads(json.dumps(asdict(scale)))


def run_all(todo: Sequence[Trial], *, jobs: int) -> None:
    """Trains and evaluates what has no result yet, `jobs` at a time.

    Raises StepFailed, and ConfigError where the folder has trials of other settings.
    """
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(_run, trial) for trial in todo if not trial.is_done()]
        try:
            for future in futures:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _run(trial: Trial) -> None:
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / SETTINGS).write_text(json.dumps(trial.settings(), indent=2) + "\n")
    log, start = trial.folder / "log.txt", time.perf_counter()
    if not trial.random:
        _call(trial.training(), log)
    _call(trial.evaluation(), log)
    name = "untrained" if trial.random else trial.variant.name
    print(
        f"seed {trial.seed}  {trial.variant.method}  {name}: R@1 {100 * trial.share():.1f} %, "
        f"{time.perf_counter() - start:.0f} s",
        flush=True,
    )


def _call(step: Step, log: Path) -> None:
    """Runs a command on one thread, its output in `log`. Raises StepFailed."""
    print(f"$ {shown(step.command)}", flush=True)
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, *step.command],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        print(log.read_text()[-2000:], file=sys.stderr)
        raise StepFailed(step, done.returncode)
