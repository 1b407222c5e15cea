"""Parts one after the other, and all their figures in one record for each device.

A record is `<device>.json` with every round, `.md` and `.html` to read. A part that fails is told,
and the others go on. What other parts have left in the record before stays, and every figure keeps
the conditions and the command that it was measured with.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from tools.benchmark.conditions import conditions, file_stem, processor
from tools.benchmark.measure import Comparison
from tools.benchmark.parts import ROOT, Outcome, Part, run_part
from tools.benchmark.record import Record
from tools.benchmark.table import markdown, verdicts
from tools.benchmark.workings import Workings

FOLDER = ROOT / "benchmarks"
PART = "part"  # among a figure's conditions


class PartsFailed(Exception):
    """Some part did not end well; its text is the line for people."""

    exit_code = 1


def measure(
    parts: Sequence[Part],
    record: Record,
    *,
    device: str,
    folder: Path,
    scratch: Path,
    seconds: float,
) -> None:
    """folder: of the records. scratch: in Kinema's folder, where commands run; each part has one of
    its own there.

    Raises PartsFailed after all that can be written is written.
    """
    name = processor() if device == "cpu" else conditions()["device"]
    record.path = folder / f"{file_stem(name)}.json"
    shutil.rmtree(ROOT / scratch, ignore_errors=True)
    (ROOT / scratch).mkdir(parents=True)
    keep(record, {part.name for part in parts})
    outcomes = run_all(parts, record, scratch=scratch, seconds=seconds)
    collect(outcomes, record, scratch)
    report = record.path.with_suffix(".md")
    report.write_text(in_markdown(name, record))
    record.console.print(f"wrote {report}")
    failed = [outcome.part.name for outcome in outcomes if outcome.failure]
    if failed:
        raise PartsFailed(
            f"error: {len(failed)} of {len(outcomes)} parts failed: {', '.join(failed)} · "
            f"{report} and {scratch} say why"
        )


def run_all(
    parts: Sequence[Part], record: Record, *, scratch: Path, seconds: float
) -> list[Outcome]:
    """One after the other, each with a line on the terminal; after `seconds` nothing runs."""
    deadline = time.monotonic() + seconds
    outcomes = []
    for part in parts:
        outcome = run_part(part, log=ROOT / scratch / f"{part.name}.log", deadline=deadline)
        record.console.print(f"{part.name}: {outcome.failure or 'ok'}, {outcome.seconds:.0f} s")
        if outcome.failure:
            record.console.print("\n".join(f"  {line}" for line in outcome.tail), markup=False)
        outcomes.append(outcome)
    return outcomes


def keep(record: Record, anew: set[str]) -> None:
    """What the parts that are not `anew` have left in the record's file before."""
    record.more = {"parts": []}
    if not record.path.exists():
        return
    content = json.loads(record.path.read_text())
    record.more["parts"] = [part for part in content["parts"] if part["name"] not in anew]
    for found in map(Comparison.of_plain, content["comparisons"]):
        if found.conditions[PART] not in anew:
            record.comparisons.append(found)
    record.workings += map(Workings.of_plain, content["workings"])
    left = (one for one in content["not_measured"] if one.partition(": ")[0] not in anew)
    record.not_measured += left


def collect(outcomes: Sequence[Outcome], record: Record, scratch: Path) -> None:
    """What the benchmarks have written so far, also where they failed later."""
    for part in (outcome.part for outcome in outcomes if outcome.part.benchmark):
        path = ROOT / scratch / part.name / f"{part.benchmark}.json"
        if not path.exists():
            continue
        content = json.loads(path.read_text())
        for found in map(Comparison.of_plain, content["comparisons"]):
            found.conditions[PART] = part.name
            record.comparisons.append(found)
        workings = [Workings.of_plain(one) for one in content["workings"]]
        titles = {one.title for one in workings}
        record.workings = [one for one in record.workings if one.title not in titles] + workings
        record.not_measured += [f"{part.name}: {what}" for what in content["not_measured"]]
    record.more["parts"] += [outcome.plain() for outcome in outcomes]
    record.write()


def in_markdown(name: str, record: Record) -> str:
    facts = conditions()
    settings = {**facts, **facts["versions"], **facts["threading"]}
    for own in ("versions", "threading", "threads"):  # each part has its own threads, and says so
        settings.pop(own, None)
    goals = [verdict for one in record.comparisons for verdict in verdicts(one)]
    lists = {
        "Measured on": [f"{key}: {value}" for key, value in settings.items() if value],
        "Goals": goals,
        "No time was left for": record.not_measured,
    }
    listed = [
        line
        for heading, items in lists.items()
        for line in (f"## {heading}", "", *(f"- {item}" for item in items), "")
        if items
    ]
    return "\n".join(
        [
            f"# {name}",
            "",
            "Ratios are taken round by round; 20 % and 80 % are quantiles over rounds.",
            "",
            "| part | result | seconds |",
            "| --- | --- | ---: |",
            *(f"| {p['name']} | {_result(p)} | {p['seconds']:.0f} |" for p in record.more["parts"]),
            "",
            *listed,
            "## Figures",
            "",
            *map(markdown, record.comparisons),
            *(workings.markdown() for workings in record.workings),
        ]
    )


def _result(part: dict) -> str:
    """Of tests also how many there were."""
    count = part["tail"][-1].strip("= ") if part["name"] == "tests" and part["tail"] else ""
    words = [part["failure"] or "ok", *([count] if count else [])]
    return ", ".join(words).replace("|", "\\|")
