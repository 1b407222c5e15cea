"""Folders, lists, annotation files or tars of videos -> a checked manifest.

python -m tools.index VIDEOS -o train.parquet
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import get_args

from pipeline.annotations import (
    COLUMNS,
    FORMAT_NAMES,
    SPLITS,
    Annotations,
    Options,
    Row,
    read_annotations,
    suggested_root,
)
from pipeline.errors import BadVideo, DataError
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.probe import Probe, ScanKind
from tools import console
from tools.console import printable
from tools.index_report import (
    SHOWN_EXAMPLES,
    Bad,
    announce,
    codes,
    quarantine_path,
    summarise,
    summarise_bad,
    write_quarantine,
)
from tools.journal import Journal
from tools.probing import VIDEO_SECONDS, Outcome, probe_rows

# Asking a network file system for one file at a time takes a millisecond each.
STAT_THREADS, STAT_CHUNK = 16, 256


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 ok, 2 usage, 3 data, 130 Ctrl-C."""
    arguments = _parser().parse_args(argv)
    return console.exit_code_of(
        _index,
        arguments,
        output=arguments.output,
        interrupted="no manifest was written; run it again to continue",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.index",
        description="Checks every video and writes a manifest. Sources: folders (root/class/video "
        "or without labels), patterns ('videos/**/*.mp4'), videos, lists of lines 'path label', "
        "CSV with a header, WebDataset tars, and the annotation files (or their folder) of UCF101, "
        "HMDB51, Kinetics, ActivityNet, Diving48, Something-Something and Jester.",
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="folder, pattern, video, list or annotations")
    add("-o", "--output", type=_parquet, required=True, metavar="M.parquet")
    _add_reading(parser)
    _add_labels(parser)
    depth = "decode every frame (default), or only go through the packets: quick, but blind to "
    depth += "damage in them"
    add("--scan", choices=get_args(ScanKind), default="decode", help=depth)
    tolerated = "unusable videos that are in order (default: %(default)s)"
    add("--max-bad-fraction", type=console.fraction, default=0.01, help=tolerated)
    cores = len(os.sched_getaffinity(0))
    add(
        "--jobs",
        type=console.positive,
        default=cores,
        help="worker processes (default: %(default)s)",
    )
    longest = "longest time for one video (default: %(default)s)"
    add("--timeout-seconds", type=console.seconds, default=VIDEO_SECONDS, help=longest)
    add("--debug", action="store_true", help="show a traceback when something fails")
    return parser


