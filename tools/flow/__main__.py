"""Computes the flow of every video of a manifest once and stores it.

python -m tools.flow train.parquet -o flow/

Kinema itself needs none of it, for it computes flow while it trains. Stopped or killed, the same
command continues; another manifest adds its videos to the folder. DIR/index.jsonl lists the
files, DIR/flow.json says how they were made, and tools/flow/compute.py what is in them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.flow.config import FlowConfig, check
from pipeline.flow.operator import choose_operator
from pipeline.manifest import Manifest
from pipeline.shards.spool import megabytes
from tools.console import exit_code_of, fraction, positive, printable, seconds
from tools.flow.compute import Maker, Settings
from tools.flow.index import Index
from tools.flow.run import Result, bytes_an_hour, make, note_rejected
from tools.shard.run import codes
from training import errors


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 ok, 2 usage, folder or disk, 3 data, 130 Ctrl-C."""
    arguments = _parser().parse_intermixed_args(argv)
    return exit_code_of(
        _flow,
        arguments,
        output=arguments.output,
        interrupted="give the same command again, it continues",
        errors=(*errors.ALL, ValueError, ImportError),
        continues=True,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.flow",
        description=__doc__.split("\n\n")[0] + " Stopped or killed, the same command continues.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("manifest", type=Path, metavar="M.parquet", help="made by python -m tools.index")
    add("settings", nargs="*", metavar="key=value", help="such as dis.preset=medium; as in recipes")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="new, or of an earlier run")
    add("--operator", choices=["auto", "nvof", "tvl1", "dis"], default="auto")
    add("--encoding", choices=["image", "raw"], default="image", help="JPEG in zip, or float16")
    add("--size", type=positive, default=128, help="pixels of the short side; none is enlarged")
    add("--stride", type=positive, default=1, help="frames from one picture to the next")
    add("--split", default="", help="only rows of this split")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--jobs", type=positive, default=len(os.sched_getaffinity(0)), help="worker processes")
    add("--timeout-seconds", type=seconds, default=1800.0, help="longest time for one video")
    add("--max-bad-fraction", type=fraction, default=0.01, help="failures that are in order")
    add("--debug", action="store_true", help="show a traceback when something fails")
    return parser


def _flow(arguments: argparse.Namespace) -> int:
    source = Manifest.read(arguments.manifest, arguments.split)
    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    config = _config(arguments)
    operator, why = choose_operator(config.operator, device)
    settings = Settings(operator, config, size=arguments.size, stride=arguments.stride)
    folder = Path(os.path.abspath(arguments.output))
    with Index(folder, settings) as index:
        print(f"flow by {operator} on {device}: {why}")
        maker = Maker(settings, folder, device)
        limits = {"jobs": arguments.jobs, "timeout_seconds": arguments.timeout_seconds}
        result = make(source, index, maker, **limits)
        _report(result, index)
        most = arguments.max_bad_fraction
        note_rejected(result, folder / "quarantine.jsonl", most=most)
    return 0


def _config(arguments: argparse.Namespace) -> FlowConfig:
    """Raises ValueError for a setting that is unknown or out of its range."""
    given = OmegaConf.from_dotlist(arguments.settings)
    named = {"operator": arguments.operator, "encoding": arguments.encoding}
    try:
        merged = OmegaConf.merge(OmegaConf.structured(FlowConfig), given, named)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"{' '.join(arguments.settings)}: {str(error).splitlines()[0]}") from error
    check(config)
    return config


def _report(result: Result, index: Index) -> None:
    rate = f", {result.made / result.seconds:.3g} videos/s" if result.made else ""
    size = sum(row["bytes"] for row in index.rows.values())
    print(printable(f"wrote {index.path}"))
    print(f"  videos     {len(index.rows)}, {result.made} of them in this run{rate}")
    print(f"  disk       {megabytes(size)}, {megabytes(bytes_an_hour(index))} for an hour of video")
    if result.rejected:
        print(
            f"  rejected   {len(result.rejected)} ({codes(result.rejected)}), see quarantine.jsonl"
        )


if __name__ == "__main__":
    sys.exit(main())
