"""`tools.benchmark gpu`: everything that wants a GPU in one go, and one record for each device.

What this machine has, its video decoders, all tests that have a CUDA form, short trainings, and the
benchmarks of loading, flow, step and ops, in ten minutes.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from tools.benchmark.device import FOLDER, measure
from tools.benchmark.parts import BUDGET, Part, benchmark
from tools.benchmark.record import Record
from training import distributed

FULL_LOADING = ["damaged", "--workers", "8"]
SCRATCH = Path("benchmark/gpu")  # git ignores it
PARTS = ("doctor", "nvdec", "tests", "training", "lanes", "flow", "starvation", "step", "ops")


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
    measure(
        [part for part in parts_of(arguments) if part.name in arguments.parts], record,
        device=arguments.device, folder=arguments.folder, scratch=SCRATCH,
        seconds=arguments.seconds,
    )  # fmt: skip


def parts_of(arguments: argparse.Namespace) -> list[Part]:
    """In the order in which a machine is got to know; the benchmarks share what time is left."""
    device, seconds = arguments.device, arguments.seconds
    required = {"REQUIRE_CUDA": "1"} if device == "cuda" else {}
    tests = ["-m", "pytest", "-q", "-m", "needs_cuda"]
    quick = ["--quick"] if arguments.quick else []
    small = ["data.batch_size=8", "--seconds", "0.1"] if arguments.quick else []
    loading = ["--batches", "4", "--parts", "pipelines", "lanes"]
    loading += ["--videos", "2", "--seconds", "2"] if arguments.quick else FULL_LOADING
    turns = ["--device", device, "--rounds", str(arguments.rounds), "--budget", BUDGET]
    measured = partial(benchmark, scratch=SCRATCH, seconds=seconds)
    # A part's time is at most its own, and its share of what the parts before it have left.
    return [
        Part("doctor", [["-m", "tools.doctor"]], 60),
        measured("nvdec", "nvdec", turns, seconds=110),
        Part("tests", [tests], 180, environment=required),
        Part("training", _trainings(device), 90),
        measured("lanes", "data", [*turns, *loading], share=0.3),
        measured("flow", "flow", [*turns, *quick], share=0.25),
        measured("starvation", "step", [*turns, *small, "--parts", "starvation"], share=0.4),
        measured("step", "step", [*turns, *small, "--parts", "loops"], share=0.5),
        measured("ops", "ops", [*turns, *quick]),
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
