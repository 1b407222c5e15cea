"""Says what this machine has, what is missing, what that switches off, and the cure.

python -m tools.doctor
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.doctor import libraries, machine
from tools.doctor.findings import LOW, OK, STOP, Finding, checked, reason
from tools.doctor.table import print_table
from training.errors import EXIT_INTERRUPTED

ROOT = Path(__file__).parents[2]
EXIT_CANNOT_TRAIN = 2
LOOK_SECONDS = 120.0  # a library on a slow network disk takes its time to load


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 when training can run here, on the CPU at least, else 2; 130 Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.doctor", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="print it for a program to read")
    arguments = parser.parse_args(argv)
    try:
        findings = examine()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    if arguments.json:
        print(json.dumps(summary(findings), indent=1))
    else:
        print_table(findings, conclusion(findings))
    return EXIT_CANNOT_TRAIN if stops(findings) else 0


def examine() -> list[Finding]:
    """All findings, in a fixed order. Libraries are looked at in processes of their own."""
    found = [f for name, look in machine.LOOKS.items() for f in checked(name, look)]
    # Two at once: a look is mostly waiting for the disk.
    with ThreadPoolExecutor(max_workers=2) as pool:
        for several in pool.map(look_apart, libraries.LOOKS):
            found += several
    return found


def look_apart(name: str, *, seconds: float = LOOK_SECONDS) -> list[Finding]:
    """What `libraries.look` finds, even when the library ends or blocks its process."""
    _, level, effect, cure = libraries.LOOKS[name]
    command = [sys.executable, "-m", "tools.doctor.libraries", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return [Finding(name, level, f"does not load within {seconds:g} s", effect, cure)]
    except OSError as error:  # too few files or processes are allowed even for this
        cure = "raise ulimit -n and ulimit -u"
        return [Finding(name, level, f"no process can be started, {reason(error)}", effect, cure)]
    try:
        return [Finding(**finding) for finding in json.loads(done.stdout.splitlines()[-1])]
    except (IndexError, ValueError, TypeError):  # it died before its last line
        return [Finding(name, level, f"broken, {_end(done)}", effect, cure)]


def _end(done: subprocess.CompletedProcess) -> str:
    """How a process ended that had nothing to say."""
    if done.returncode < 0:
        return f"loading it ends the process with signal {-done.returncode}"
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return f"loading it ends the process with code {done.returncode} {' '.join(last)[:200]}".strip()


def stops(findings: Sequence[Finding]) -> list[Finding]:
    """What keeps training from running here at all."""
    return [finding for finding in findings if finding.level == STOP]


def device(findings: Sequence[Finding]) -> str | None:
    """cuda or cpu: where training can run; None where it cannot."""
    if stops(findings):
        return None
    here, off = ({f.name for f in findings if (f.level == OK) is ok} for ok in (True, False))
    return "cuda" if {"CUDA", "DALI"} <= here and "DALI on the GPU" not in off else "cpu"


def conclusion(findings: Sequence[Finding]) -> str:
    if stopping := stops(findings):
        return f"training cannot run here: {', '.join(f.name for f in stopping)}"
    where = {"cuda": "on the GPU", "cpu": "on the CPU"}[device(findings)]
    low = [f.name for f in findings if f.level == LOW]
    return f"training can run here, {where}" + f"; too small: {', '.join(low)}" * bool(low)


def summary(findings: Sequence[Finding]) -> dict:
    """The findings for a program. Levels: ok, off, low, stop."""
    return {
        "can_train": not stops(findings),
        "device": device(findings),
        "findings": [finding.plain() for finding in findings],
    }


if __name__ == "__main__":
    sys.exit(main())
