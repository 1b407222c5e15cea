"""Videos of a manifest -> WebDataset tars made for random access, and their manifest.

python -m tools.shard train.parquet -o shards/
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.manifest import Manifest
from pipeline.shards.spool import DiskFull
from pipeline.shards.transcode import PRESETS
from tools.console import exit_code_of, fraction, positive, seconds
from tools.shard import workers
from tools.shard.errors import Refused
from tools.shard.report import print_complete, print_part, print_result
from tools.shard.run import Options, Sharding
from tools.shard.workspace import Part, Workspace, complete, open_workspace

PART = (
    "only encode the I-th of N parts (1/N to N/N), for job arrays; when all have ended, the same "
    "command without --part packs them"
)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 ok, 2 usage or disk, 3 data, 130 Ctrl-C."""
    arguments = _parser().parse_args(argv)
    return exit_code_of(
        _shard,
        arguments,
        output=arguments.output,
        interrupted="give the same command again, it continues",
        errors=(DiskFull, Refused),
        continues=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.shard",
        description="Writes the videos of a manifest anew, so that random clips decode fast, into "
        "tars of equal size. Stopped or killed, the same command continues. While at work DIR "
        "holds each video once, and a second time those of the shards being written.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("manifest", type=Path, metavar="M.parquet", help="made by python -m tools.index")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="a new folder")
    add("--preset", choices=sorted(PRESETS), default="fast", help="copy: packets as they are")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shards", type=positive, metavar="N", help="number of shards")
    size.add_argument("--shard-bytes", type=_bytes, default="1G", help="size of a shard")
    add("--max-seconds", type=seconds, metavar="S", help="cut longer videos into equal pieces")
    add("--dedup", action="store_true", help="leave out copies, the same to the byte")
    add("--split", default="", help="only rows of this split")
    add("--max-bad-fraction", type=fraction, default=0.01, help="failures that are in order")
    add("--timeout-seconds", type=seconds, default=1800.0, help="longest time for one video")
    add("--jobs", type=positive, default=len(os.sched_getaffinity(0)), help="worker processes")
    add("--dask", metavar="ADDRESS", help="use the workers of this Dask scheduler instead")
    add("--part", type=_part, metavar="I/N", help=PART)
    add("--debug", action="store_true", help="show a traceback when something fails")
    return parser


def _shard(arguments: argparse.Namespace) -> int:
    options = _options(arguments)
    source = Manifest.read(arguments.manifest, options.split)
    folder = Path(os.path.abspath(arguments.output))
    job = options.job(source)
    with open_workspace(folder, arguments.part) as space:
        if done := complete(folder, job):
            print_complete(done)
        else:
            space.begin(job)
            with _workers(arguments, space) as chosen:
                _work(Sharding(source, options, space, chosen), arguments.part)
        if not arguments.part or done:
            space.close()
    return 0


def _work(sharding: Sharding, part: Part | None) -> None:
    if part:
        print_part(sharding.encode_part(part), part)
    else:
        print_result(sharding.make(), sharding.space.folder, sharding.options.preset)


@contextmanager
def _workers(arguments: argparse.Namespace, space: Workspace) -> Iterator[workers.Workers]:
    if not arguments.dask:
        yield workers.local(arguments.jobs)
        return
    with workers.dask(arguments.dask, space.work) as cluster:
        yield cluster


def _options(arguments: argparse.Namespace) -> Options:
    if arguments.preset == "copy" and arguments.max_seconds:
        raise Refused(
            "error: a copy cannot be cut · --max-seconds · choose a preset that re-encodes: "
            f"{', '.join(sorted(PRESETS.keys() - {'copy'}))}"
        )
    names = Options.__dataclass_fields__
    return Options(**{name: getattr(arguments, name) for name in names})


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)B?", text.upper())
    if not match or not (count := int(float(match[1]) * UNITS[match[2]])):
        raise argparse.ArgumentTypeError(f"expected a size such as 500M or 1G, got '{text}'")
    return count


def _part(text: str) -> Part:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, got '{text}'")
    return Part(int(match[1]), int(match[2]))


if __name__ == "__main__":
    sys.exit(main())
