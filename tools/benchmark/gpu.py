"""`tools.benchmark gpu`: everything that wants a GPU in one go, and one result for each device.

What this machine has, its video decoders, all tests that have a CUDA form, short trainings, and the
benchmarks of loading, flow, step and ops, in ten minutes. A part that fails is recorded, and the
others go on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from tools.benchmark.conditions import conditions, file_stem, processor
from tools.benchmark.measure import Comparison
from tools.benchmark.parts import BUDGET, ROOT, Outcome, Part, run_part
from tools.benchmark.record import Record
from tools.benchmark.table import markdown, verdicts
from tools.benchmark.workings import Workings
from training import distributed

STARVATION, LOOPS = ["--parts", "starvation"], ["--parts", "loops"]
FOLDER = ROOT / "benchmarks"
SCRATCH = Path("benchmark/gpu")  # in Kinema's folder, where commands run; git ignores it
# Part -> the command whose figures it writes; each part has a folder of its own.
BENCHMARKS = {
    "nvdec": "nvdec",
    "lanes": "data",
    "flow": "flow",
    "starvation": "step",
    "step": "step",
    "ops": "ops",
}
PARTS = ("doctor", "nvdec", "tests", "training", "lanes", "flow", "starvation", "step", "ops")


class PartsFailed(Exception):
    """Some part did not end well; its text is the line for people."""

    exit_code = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(folder=FOLDER)
    parser.add_argument(
        "--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a rehearsal"
    )
    parser.add_argument("--seconds", type=float, default=570.0, help="for all parts together")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every side")
    parser.add_argument("--quick", action="store_true", help="tiny problems, to see that all works")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))


def run(arguments: argparse.Namespace, record: Record) -> None:
    """Raises PartsFailed after all that can be written is written."""
    distributed.start(arguments.device)
    shutil.rmtree(ROOT / SCRATCH, ignore_errors=True)
    (ROOT / SCRATCH).mkdir(parents=True)
    facts = conditions()
    name = processor() if arguments.device == "cpu" else facts["device"]
    record.path = arguments.folder / f"{file_stem(name)}.json"
    parts = [part for part in parts_of(arguments) if part.name in arguments.parts]
    outcomes = run_all(parts, record, seconds=arguments.seconds)
    collect(outcomes, record)
    report = record.path.with_suffix(".md")
    report.write_text(in_markdown(name, facts, outcomes, record))
    record.console.print(f"wrote {report}")
    failed = [outcome.part.name for outcome in outcomes if outcome.failure]
    if failed:
        raise PartsFailed(
            f"error: {len(failed)} of {len(outcomes)} parts failed: {', '.join(failed)} · "
            f"{report} and {SCRATCH} say why"
        )


def parts_of(arguments: argparse.Namespace) -> list[Part]:
    """In the order in which a machine is got to know; the benchmarks share what time is left."""
    device, seconds = arguments.device, arguments.seconds
    required = {"REQUIRE_CUDA": "1"} if device == "cuda" else {}
    tests = ["-m", "pytest", "-q", "-m", "needs_cuda"]
    quick = ["--quick"] if arguments.quick else []
    small = ["data.batch_size=8"] if arguments.quick else []
    loading = ["--parts", "pipelines", "lanes", "--batches", "4"]
    loading += ["--videos", "2", "--seconds", "2"] if arguments.quick else ["--workers", "8"]
    # A part's time is at most its own, and its share of what the parts before it have left.
    return [
        Part("doctor", [["-m", "tools.doctor"]], 60),
        Part("nvdec", [_benchmark("nvdec", arguments)], 110),
        Part("tests", [tests], 180, environment=required),
        Part("training", _trainings(device), 90),
        Part("lanes", [_benchmark("lanes", arguments, *loading)], seconds, share=0.3),
        Part("flow", [_benchmark("flow", arguments, *quick)], seconds, share=0.25),
        Part("starvation", [_benchmark("starvation", arguments, *STARVATION)], seconds, share=0.4),
        Part("step", [_benchmark("step", arguments, *LOOPS, *small)], seconds, share=0.5),
        Part("ops", [_benchmark("ops", arguments, *quick)], seconds),
    ]


def _trainings(device: str) -> list[list[str]]:
    """Both stages of VideoMoCo on videos made here; on a GPU again, as one graph a step."""
    videos, manifest = f"{SCRATCH}/videos", f"{SCRATCH}/train.parquet"
    small = ["--classes", "4", "--videos-per-class", "6", "--size", "32", "--frames", "16"]
    train = ["train.py", "configs/smoke.yaml", f"data.train={manifest}", f"run.device={device}"]
    trainings = [[*train, f"run.dir={SCRATCH}/run"]]
    if device == "cuda":
        half = [*train, "run.precision=bf16"]
        trainings = [
            [*half, f"run.dir={SCRATCH}/run"],
            [*half, f"run.dir={SCRATCH}/run-graph", "run.cuda_graph=true"],
        ]
    make = [["-m", "tools.synth", videos, *small], ["-m", "tools.index", videos, "-o", manifest]]
    return [*make, *trainings]


def _benchmark(part: str, arguments: argparse.Namespace, *options: str) -> list[str]:
    command = ["-m", "tools.benchmark", BENCHMARKS[part], "-o", f"{SCRATCH}/{part}"]
    rounds = ["--device", arguments.device, "--rounds", str(arguments.rounds)]
    return [*command, *rounds, "--budget", BUDGET, *options]


def run_all(parts: Sequence[Part], record: Record, *, seconds: float) -> list[Outcome]:
    """One after the other, each with a line on the terminal; after `seconds` nothing runs."""
    deadline = time.monotonic() + seconds
    outcomes = []
    for part in parts:
        outcome = run_part(part, log=ROOT / SCRATCH / f"{part.name}.log", deadline=deadline)
        record.console.print(f"{part.name}: {outcome.failure or 'ok'}, {outcome.seconds:.0f} s")
        if outcome.failure:
            record.console.print("\n".join(f"  {line}" for line in outcome.tail), markup=False)
        outcomes.append(outcome)
    return outcomes


def collect(outcomes: Sequence[Outcome], record: Record) -> None:
    """What the benchmarks have written so far, also where they failed later, as one file."""
    for part, command in BENCHMARKS.items():
        path = ROOT / SCRATCH / part / f"{command}.json"
        if path.exists():
            content = json.loads(path.read_text())
            record.comparisons += map(Comparison.of_plain, content["comparisons"])
            record.workings += map(Workings.of_plain, content["workings"])
            record.not_measured += content["not_measured"]
    record.more = {"parts": [outcome.plain() for outcome in outcomes]}
    record.write()


def in_markdown(name: str, facts: dict, outcomes: Sequence[Outcome], record: Record) -> str:
    settings = {**facts, **facts["versions"], **facts["threading"]}
    del settings["versions"], settings["threading"]
    goals = [verdict for one in record.comparisons for verdict in verdicts(one)]
    lists = {
        "Measured on": [f"{key}: {value}" for key, value in settings.items() if value],
        "Goals": goals,
        "No time was left for": record.not_measured,
    }
    listed = [
        line
        for heading, items in lists.items()
        for line in (f"## {heading}", "", *(f"- {item}" for item in items), "")
        if items
    ]
    return "\n".join(
        [
            f"# {name}",
            "",
            "Ratios are taken round by round; 20 % and 80 % are quantiles over rounds.",
            "",
            "| part | result | seconds |",
            "| --- | --- | ---: |",
            *(f"| {one.part.name} | {_result(one)} | {one.seconds:.0f} |" for one in outcomes),
            "",
            *listed,
            "## Figures",
            "",
            *map(markdown, record.comparisons),
            *(workings.markdown() for workings in record.workings),
        ]
    )


def _result(outcome: Outcome) -> str:
    """Of tests also how many there were."""
    count = outcome.tail[-1].strip("= ") if outcome.part.name == "tests" and outcome.tail else ""
    words = [outcome.failure or "ok", *([count] if count else [])]
    return ", ".join(words).replace("|", "\\|")
