"""The whole of Kinema on a small data set made here: videos, pretraining, evaluation, report.

python -m tools.demo demo

Every step is a command that you can run yourself; it is printed before it runs. Running the demo
again continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.whole import whole_file
from training.errors import EXIT_INTERRUPTED, EXIT_STOPPED, ConfigError

ROOT = Path(__file__).parents[1]
TEST_SEED_OFFSET = 1000  # train and test videos come from different seeds


@dataclass(frozen=True)
class Scale:
    """How large the demo is. videos: of a class, to train and to test on. clips: of a video."""

    recipe: str
    classes: int
    train_videos: int
    test_videos: int
    clips: int
    video_options: tuple[str, ...] = ()


# 12 x 80 = 960 videos to train on; 12 x 25 = 300 to test, so one is 0.33 points. A clip of the
# recipe spans 22 of a video's 40 frames: two clips, from the first and to the last, show it all.
FULL = Scale("configs/demo.yaml", classes=12, train_videos=80, test_videos=25, clips=2)
# 4 x 6 = 24 and 4 x 3 = 12 videos: seconds, for tests. Its figures mean nothing.
QUICK = Scale(
    "configs/smoke.yaml", classes=4, train_videos=6, test_videos=3, clips=2,
    video_options=("--size", "32", "--frames", "16"),
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A command of the demo, without the interpreter. once: its result needs no second run."""

    name: str
    command: list[str]
    once: bool = False


class StepFailed(Exception):
    """A command of the demo did not end well."""

    def __init__(self, step: Step, exit_code: int):
        super().__init__(step, exit_code)
        self.step = step
        self.exit_code = exit_code if exit_code > 0 else 128 - exit_code  # as a shell says it

    def __str__(self) -> str:
        if self.exit_code in (EXIT_STOPPED, EXIT_INTERRUPTED):
            return "stopped: run the same demo again to continue"
        return (
            f"error: step '{self.step.name}' ended with exit code {self.exit_code} · its message "
            f"is above · run it by hand: {shown(self.step.command)}"
        )


class Record:
    """demo.json in the demo's folder: what was run, and how long it took over all attempts."""

    def __init__(self, path: Path, settings: dict):
        self.path = path
        self.steps: dict[str, dict] = {}
        if path.exists():
            content = json.loads(path.read_text())
            self.steps = content.pop("steps")
            if content != settings:
                raise ConfigError(
                    f"error: the folder has the demo of {_listed(content)}, asked is "
                    f"{_listed(settings)} · {path.parent} · choose another folder"
                )
        self.settings = settings

    def is_done(self, step: Step) -> bool:
        entry = self.steps.get(step.name, {})
        return entry.get("done", False) and entry["command"] == step.command

    def note(self, step: Step, seconds: float, *, done: bool) -> None:
        """Add the time of an attempt; a finished step that is run again keeps its first time."""
        if self.is_done(step):
            return
        before = self.steps.get(step.name, {}).get("seconds", 0.0)
        entry = {"command": step.command, "seconds": before + seconds, "done": done}
        self.steps[step.name] = entry
        text = json.dumps({**self.settings, "steps": self.steps}, indent=2) + "\n"
        with whole_file(self.path) as file:
            file.write(text.encode())

    def seconds(self) -> dict[str, float]:
        """Time of each part of the work: steps whose names begin with the same word together."""
        parts: dict[str, float] = {}
        for name, entry in self.steps.items():
            part = name.split()[0]
            parts[part] = parts.get(part, 0.0) + entry["seconds"]
        return parts


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 ok, 2 usage, else that of the command that failed."""
    arguments = _parser().parse_args(argv)
    try:
        demo(arguments.folder, seed=arguments.seed, quick=arguments.quick)
    except (ConfigError, StepFailed) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def demo(folder: Path, *, seed: int, quick: bool) -> None:
    """Run all steps into `folder`, then show the table and write the report."""
    folder.mkdir(parents=True, exist_ok=True)
    folder = Path(_short(folder))
    scale = QUICK if quick else FULL
    record = Record(ROOT / folder / "demo.json", {"seed": seed, "quick": quick})
    for step in [*data_steps(folder, scale, seed), training_step(folder, scale, seed)]:
        run_step(step, record)
    checkpoint = max((ROOT / folder / "run" / "checkpoints").glob("step_*.pt"))
    for step in evaluation_steps(folder, scale, seed, checkpoint=_short(checkpoint)):
        run_step(step, record)
    finish(ROOT / folder, record)


def data_steps(folder: Path, scale: Scale, seed: int) -> list[Step]:
    """Videos and their manifests. The test set is drawn from another seed."""
    steps = []
    for split, videos in (("train", scale.train_videos), ("test", scale.test_videos)):
        own_seed = seed + (TEST_SEED_OFFSET if split == "test" else 0)
        make = ["-m", "tools.synth", f"{folder}/videos/{split}", "--split", split]
        make += ["--classes", str(scale.classes), "--videos-per-class", str(videos)]
        make += ["--seed", str(own_seed), *scale.video_options]
        index = ["-m", "tools.index", f"{folder}/videos/{split}", "-o", f"{folder}/{split}.parquet"]
        if split == "test":
            index += ["--classes-from", f"{folder}/train.parquet"]
        steps.append(Step(f"videos {split}", make, once=True))
        steps.append(Step(f"index {split}", index, once=True))
    return steps


def training_step(folder: Path, scale: Scale, seed: int) -> Step:
    settings = [f"data.train={folder}/train.parquet", f"run.dir={folder}/run", f"run.seed={seed}"]
    return Step("pretraining", ["train.py", scale.recipe, *settings])


def evaluation_steps(folder: Path, scale: Scale, seed: int, *, checkpoint: str) -> list[Step]:
    """Retrieval, which leaves its features behind, and the linear probe on the same features."""
    steps = []
    for name in ("random", "pretrained", "pixels"):
        source = ["--checkpoint", checkpoint]
        if name != "pretrained":
            source = ["--checkpoint", name, "--recipe", scale.recipe, f"run.seed={seed}"]
        for protocol in ("retrieval", "linear"):
            command = ["evaluate.py", protocol, *source, "--clips", str(scale.clips)]
            command += ["--train", f"{folder}/train.parquet", "--test", f"{folder}/test.parquet"]
            command += ["-o", f"{folder}/eval/{name}"]
            steps.append(Step(f"evaluation {name} {protocol}", command))
    return steps


def run_step(step: Step, record: Record) -> None:
    """Print the command and run it, unless it is done for good. Raises StepFailed."""
    print(f"\n$ {shown(step.command)}", flush=True)
    if step.once and record.is_done(step):
        print("done before", flush=True)
        return
    start = time.perf_counter()
    exit_code = 1
    try:
        exit_code = call([sys.executable, *step.command])
    finally:
        record.note(step, time.perf_counter() - start, done=exit_code == 0)
    if exit_code:
        raise StepFailed(step, exit_code)


def call(command: list[str]) -> int:
    """Run a command in Kinema's folder; stop only when it has stopped: train.py saves first."""
    with subprocess.Popen(command, cwd=ROOT) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            return process.wait()
        except KeyboardInterrupt:  # Ctrl-C reaches the command as well
            return process.wait() or EXIT_INTERRUPTED


