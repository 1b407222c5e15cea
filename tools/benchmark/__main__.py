"""`python -m tools.benchmark data`: the command line of the comparisons."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tools.benchmark import data
from tools.benchmark.measure import Comparison
from tools.benchmark.rivals import NotInstalled
from tools.benchmark.table import conditions, print_tables, write_json

EXIT_USAGE = 2
PARTS = ("manifest", "clips", "presets", "shards")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 ok (whether or not a goal is reached), 2 usage or a rival not installed."""
    arguments = _parser().parse_args(argv)
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    console = Console()
    try:
        results = measure(folder, arguments, console)
    except NotInstalled as error:
        print(f"error: a rival is not installed · {error}", file=sys.stderr)
        return EXIT_USAGE
    write_json(folder / "data.json", results)
    facts = conditions()
    console.print(f"{facts['processor']}, {facts['cores']} cores, Python {facts['python']}")
    console.print(f"wrote {folder / 'data.json'}")
    return 0


def measure(folder: Path, arguments: argparse.Namespace, console: Console) -> list[Comparison]:
    """Every part that was asked for; its table is shown as soon as it is there."""
    results: list[Comparison] = []
    rounds = arguments.rounds
    if "manifest" in arguments.parts:
        results.append(data.opening_a_million(folder, rounds=rounds))
        print_tables(results[-1:], console)
    if {"clips", "presets", "shards"} & set(arguments.parts):
        console.print("making the source videos (once)")
        source = data.originals(folder, videos=arguments.videos, seconds=arguments.seconds)
    if "clips" in arguments.parts:
        results.append(data.random_clips(folder, source, clips=arguments.clips, rounds=rounds))
        print_tables(results[-1:], console)
    if "presets" in arguments.parts:
        results.append(data.every_preset(folder, source, clips=arguments.clips, rounds=rounds))
        print_tables(results[-1:], console)
    if "shards" in arguments.parts:
        made = data.making_shards(folder, source, rounds=rounds)
        print_tables(made, console)
        results += made
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("what", choices=["data"], help="data: reading and making shards")
    parser.add_argument("-o", "--folder", type=Path, default=Path("benchmark"), metavar="DIR")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="turns of every side")
    parser.add_argument("--videos", type=int, default=6, help="source videos")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a source video")
    parser.add_argument("--clips", type=int, default=48, help="random clips a turn")
    return parser


if __name__ == "__main__":
    sys.exit(main())
