"""A command of the check, on one thread, with its output in a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tools.demo import ROOT, Step, StepFailed, shown

LOG = "commands.txt"  # what the commands said; a run has a log.txt of its own


def call(step: Step, folder: Path) -> None:
    """Runs a command of Kinema's; what it says goes into the folder's LOG. Raises StepFailed."""
    print(f"$ {shown(step.command)}", flush=True)
    log = folder / LOG
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, *step.command],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        print(log.read_text()[-2000:], file=sys.stderr)
        raise StepFailed(step, done.returncode)