def finish(folder: Path, record: Record) -> None:
    """The table on the terminal, the same in report.html, and where the time went."""
    # Imported here: torch takes seconds to load, and the first command should start at once.
    from training.report import duration, read_evaluation, write_report
    from training.results import read_measured

    names = {"random": "random network", "pretrained": "pretrained", "pixels": "raw pixels"}
    folders = {folder / "eval" / key: name for key, name in names.items()}
    report = write_report(
        folder / "report.html",
        run=folder / "run",
        evaluations=[read_evaluation(path, name) for path, name in folders.items()],
        seconds=record.seconds(),
    )
    print_table(*[read_measured(name, path) for path, name in folders.items()])
    spent = record.seconds()
    print("time: " + ", ".join(f"{name} {duration(value)}" for name, value in spent.items()))
    print(f"in all {duration(sum(spent.values()))}\nreport: {_short(report)}")


def print_table(random, pretrained, pixels) -> None:
    """Shares of the test videos in per cent, and what pretraining gained."""
    from training.results import MEASURES, gain, measures

    rows = [random, pretrained, pixels]
    columns = measures(rows)
    table = Table(
        title=f"{len(pretrained.classes)} classes, chance {100 * pretrained.chance['R@1']:.1f} %",
        caption=f"{pretrained.evaluated} test videos, {pretrained.gallery} training videos",
    )
    table.add_column("per cent")
    for measure in columns:
        table.add_column(MEASURES[measure], justify="right")
    for row in rows:
        style = "bold" if row is pretrained else None
        table.add_row(row.name, *[f"{100 * row.share[m]:.1f}" for m in columns], style=style)
    chances = [f"{100 * pretrained.chance[m]:.1f}" for m in columns]
    table.add_row("chance", *chances, style="dim")
    print()
    Console().print(table)
    for measure in ("R@1", "top-1"):
        points, best = gain(pretrained, [random, pixels], measure)
        print(f"{MEASURES[measure]}: pretrained {points:+.1f} points over the {best.name}")


def shown(command: Sequence[str]) -> str:
    """The command as one types it."""
    return shlex.join(["python", *command])


def _short(path: Path) -> str:
    """Relative to Kinema's folder, where all commands run, if the path is inside it."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def _listed(settings: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _parser() -> argparse.ArgumentParser:
    description = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=description)
    parser.add_argument("folder", type=Path, metavar="DIR", help="gets videos, run and report")
    parser.add_argument("--seed", type=int, default=0, help="of the videos and the training")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that all works")
    return parser


if __name__ == "__main__":
    sys.exit(main())
