"""The report of a run as one HTML file, at any time during the run or after it.

python -m tools.report runs/x --eval results/random results/pretrained -o report.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.console import exit_code_of
from training.errors import ALL


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 ok, 2 usage or a folder without a run, 3 data, 130 Ctrl-C."""
    args = _parser().parse_args(argv)
    output = args.output or args.run / "report.html"
    return exit_code_of(
        report,
        args,
        output=output,
        interrupted="the page is not written",
        errors=(*ALL, ValueError),
    )


def report(args: argparse.Namespace) -> int:
    # Imported here: torch takes seconds to load, and usage should be told at once.
    from training.report import read_evaluation, write_report

    evaluations = [read_evaluation(folder) for folder in args.eval]
    path = write_report(
        args.output or args.run / "report.html",
        run=args.run,
        evaluations=evaluations,
        manifests=args.manifests,
    )
    print(f"written to {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    description = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m tools.report", description=description)
    parser.add_argument("run", type=Path, metavar="RUN", help="run.dir of a training")
    parser.add_argument("-o", "--output", type=Path, metavar="HTML", help="RUN/report.html")
    parser.add_argument("--eval", type=Path, nargs="+", default=[], metavar="DIR",
                        help="output folders of evaluate.py, a row of the tables each")  # fmt: skip
    parser.add_argument("--manifests", type=Path, nargs="+", default=[], metavar="DIR",
                        help="where their manifests are, if not near them")  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


if __name__ == "__main__":
    sys.exit(main())
