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

from tools.demo import Scale, StepFailed
from tools.methods import table
from tools.methods.run import make_data, run_all, trials
from tools.methods.trials import CLAIMS, VARIANTS
from training.errors import ConfigError

# 12 x 40 = 480 videos to train on and to search, 12 x 25 = 300 that ask: one is 0.33 points.
SCALE = Scale(
    "", classes=12, train_videos=40, test_videos=25, clips=2, video_options=("--size", "32")
)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    variants = [v for v in VARIANTS if v.method in arguments.methods]
    claims = [claim for claim in CLAIMS if claim.method in arguments.methods]
    folder, start = arguments.folder.absolute(), time.perf_counter()
    todo = trials(folder, variants, arguments.seeds, clips=SCALE.clips)
    try:
        make_data(folder, SCALE, arguments.seeds)
        run_all(todo, jobs=arguments.jobs)
    except (ConfigError, StepFailed) as error:
        print(error, file=sys.stderr)
        return error.exit_code
    found = table.rows(todo)
    said = table.verdicts(found, claims)
    table.show(found, said, Console())
    table.write(
        folder, found, said, shlex.join(["python", "-m", "tools.methods", *(argv or sys.argv[1:])])
    )
    print(f"{(time.perf_counter() - start) / 60:.1f} minutes · {folder / 'methods.md'}")
    failed = table.failures(found)
    print("\n".join(failed), file=sys.stderr, end="\n" if failed else "")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    methods = sorted({variant.method for variant in VARIANTS})
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
