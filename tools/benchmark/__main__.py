"""`python -m tools.benchmark data|ops|step|flow|scale|memory|nvdec|cpu|gpu`: the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tools.benchmark import cpu, data, gpu, growth, nvdec, scale, step
from tools.benchmark.conditions import conditions, in_words
from tools.benchmark.device import PartsFailed
from tools.benchmark.flow import run as flow
from tools.benchmark.measure import NotInstalled
from tools.benchmark.ops import run as ops
from tools.benchmark.proof import NotProved
from tools.benchmark.record import Record
from training.errors import ConfigError

EXIT_USAGE = 2
FILE_WIDTH = 120  # of tables that no terminal shows
COMMANDS = {
    "data": (data, "reading videos and making shards"),
    "ops": (ops, "the fused operations"),
    "step": (step, "a whole training step"),
    "flow": (flow, "optical flow: its speed and its error"),
    "scale": (scale, "one training by several processes, and a model of many nodes"),
    "memory": (growth, "what a long run of the loader keeps, in memory and in open files"),
    "nvdec": (nvdec, "video decoders by picture size, codec and number of sessions"),
    "cpu": (cpu, "what cores can show: loaders, memory, waiting, ranks; one result a processor"),
    "gpu": (gpu, "all that wants a GPU, tests and trainings included; one result a device"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 ok (whether or not a goal is reached), 1 an op that is not proved to be right
    or a part of `cpu` or `gpu` that failed, 2 usage or a rival missing that a command cannot do
    without.
    """
    arguments = _parser().parse_args(argv)
    arguments.folder = arguments.folder.absolute()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    record = Record(arguments.folder / f"{arguments.what}.json", console)
    command, _ = COMMANDS[arguments.what]
    try:
        command.run(arguments, record)
    except NotInstalled as error:
        print(f"error: a rival is not installed · {error}", file=sys.stderr)
        return EXIT_USAGE
    except (NotProved, PartsFailed, ConfigError) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    console.print(in_words(conditions()))
    console.print(f"wrote {record.path} and {record.page}")
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tools.benchmark")
    commands = parser.add_subparsers(dest="what", required=True)
    for name, (command, does) in COMMANDS.items():
        own = commands.add_parser(name, help=does, description=does, formatter_class=defaults)
        own.add_argument("-o", "--folder", type=Path, default=Path("benchmark"), metavar="DIR")
        command.add_arguments(own)
    return parser


if __name__ == "__main__":
    sys.exit(main())