def _add_reading(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what the sources are, and where their videos").add_argument
    add("--format", choices=FORMAT_NAMES, default="", help="taken for all sources; else detected")
    add("--root", type=Path, metavar="DIR", help="where a list's paths start; else in its folder")
    other = "where listed paths start with OLD/, it becomes NEW/; may be repeated"
    add("--remap", type=_remap, action="append", default=[], metavar="OLD=NEW", help=other)
    names = f"what a list's columns are, such as path,frames,label; of {', '.join(COLUMNS)}"
    add("--columns", type=_columns, default=(), metavar="NAMES", help=names)
    add("--fold", type=console.positive, metavar="N", help="of UCF101 or HMDB51; else the first")
    kept = "keep only this official split; rows without one get it as their name"
    add("--split", default="", metavar="NAME", help=kept)
    add("--strict", action="store_true", help="refuse lists with repeats or overlapping splits")


def _add_labels(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("labels")
    group.add_argument("--no-labels", action="store_true", help="ignore class folders and labels")
    order = group.add_mutually_exclusive_group()
    order.add_argument("--classes", type=Path, metavar="FILE", help="class order, one a line")
    same = "class order of this manifest"
    order.add_argument("--classes-from", type=Path, metavar="TRAIN.parquet", help=same)
    first = "integer label 1 is the first class"
    group.add_argument("--one-based", action="store_true", help=first)


def _index(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    annotations = read_annotations(
        arguments.sources, options=_options(arguments), classes=_given_classes(arguments)
    )
    annotations = _of_split(annotations, arguments.split)
    announce(annotations)
    _check_missing(annotations, arguments)
    with Journal(output.with_suffix(".journal.jsonl")) as journal:
        outcomes = probe_rows(
            annotations.rows,
            jobs=arguments.jobs,
            timeout_seconds=arguments.timeout_seconds,
            scan=arguments.scan,
            journal=journal,
        )
        bad = _write(annotations, outcomes, arguments)
        # Where that ends the run, the journal stays: mended videos alone are probed again.
        _check_budget(outcomes, bad, arguments)
        journal.remove()
    return 0


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        labels=not arguments.no_labels,
        one_based=arguments.one_based,
        root=arguments.root,
        format=arguments.format,
        fold=arguments.fold,
        columns=arguments.columns,
        remap=tuple(arguments.remap),
        strict=arguments.strict,
    )


def _of_split(annotations: Annotations, wanted: str) -> Annotations:
    """Rows of one split; those without a split belong to it."""
    if not wanted:
        return annotations
    name = SPLITS.get(wanted.lower(), wanted)
    kept = [row for row in annotations.rows if row.split in ("", wanted, name)]
    if not kept:
        present = ", ".join(sorted({row.split for row in annotations.rows}))
        raise DataError(f"error: no videos of split '{wanted}' · it has: {present} · pass one")
    rows = [replace(row, split=row.split or wanted) for row in kept]
    return replace(annotations, rows=rows)


def _check_missing(annotations: Annotations, arguments: argparse.Namespace) -> None:
    """Raises DataError, before anything is probed, when more files are missing than may be."""
    paths = list({row.path: None for row in annotations.rows})
    absent = set(_absent(paths))
    if not absent:
        return
    missing = [row for row in annotations.rows if row.path in absent]
    first = ", ".join(row.key for row in missing[:SHOWN_EXAMPLES])
    hint = _root_hint([row.path for row in missing], annotations, arguments)
    count = f"{len(missing)} of {len(annotations.rows)} listed videos are missing"
    fraction = arguments.max_bad_fraction
    some_left = len(missing) < len(annotations.rows)
    if some_left and len(missing) <= fraction * len(annotations.rows):
        print(printable(f"  {count}, first {first}; {hint}"), flush=True)
        return
    listed = quarantine_path(arguments.output)
    cure = "check the path"
    write_quarantine(
        listed, [(row, BadVideo("E-MISSING", "no such file", row.path, cure)) for row in missing]
    )
    limit = f"more than --max-bad-fraction={fraction:g}" if some_left else "none is left"
    raise DataError(f"error[E-MISSING]: {count}, {limit} · {listed} · first {first}; {hint}")


def _absent(paths: Sequence[Path]) -> Iterator[Path]:
    chunks = [paths[n : n + STAT_CHUNK] for n in range(0, len(paths), STAT_CHUNK)]
    with ThreadPoolExecutor(STAT_THREADS) as threads:
        for absent in threads.map(lambda c: [p for p in c if not os.path.lexists(p)], chunks):
            yield from absent


def _root_hint(
    missing: Sequence[Path], annotations: Annotations, arguments: argparse.Namespace
) -> str:
    places = [Path(os.path.abspath(source)).parent for source in arguments.sources]
    for root in annotations.roots:
        if hint := suggested_root(missing, root, [*places, Path.cwd()]):
            return f"did you mean {hint}?"
    return f"paths of a list start from {annotations.roots[0]}: pass --root DIR to change it"


def _write(
    annotations: Annotations, outcomes: Sequence[Outcome], arguments: argparse.Namespace
) -> Bad:
    """Writes the manifest and the quarantine file; returns what is unusable."""
    results = [(row, facts, _video(row, facts)) for row, facts in outcomes]
    bad = [(row, video) for row, _, video in results if isinstance(video, BadVideo)]
    good = [(facts, video) for _, facts, video in results if isinstance(video, Video)]
    listed = quarantine_path(arguments.output)
    write_quarantine(listed, bad)
    if good:
        facts, videos = zip(*good, strict=True)
        options = _recorded(arguments, annotations)
        classes = annotations.classes
        manifest = write_manifest(arguments.output, videos, classes=classes, options=options)
        summarise(manifest, videos, facts)
    summarise_bad(bad, listed)
    return bad


def _video(row: Row, facts: Probe | BadVideo) -> Video | BadVideo:
    if isinstance(facts, BadVideo):
        return facts
    place = {"key": row.key, "path": row.path, "offset": row.offset}
    video = Video.of(facts, **place, label=row.label, split=row.split)
    if not row.span:
        return video
    first, frames = row.span.frames(facts.frames, facts.fps)
    if not frames:
        what = f"its segment {row.span} is behind the end ({float(facts.frames / facts.fps):g} s)"
        cure = "correct the segment or leave it out"
        return BadVideo("E-NOFRAMES", what, row.path, cure)
    return replace(video, first_frame=first, frames=frames)


def _given_classes(arguments: argparse.Namespace) -> list[str] | None:
    if arguments.classes_from:
        return Manifest.read(arguments.classes_from).classes
    if arguments.classes is None:
        return None
    try:
        lines = arguments.classes.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "not UTF-8")
        raise DataError(
            f"error: the class list cannot be read ({reason}) · {arguments.classes} · give a UTF-8 "
            "text file with one class on each line"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def _recorded(arguments: argparse.Namespace, annotations: Annotations) -> dict:
    """What the manifest remembers of how it was made; nothing that differs between two runs."""
    return {
        "sources": arguments.sources,
        "formats": annotations.formats,
        "split": arguments.split,
        "labels": not arguments.no_labels,
        "one_based": arguments.one_based,
        "root": str(arguments.root) if arguments.root else None,
        "remap": [list(pair) for pair in arguments.remap],
        "columns": list(arguments.columns),
        "fold": arguments.fold,
        "scan": arguments.scan,
    }


def _check_budget(outcomes: Sequence[Outcome], bad: Bad, arguments: argparse.Namespace) -> None:
    """Raises DataError when more videos are unusable than the user allows."""
    fraction = arguments.max_bad_fraction
    usable = len(outcomes) - len(bad)
    if usable and len(bad) <= fraction * len(outcomes):
        return
    limit = f"more than --max-bad-fraction={fraction:g}" if usable else "none is left"
    written = f"{arguments.output} is written" if usable else f"{arguments.output} is not written"
    examples = "".join(f"\n  {error}" for _, error in bad[:SHOWN_EXAMPLES])
    raise DataError(
        f"error: {len(bad)} of {len(outcomes)} videos are unusable, {limit} ({codes(bad)}) · "
        f"{quarantine_path(arguments.output)} · mend or remove them; {written}{examples}"
    )


def _parquet(text: str) -> Path:
    if not text.endswith(".parquet"):
        raise argparse.ArgumentTypeError(f"'{text}' does not end in .parquet")
    return Path(text)


def _remap(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not old.strip("/") or not equals or not new:
        raise argparse.ArgumentTypeError(f"expected OLD=NEW, got '{text}'")
    return old, new


def _columns(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in COLUMNS]:
        raise argparse.ArgumentTypeError(f"no column '{unknown[0]}': take {', '.join(COLUMNS)}")
    repeated = [name for name in names if name != "skip" and names.count(name) > 1]
    if repeated or "path" not in names:
        raise argparse.ArgumentTypeError(f"expected path once and no name twice, got '{text}'")
    return names


if __name__ == "__main__":
    sys.exit(main())
