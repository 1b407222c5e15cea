"""What the trials say: retrieval of every variant, and each claim with its differences by seed."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from tools.methods.run import Trial
from tools.methods.trials import TASKS, Claim

CLEAR_POINTS = 5.0  # by which a trained network has to beat its untrained one, on average


def rows(done: Sequence[Trial]) -> list[dict]:
    """One for each variant: its R@1 by seed in per cent, and the gain over the untrained one."""
    untrained = {(t.variant.method, t.seed): 100 * t.share() for t in done if t.random}
    found: dict[tuple[str, str], dict] = {}
    for trial in done:
        if trial.random:
            continue
        variant = trial.variant
        row = found.setdefault(
            (variant.method, variant.name),
            {
                "method": variant.method,
                "variant": variant.name,
                "is_default": variant.is_default,
                "untrained": {},
                "R@1": {},
            },
        )
        row["untrained"][trial.seed] = untrained[variant.method, trial.seed]
        row["R@1"][trial.seed] = 100 * trial.share()
        if task := TASKS.get((variant.method, variant.name)):
            row.setdefault(task[0], {})[trial.seed] = 100 * trial.last_mean(task[0])
    return list(found.values())


def gains(row: dict) -> list[float]:
    """Points above the untrained network, by seed."""
    return [row["R@1"][seed] - row["untrained"][seed] for seed in row["R@1"]]


def verdicts(found: Sequence[dict], claims: Sequence[Claim]) -> list[dict]:
    """Each claim with its differences by seed. It holds when the mean is above its standard error.

    With three seeds a standard error is itself rough: "not decided" is the honest word for less.
    """
    by_name = {(row["method"], row["variant"]): row["R@1"] for row in found}
    said = []
    for claim in claims:
        better, worse = by_name[claim.method, claim.better], by_name[claim.method, claim.worse]
        differences = [better[seed] - worse[seed] for seed in better]
        mean = float(np.mean(differences))
        error = _standard_error(differences)
        verdict = "holds" if mean > error else "does not hold" if mean < -error else "not decided"
        text = f"{claim.method}: {claim.better} > {claim.worse}"
        said.append({"claim": text, "source": claim.source, "differences": differences,
                     "mean": mean, "verdict": verdict})  # fmt: skip
    return said


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
    for name in ("method", "variant", "untrained", "trained", "gain", "own task"):
        table.add_column(name)
    for row in found:
        table.add_row(*cells(row))
    console.print(table)
    for verdict in said:
        console.print(line(verdict), highlight=False)


def cells(row: dict) -> list[str]:
    """The columns of a variant, as text."""
    task, chance = TASKS.get((row["method"], row["variant"]), ("", 0.0))
    own = f"{task} {span(row[task].values())}, chance {100 * chance:.0f}" if task else ""
    return [row["method"], row["variant"], span(row["untrained"].values()),
            span(row["R@1"].values()), span(gains(row)), own]  # fmt: skip


def line(verdict: dict) -> str:
    """A claim in words."""
    by_seed = ", ".join(f"{points:+.1f}" for points in verdict["differences"])
    return f"{verdict['verdict']}: {verdict['claim']}, {verdict['mean']:+.1f} points ({by_seed})"


def span(values) -> str:
    values = list(values)
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def write(folder: Path, found: Sequence[dict], said: Sequence[dict], command: str) -> None:
    """methods.json and methods.md."""
    conditions = {"command": command, "machine": platform.machine(), "cores": os.cpu_count()}
    content = {"conditions": conditions, "variants": list(found), "claims": list(said)}
    (folder / "methods.json").write_text(json.dumps(content, indent=2) + "\n")
    lines = ["| method | variant | untrained | trained | gain | own task |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    lines += [f"| {' | '.join(cells(row))} |" for row in found]
    lines += ["", *[f"- {line(verdict)} ({verdict['source']})" for verdict in said]]
    (folder / "methods.md").write_text("\n".join(lines) + "\n")
