"""Folders, patterns or lists of videos -> a checked manifest.

python -m tools.index VIDEOS -o train.parquet
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pipeline.annotations import Annotations, Options, Row, read_annotations
from pipeline.errors import BadVideo, DataError
from pipeline.manifest import Manifest, Video, write_manifest
from pipeline.probe import Probe, try_probe
from tools.pool import Crashed, Stuck, supervised_map

EXIT_USAGE, EXIT_INTERRUPTED = 2, 130
SHOWN_ROWS, SHOWN_EXAMPLES, SHOWN_KINDS = 3, 3, 5
PLAIN_INTERVAL_SECONDS = 10.0

Outcome = tuple[Row, Probe | BadVideo]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 ok, 2 usage, 3 data, 130 Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        return _index(arguments)
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    except (DataError, OSError) as error:
        if arguments.debug:
            raise
        print(_printable(_one_line(error)), file=sys.stderr)
        return DataError.exit_code if isinstance(error, DataError) else EXIT_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.index",
        description="Checks every video and writes a manifest. Sources: folders (root/class/video "
        "or without labels), patterns ('videos/**/*.mp4'), videos, lists of lines 'path label'.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help="folder, pattern, video or list")
    add("-o", "--output", type=_parquet, required=True, metavar="M.parquet")
    add("--split", default="", help="name that the rows get, such as train")
    add("--no-labels", action="store_true", help="ignore class folders and labels")
    classes = parser.add_mutually_exclusive_group()
    classes.add_argument("--classes", type=Path, metavar="FILE", help="class order, one a line")
    classes.add_argument(
        "--classes-from", type=Path, metavar="TRAIN.parquet", help="class order of this manifest"
    )
    add("--one-based", action="store_true", help="integer label 1 is the first class")
    add("--root", type=Path, metavar="DIR", help="where a list's paths start; default: its folder")
    add(
        "--max-bad-fraction", type=_fraction, default=0.01, help="unusable videos that are in order"
    )
    add("--jobs", type=_positive, default=len(os.sched_getaffinity(0)), help="worker processes")
    add("--timeout-seconds", type=_seconds, default=30.0, help="longest time for one video")
    add("--debug", action="store_true", help="show a traceback when something fails")
    return parser


def _index(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    options = Options(
        labels=not arguments.no_labels, one_based=arguments.one_based, root=arguments.root
    )
    annotations = read_annotations(
        arguments.sources, options=options, classes=_given_classes(arguments)
    )
    _announce(annotations)
    outcomes = probe_rows(
        annotations.rows, jobs=arguments.jobs, timeout_seconds=arguments.timeout_seconds
    )
    bad = [(row, error) for row, error in outcomes if isinstance(error, BadVideo)]
    good = [(row, facts) for row, facts in outcomes if isinstance(facts, Probe)]
    _write_quarantine(quarantine_path(output), bad)
    if good:
        manifest = write_manifest(
            output,
            [_video(row, facts, arguments.split) for row, facts in good],
            classes=annotations.classes,
            options=_recorded(arguments, annotations),
        )
        _summarise(manifest, [facts for _, facts in good], bad)
    _check_budget(outcomes, bad, arguments)
    return 0


def probe_rows(
    rows: Sequence[Row],
    *,
    jobs: int,
    timeout_seconds: float,
    function: Callable[[Path], Probe | BadVideo] = try_probe,
) -> list[Outcome]:
    """Facts of every row, or why it is unusable, in the rows' order.

    A video whose probe takes longer than `timeout_seconds` or ends its process is unusable.
    """
    results: list[Probe | BadVideo | None] = [_unnameable(row) for row in rows]
    todo = [n for n, result in enumerate(results) if result is None]
    paths = [rows[n].path for n in todo]
    answers = supervised_map(function, paths, jobs=jobs, timeout_seconds=timeout_seconds)
    with _progress(len(paths)) as shown:
        for index, outcome in shown(answers):
            results[todo[index]] = _verdict(outcome, paths[index])
    return list(zip(rows, results, strict=True))


def quarantine_path(manifest: Path) -> Path:
    return manifest.with_suffix(".quarantine.jsonl")


def _verdict(outcome: Probe | BadVideo | Stuck | Crashed, path: Path) -> Probe | BadVideo:
    if isinstance(outcome, Stuck):
        what = f"not decoded within {outcome.seconds:g} s"
        return BadVideo("E-TIMEOUT", what, path, "raise --timeout-seconds if it is a long video")
    if isinstance(outcome, Crashed):
        what = f"the decoder crashed ({outcome.reason})"
        return BadVideo("E-CRASH", what, path, "re-encode it or leave it out")
    return outcome


def _unnameable(row: Row) -> BadVideo | None:
    """Neither parquet nor JSON can hold a file name that is not UTF-8."""
    try:
        f"{row.key}{row.path}".encode()
    except UnicodeEncodeError:
        return BadVideo("E-NOTFILE", "its name is not UTF-8", row.path, "rename it")
    return None


def _video(row: Row, facts: Probe, split: str) -> Video:
    columns = asdict(facts)
    del columns["damaged_frames"]
    return Video(key=row.key, path=row.path, offset=0, label=row.label, split=split, **columns)


def _given_classes(arguments: argparse.Namespace) -> list[str] | None:
    if arguments.classes_from:
        return Manifest.read(arguments.classes_from).classes
    if arguments.classes is None:
        return None
    try:
        lines = arguments.classes.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"error: the class list cannot be read ({error}) · {arguments.classes} · give a UTF-8 "
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
    }


def _write_quarantine(path: Path, bad: Sequence[tuple[Row, BadVideo]]) -> None:
    """One JSON object a line; no file when nothing is bad, so an old one cannot mislead."""
    path.unlink(missing_ok=True)
    if not bad:
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for row, error in bad:
            detail = f"{error.what} · {error.cure}"
            line = {"path": error.path, "code": error.code, "detail": detail, "key": row.key}
            text = json.dumps({k: _encodable(v) for k, v in line.items()}, ensure_ascii=False)
            file.write(text + "\n")
    os.replace(partial, path)


def _check_budget(
    outcomes: Sequence[Outcome], bad: Sequence[tuple[Row, BadVideo]], arguments: argparse.Namespace
) -> None:
    """Raises DataError when more videos are unusable than the user allows."""
    fraction = arguments.max_bad_fraction
    usable = len(outcomes) - len(bad)
    if usable and len(bad) <= fraction * len(outcomes):
        return
    limit = f"more than --max-bad-fraction={fraction:g}" if usable else "none is left"
    written = f"{arguments.output} is written" if usable else f"{arguments.output} is not written"
    examples = "".join(f"\n  {error}" for _, error in bad[:SHOWN_EXAMPLES])
    raise DataError(
        f"error: {len(bad)} of {len(outcomes)} videos are unusable, {limit} ({_codes(bad)}) · "
        f"{quarantine_path(arguments.output)} · mend or remove them; {written}{examples}"
        f"{_root_hint(bad, arguments)}"
    )


def _root_hint(bad: Sequence[tuple[Row, BadVideo]], arguments: argparse.Namespace) -> str:
    if all(error.code != "E-MISSING" for _, error in bad):
        return ""
    root = arguments.root or "the list's own folder"
    return f"\n  files are missing: paths of a list start from {root}; pass --root DIR to change it"


def _announce(annotations: Annotations) -> None:
    print(f"reading as: {', '.join(annotations.formats)}")
    for note in annotations.notes:
        print(f"  {_printable(note)}")
    for row in annotations.rows[:SHOWN_ROWS]:
        label = f"label {row.label} ({annotations.classes[row.label]})" if row.label >= 0 else ""
        print(_printable(f"  {row.key}  {label or 'no label'}"))
    print(f"  {len(annotations.rows)} videos in all", flush=True)


def _summarise(
    manifest: Manifest, facts: Sequence[Probe], bad: Sequence[tuple[Row, BadVideo]]
) -> None:
    seconds = sum(float(one.frames / one.fps) for one in facts)
    rates = Counter(f"{float(one.fps):.5g}" for one in facts)
    sizes = Counter(f"{one.width}x{one.height}" for one in facts)
    print(_printable(f"wrote {manifest.path}"))
    print(f"  videos    {len(facts)}")
    print(f"  classes   {len(manifest.classes)}")
    print(f"  hours     {seconds / 3600:.3g}")
    print(f"  frames    {sum(one.frames for one in facts)}")
    print(f"  fps       {_histogram(rates)}")
    print(f"  size      {_histogram(sizes)}")
    print(f"  codec     {_histogram(Counter(one.codec for one in facts))}")
    print(f"  variable frame rate  {sum(one.vfr for one in facts)}")
    print(f"  damaged but usable   {sum(one.damaged_frames > 0 for one in facts)}")
    if bad:
        where = _printable(str(quarantine_path(manifest.path)))
        print(f"  rejected  {len(bad)} ({_codes(bad)}), see {where}")


def _histogram(counts: Counter[str]) -> str:
    shown = [f"{name} ({count})" for name, count in counts.most_common(SHOWN_KINDS)]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _codes(bad: Sequence[tuple[Row, BadVideo]]) -> str:
    counts = Counter(error.code for _, error in bad)
    return ", ".join(f"{code} {count}" for code, count in counts.most_common())


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Iterable], Iterator]]:
    """Wraps an iterable of `total` items: a bar on a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        yield lambda items: _plain_progress(items, total)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield lambda items: bar.track(items, total=total, description="probing")


def _plain_progress(items: Iterable, total: int) -> Iterator:
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > PLAIN_INTERVAL_SECONDS:
            last = time.monotonic()
            print(f"probed {done}/{total}", file=sys.stderr, flush=True)


def _one_line(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    return (
        f"error: {error.strerror or error} · {error.filename or '-'} · check path and permissions"
    )


def _encodable(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a foreign file name become escapes."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _printable(text: str) -> str:
    """Text without control characters: a file name must not steer the terminal."""
    kept = (c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in _encodable(text))
    return "".join(kept)


def _parquet(text: str) -> Path:
    if not text.endswith(".parquet"):
        raise argparse.ArgumentTypeError(f"'{text}' does not end in .parquet")
    return Path(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got '{text}'")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seconds(text: str) -> float:
    if not 0 < _number(text) < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got '{text}'")
    return float(text)


def _fraction(text: str) -> float:
    if not 0 <= _number(text) <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got '{text}'")
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
