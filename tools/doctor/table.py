"""Findings as a table on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tools.console import printable
from tools.doctor.findings import LOW, OFF, OK, STOP, Finding

MARKS = {OK: ("✓", "green"), OFF: ("–", "dim"), LOW: ("!", "yellow"), STOP: ("✗", "bold red")}


def print_table(findings: Sequence[Finding], conclusion: str) -> None:
    if sys.stdout.isatty():
        try:
            _print_rich(findings, conclusion)
            return
        except ImportError:  # a finding of its own; the table is not worth failing for
            pass
    _print_plain(findings, conclusion)


def _print_plain(findings: Sequence[Finding], conclusion: str) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(printable(f"{finding.level:<4}  {finding.name:<{width}}  {finding.value}"))
        for line in consequences(finding):
            print(printable(f"{'':<4}  {'':<{width}}  {line}"))
    print(f"\n{conclusion}")


def _print_rich(findings: Sequence[Finding], conclusion: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = MARKS[finding.level]
        words = Text().append(printable(finding.value), style="dim" if finding.level == OFF else "")
        for line in consequences(finding):
            words.append(f"\n{printable(line)}")
        table.add_row(Text(mark, style=style), Text(finding.name, style="bold"), words)
    console = Console()
    console.print(table)
    console.print(Text(f"\n{conclusion}", style="bold"))


def consequences(finding: Finding) -> list[str]:
    """What a finding means and what to do about it, one line each."""
    if finding.level == OK:
        return []
    means = finding.effect if finding.level == LOW else f"switches off: {finding.effect}"
    if finding.level == STOP:
        means = f"needed for {finding.effect}"
    return [means, f"cure: {finding.cure}"]
