"""`python -m tools.synth OUT`: writes a labelled set of synthetic action videos."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from rich.progress import track

from tools.synth.classes import CLASSES
from tools.synth.options import Options
from tools.synth.produce import make_videos

EXIT_USAGE, EXIT_DATA, EXIT_INTERRUPTED = 2, 3, 130


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage above it."""

    def error(self, message: str) -> None:
        self.exit(EXIT_USAGE, f"error: {message} · {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    chosen = _parse(arguments)
    total = chosen.classes * chosen.videos_per_class
    start = time.perf_counter()
    try:
        with make_videos(
            chosen.out,
            _options(chosen),
            classes=chosen.classes,
            videos_per_class=chosen.videos_per_class,
            jobs=chosen.jobs,
        ) as paths:
            _follow(paths, total)
    except KeyboardInterrupt:
        print(f"stopped · {chosen.out} · run the same command again", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        return _fail(f"cannot write videos: {error.strerror}", error.filename or chosen.out)
    except BrokenProcessPool:
        return _fail("a worker process was killed, as for lack of memory; try --jobs 1", chosen.out)
    seconds = time.perf_counter() - start
    print(
        f"{total} videos of {chosen.classes} classes · {chosen.out} · {seconds:.1f} s"
        f" · {total / seconds:.1f} videos/s"
    )
    return 0


def _fail(what: str, where: str | Path) -> int:
    print(f"error: {what} · {where}", file=sys.stderr)
    return EXIT_DATA


def _options(chosen: argparse.Namespace) -> Options:
    return Options(
        split=chosen.split,
        seed=chosen.seed,
        size=chosen.size,
        frames=chosen.frames,
        fps=chosen.fps,
        motion_only=chosen.motion_only,
        progress=chosen.progress,
        calm=chosen.calm,
    )


def _follow(paths: Iterable[Path], total: int) -> None:
    """Consumes the results: a bar on a terminal, a line per tenth elsewhere."""
    if sys.stdout.isatty():
        for _ in track(paths, "videos", total=total):
            pass
        return
    for number, _ in enumerate(paths, 1):
        if number * 10 // total > (number - 1) * 10 // total:
            print(f"{number}/{total} videos", flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m tools.synth", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="gets one folder per class")
    parser.add_argument("--classes", type=int, default=12, help=f"1 to {len(CLASSES)}")
    parser.add_argument("--videos-per-class", type=int, default=80)
    parser.add_argument("--split", default="train", help="any name; each has videos of its own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=64, help="side in pixels, even")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--fps", type=int, default=24)
    parser.add_argument(
        "--motion-only", action="store_true", help="scene and object tell nothing of the class"
    )
    parser.add_argument(
        "--progress", action="store_true", help="night falls and the object comes nearer"
    )
    parser.add_argument(
        "--calm", action="store_true", help="a camera at rest, and nothing moves but the object"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    chosen = parser.parse_args(arguments)
    _check(parser, chosen)
    return chosen


def _check(parser: OneLineParser, chosen: argparse.Namespace) -> None:
    """Ends the program with the first rule that the arguments break."""
    rules = (
        ("--classes", 1 <= chosen.classes <= len(CLASSES), f"1 to {len(CLASSES)}"),
        ("--videos-per-class", chosen.videos_per_class >= 1, "at least 1"),
        ("--split", re.fullmatch("[A-Za-z0-9-]+", chosen.split), "letters, digits and - only"),
        ("--seed", 0 <= chosen.seed < 2**64, "0 to 2^64 - 1"),
        ("--size", 16 <= chosen.size <= 4096 and chosen.size % 2 == 0, "an even 16 to 4096 pixels"),
        ("--frames", chosen.frames >= 1, "at least 1"),
        ("--fps", 1 <= chosen.fps <= 240, "1 to 240 frames per second"),
        ("--jobs", chosen.jobs >= 1, "at least 1"),
    )
    for option, valid, rule in rules:
        if not valid:
            value = getattr(chosen, option[2:].replace("-", "_"))
            parser.error(f"{option} {value} must be {rule}")


if __name__ == "__main__":
    sys.exit(main())
