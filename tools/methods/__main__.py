"""Train every variant of every method on synthetic videos, and see what holds.

python -m tools.methods demo/methods --seeds 0 1 2

writes methods.json and methods.md into the folder. The same command continues after a stop.
Exit code 1: a method does not clearly beat its untrained network.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tools.demo import StepFailed
from tools.methods import data, table
from tools.methods.run import run_all, trials
from tools.methods.trials import PLAN
from training.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    plan = PLAN.of(arguments.methods)
    folder, start = arguments.folder.absolute(), time.perf_counter()
    todo = trials(folder, plan, arguments.seeds)
    try:
        data.make(folder, plan, arguments.seeds)
        run_all(todo, jobs=arguments.jobs)
    except (ConfigError, StepFailed) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    found = table.rows(todo)
    said = table.verdicts(found, plan.claims, plan.tasks)
    table.show(found, said, Console())
    table.write(
        folder, found, said, shlex.join(["python", "-m", "tools.methods", *(argv or sys.argv[1:])])
    )
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes · {folder / 'methods.md'}")
    failed = table.failures(found)
    print("\n".join(failed), file=sys.stderr, end="\n" if failed else "")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    methods = PLAN.methods
    parser = argparse.ArgumentParser(
        prog="python -m tools.methods", description=__doc__.split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("folder", type=Path, metavar="DIR", help="gets videos, runs and tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    return parser


if __name__ == "__main__":
    sys.exit(main())
