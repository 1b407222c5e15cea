"""Checks the files of manifests, and the manifests against each other.

python -m tools.verify train.parquet test.parquet --full
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import DataError
from pipeline.manifest import Manifest
from tools.console import exit_code_of, fraction, positive, printable, seconds
from tools.probing import VIDEO_SECONDS
from tools.verify.files import check_files, sha256_of
from tools.verify.findings import ERROR, Finding, Row, read_rows
from tools.verify.report import print_tables, write_findings, write_page
from tools.verify.sets import (
    candidates,
    class_lists,
    empty_classes,
    repeated,
    slow_seeks,
    split_groups,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 ok, 2 usage, 3 data, 130 Ctrl-C."""
    arguments = _parser().parse_args(argv)
    output = arguments.report or arguments.manifests[0]
    return exit_code_of(_verify, arguments, output=output, interrupted="no report was written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.verify",
        description="Reads every file of the manifests again and compares size and checksum; with "
        "--full, decodes every frame. Looks for duplicates, for videos in both train and test, for "
        "clips of one recording in both, and for classes that differ. Writes M.verify.html and "
        "M.verify.jsonl beside the first manifest.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("manifests", nargs="+", type=Path, metavar="M.parquet")
    add("--full", action="store_true", help="decode every frame as well")
    add("--strict", action="store_true", help="overlap, duplicates and class lists are errors too")
    add("--max-bad-fraction", type=fraction, default=0.01, help="unusable rows that are in order")
    add("--report", type=Path, metavar="R.html", help="where to write; R.jsonl goes beside it")
    add("--jobs", type=positive, default=len(os.sched_getaffinity(0)), help="worker processes")
    add("--timeout-seconds", type=seconds, default=VIDEO_SECONDS, help="longest time for one video")
    add("--debug", action="store_true", help="show a traceback when something fails")
    return parser


def _verify(arguments: argparse.Namespace) -> int:
    paths = list(dict.fromkeys(arguments.manifests))
    page = arguments.report or paths[0].with_suffix(".verify.html")
    page.parent.mkdir(parents=True, exist_ok=True)
    manifests = [Manifest.read(path) for path in paths]
    rows = read_rows(paths, manifests)
    findings = _find(rows, paths, manifests, arguments)
    strict = arguments.strict
    verdict, failure = _verdict(rows, findings, arguments)
    print_tables(rows, findings, strict=strict)
    write_findings(page.with_suffix(".jsonl"), findings, strict=strict)
    write_page(page, rows, findings, verdict=verdict, strict=strict)
    print(printable(f"\n{verdict}\n  {page}\n  {page.with_suffix('.jsonl')}"))
    if failure:
        raise DataError(f"error: {failure} · {page} · mend or remove them, index again")
    return 0


def _find(
    rows: Sequence[Row],
    paths: Sequence[Path],
    manifests: Sequence[Manifest],
    arguments: argparse.Namespace,
) -> list[Finding]:
    work = {"jobs": arguments.jobs, "timeout_seconds": arguments.timeout_seconds}
    return [
        *check_files(rows, decode=arguments.full, **work),
        *repeated(rows, sha256_of(candidates(rows), **work)),
        *split_groups(rows),
        *class_lists(paths, manifests),
        *empty_classes(rows, paths, manifests),
        *slow_seeks(rows),
    ]


def _verdict(
    rows: Sequence[Row], findings: Sequence[Finding], arguments: argparse.Namespace
) -> tuple[str, str]:
    """What was found in one sentence, and why that ends in an error ('' if it does not)."""
    bad = [one for one in findings if one.code.startswith("E-")]
    errors = [one for one in findings if one.level(strict=arguments.strict) == ERROR]
    wrong = [one for one in errors if one not in bad]
    checked = "size, checksum and every frame" if arguments.full else "size and checksum"
    verdict = f"{len(rows) - len(bad)} of {len(rows)} videos are in order ({checked})"
    reasons = []
    if len(bad) > arguments.max_bad_fraction * len(rows):
        limit = f"more than --max-bad-fraction={arguments.max_bad_fraction:g}"
        reasons.append(f"{len(bad)} of {len(rows)} videos are unusable ({_codes(bad)}), {limit}")
    if wrong:
        reasons.append(f"--strict: {_codes(wrong)}")
    return verdict, "; ".join(reasons)


def _codes(findings: Sequence[Finding]) -> str:
    counts = Counter(one.code for one in findings)
    return ", ".join(f"{code} {count}" for code, count in counts.most_common())


if __name__ == "__main__":
    sys.exit(main())
