"""`tools.benchmark cpu`: what the cores of a machine can show, into the record of its processor.

Loaders beside their rivals, memory over a long run, waiting for data, ranks and optical flow, in a
quarter of an hour on two quiet cores; `--parts` adds the operations and the step.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from tools.benchmark.device import FOLDER, measure
from tools.benchmark.parts import BUDGET, Part, benchmark
from tools.benchmark.record import Record
from training import distributed

SCRATCH = Path("benchmark/cpu")  # git ignores it
PARTS = ("data", "memory", "starvation", "scale", "flow", "step", "ops")
DEFAULT = ("data", "memory", "starvation", "scale", "flow")  # the others take longer
# Of `data`, those that the goals of a CPU are about, and where its time goes.
LOADING = ["stages", "clips", "loaders", "originals", "damaged", "lanes"]
SIZES = ["--videos", "4", "--clips", "16"]
SHARES = {"data": 0.7, "step": 0.4}  # of the time that is left
# Tiny problems, to see that all works.
QUICK = {
    "data": ["--videos", "1", "--seconds", "2", "--clips", "2", "--batches", "2"],
    "memory": ["--clips", "2400"],
    "starvation": ["--seconds", "0.1"],
    "scale": ["--steps", "3"],
    "flow": ["--quick"],
    "step": ["data.batch_size=8"],
    "ops": ["--quick"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(folder=FOLDER)
    parser.add_argument("--seconds", type=float, default=900.0, help="for all parts together")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every side")
    parser.add_argument("--quick", action="store_true", help="tiny problems, to see that all works")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(DEFAULT))


def run(arguments: argparse.Namespace, record: Record) -> None:
    """Raises PartsFailed after all that can be written is written."""
    distributed.start("cpu")
    measure(
        [part for part in parts_of(arguments) if part.name in arguments.parts], record,
        device="cpu", folder=arguments.folder, scratch=SCRATCH, seconds=arguments.seconds,
    )  # fmt: skip


def parts_of(arguments: argparse.Namespace) -> list[Part]:
    sizes = QUICK if arguments.quick else {"data": SIZES}
    rounds = ["--device", "cpu", "--rounds", str(arguments.rounds)]
    budget = [*rounds, "--budget", BUDGET]
    options = {
        "data": [*budget, "--parts", *LOADING],
        "memory": [],
        "starvation": [*budget, "--parts", "starvation"],
        "scale": rounds,
        "flow": budget,
        "step": [*budget, "--parts", "loops"],
        "ops": budget,
    }
    commands = {"starvation": "step"}
    measured = partial(benchmark, scratch=SCRATCH, seconds=arguments.seconds)
    return [
        measured(
            name,
            commands.get(name, name),
            [*sizes.get(name, []), *options[name]],
            share=SHARES.get(name, 1.0),
        )
        for name in PARTS
    ]
