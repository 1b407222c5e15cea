"""The findings as a table on the terminal, one HTML file to read, and lines for programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from string import Template

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from pipeline.whole import whole_file
from tools.console import printable
from tools.lines import write_lines
from tools.verify.findings import ERROR, NOTE, WARNING, Finding, Row

TEMPLATE = Path(__file__).with_suffix(".html")
SHOWN_IN_REPORT = 100
LEVELS = (ERROR, WARNING, NOTE)
STYLES = {ERROR: "bold red", WARNING: "yellow", NOTE: "dim"}


def by_code(findings: Sequence[Finding], *, strict: bool) -> list[tuple[str, list[Finding]]]:
    """(level, findings of one code), errors first, then the most frequent."""
    groups: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.code].append(finding)
    ordered = [(group[0].level(strict=strict), group) for group in groups.values()]
    return sorted(ordered, key=lambda pair: (LEVELS.index(pair[0]), -len(pair[1]), pair[1][0].code))


def print_tables(rows: Sequence[Row], findings: Sequence[Finding], *, strict: bool) -> None:
    console = Console()
    sets = Table("set", *(_right(name) for name in ("videos", "hours", "GB", "classes")), box=None)
    for cells in set_facts(rows):
        sets.add_row(*map(_text, cells))
    console.print(sets)
    if not findings:
        return
    table = Table("code", _right("count"), "what", "for example", box=None)
    for level, group in by_code(findings, strict=strict):
        first = group[0]
        example = f"{first.key or first.manifest}: {first.detail}"
        table.add_row(
            Text(first.code, STYLES[level]), str(len(group)), first.meaning, _text(example)
        )
    console.print()
    console.print(table)


def write_findings(path: Path, findings: Sequence[Finding], *, strict: bool) -> None:
    """One JSON object a line: code, level, path, key, detail, manifest."""
    write_lines(path, (asdict(one) | {"level": one.level(strict=strict)} for one in findings))


def write_page(
    path: Path, rows: Sequence[Row], findings: Sequence[Finding], *, verdict: str, strict: bool
) -> None:
    """The report: everything in one file, no script, names as text only."""
    sections = [_section(level, group) for level, group in by_code(findings, strict=strict)]
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=_html(verdict),
        lead=_html(", ".join(dict.fromkeys(row.name for row in rows))),
        sets="".join(_html_row(cells, counts=range(1, 5)) for cells in set_facts(rows)),
        sections="\n".join(sections) or "<h2>Nothing to report</h2>",
    )
    with whole_file(path) as file:
        file.write(page.encode())


def set_facts(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Name, videos, hours, gigabytes and classes of every set, as text."""
    sets: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        sets[row.set].append(row)
    return [
        (
            name,
            str(len(members)),
            f"{float(sum(row.seconds for row in members)) / 3600:.3g}",
            f"{_stored_bytes(members) / 1e9:.3g}",
            str(len({row.class_name for row in members} - {""})),
        )
        for name, members in sets.items()
    ]


def _stored_bytes(rows: Sequence[Row]) -> int:
    """Segments of one file count once."""
    places = {(row.video.path, row.video.offset): row.video.size for row in rows}
    return sum(places.values())


def _section(level: str, group: Sequence[Finding]) -> str:
    first = group[0]
    shown = "".join(
        _html_row((one.key or one.manifest, one.detail, one.path))
        for one in group[:SHOWN_IN_REPORT]
    )
    rest = len(group) - SHOWN_IN_REPORT
    more = f"<p>and {rest} more: all are in the .jsonl file</p>" if rest > 0 else ""
    return (
        f'<h2 class="{level}">{_html(first.code)}: {len(group)}</h2>'
        f"<p>{level}: {_html(first.meaning)}</p>"
        '<div class="scroll"><table><thead><tr><th>video</th><th>finding</th><th>file</th></tr>'
        f"</thead><tbody>{shown}</tbody></table></div>{more}"
    )


def _html_row(cells: Sequence[str], counts: Sequence[int] = ()) -> str:
    marks = [' class="count"' if n in counts else "" for n in range(len(cells))]
    inside = (f"<td{mark}>{_html(cell)}</td>" for mark, cell in zip(marks, cells, strict=True))
    return f"<tr>{''.join(inside)}</tr>"


def _html(text: str) -> str:
    return escape(printable(text))


def _text(text: str) -> Text:
    return Text(printable(text))


def _right(name: str) -> Column:
    return Column(name, justify="right")
