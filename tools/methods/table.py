"""What the trials say: retrieval of every variant, and each claim with its differences by seed."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tools.methods.run import Trial
from tools.methods.trials import Claim, Task

CLEAR_POINTS = 5.0  # by which a trained network has to beat its untrained one, on average
COLUMNS = ("method", "variant", "untrained", "trained", "gain")


def rows(done: Sequence[Trial]) -> list[dict]:
    """One for each variant: its R@1 by seed in per cent, and the untrained network's.

    Where it has a task of its own, its scalar by seed in per cent as well.
    """
    untrained = {trial.start: 100 * trial.share() for trial in done if trial.untrained}
    found: dict[tuple[str, str], dict] = {}
    for trial in done:
        if trial.untrained:
            continue
        variant = trial.variant
        new = {"method": variant.method, "variant": variant.name, "is_default": variant.is_default,
               "untrained": {}, "R@1": {}, "task": {}}  # fmt: skip
        row = found.setdefault((variant.method, variant.name), new)
        row["untrained"][trial.seed] = untrained[trial.start]
        row["R@1"][trial.seed] = 100 * trial.share()
        if trial.task:
            row["task"][trial.seed] = 100 * trial.task_share()
    return list(found.values())


def gains(row: dict) -> list[float]:
    """Points above the untrained network, by seed."""
    return [row["R@1"][seed] - row["untrained"][seed] for seed in row["R@1"]]


def verdicts(found: Sequence[dict], claims: Sequence[Claim], tasks: Sequence[Task]) -> list[dict]:
    """Each claim and each task, with its points by seed."""
    by_name = {(row["method"], row["variant"]): row for row in found}
    said = []
    for claim in claims:
        better, worse = (by_name[claim.method, name]["R@1"] for name in (claim.better, claim.worse))
        text = f"{claim.method}: {claim.better} > {claim.worse}"
        points = [better[seed] - worse[seed] for seed in better]
        said.append(verdict(text, claim.source, points))
    for task in tasks:
        text = f"{task.method}: {task.words} > {100 * task.least:.0f} %, on test videos"
        points = [v - 100 * task.least for v in by_name[task.method, task.variant]["task"].values()]
        said.append(verdict(text, task.source, points, clear=100 * task.clear))
    return said


def verdict(text: str, source: str, points: Sequence[float], *, clear: float = 0.0) -> dict:
    """It holds where the mean is above its standard error and `clear`; it does not hold where it
    is below minus its error, or by its error below `clear`.

    With three seeds a standard error is itself rough: "not decided" is the honest word for less.
    """
    mean, error = float(np.mean(points)), _standard_error(points)
    word = "not decided"
    if mean > error and mean > clear:
        word = "holds"
    elif mean + error < clear:
        word = "does not hold"
    return {"claim": text, "source": source, "differences": list(points), "mean": mean,
            "verdict": word}  # fmt: skip


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean; of a single value it is not known."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else np.inf


def failures(found: Sequence[dict]) -> list[str]:
    """Methods that do not clearly beat their untrained network: one line for each."""
    means = {row["method"]: float(np.mean(gains(row))) for row in found if row["is_default"]}
    return [
        f"error: {method}: R@1 is {gain:+.1f} points over the untrained network, expected "
        f"{CLEAR_POINTS:+.1f} or more · look at its metrics.jsonl"
        for method, gain in means.items()
        if gain < CLEAR_POINTS
    ]


def show(found: Sequence[dict], said: Sequence[dict], console: Console) -> None:
    table = Table(title="Retrieval R@1, per cent: mean (lowest to highest seed)")
    for name in COLUMNS:
        table.add_column(name)
    for row in found:
        table.add_row(*cells(row))
    console.print(table)
    for verdict in said:
        console.print(line(verdict), highlight=False)


def cells(row: dict) -> list[str]:
    """The columns of a variant, as text."""
    return [row["method"], row["variant"], span(row["untrained"].values()),
            span(row["R@1"].values()), span(gains(row))]  # fmt: skip


def line(verdict: dict) -> str:
    """A claim in words."""
    by_seed = ", ".join(f"{points:+.1f}" for points in verdict["differences"])
    return f"{verdict['verdict']}: {verdict['claim']}, by {verdict['mean']:+.1f} points ({by_seed})"


def span(values: Iterable[float]) -> str:
    values = list(values)
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def write(folder: Path, found: Sequence[dict], said: Sequence[dict], command: str) -> None:
    """methods.json and methods.md."""
    conditions = {"command": command, "machine": platform.machine(), "cores": os.cpu_count()}
    content = {"conditions": conditions, "variants": list(found), "claims": list(said)}
    (folder / "methods.json").write_text(json.dumps(content, indent=2) + "\n")
    lines = [f"| {' | '.join(COLUMNS)} |", "| --- " * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in found]
    lines += ["", *[f"- {line(verdict)} ({verdict['source']})" for verdict in said]]
    (folder / "methods.md").write_text("\n".join(lines) + "\n")
