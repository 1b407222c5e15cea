"""No figure without proof: an op's tests pass first, or nothing of it is printed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]


class NotProved(Exception):
    """An op that is not known to be right; its text is the line for people."""

    exit_code = 1


def require_tests(files: Iterable[str], *, device: str) -> None:
    """Runs these test files; on "cuda" what has a CUDA form in them, without skips.

    Raises NotProved where a file is missing, a test fails or pytest is not there.
    """
    command = ["-m", "pytest", "-q", "-x", "--no-header", *files]
    environment = dict(os.environ)
    if device == "cuda":
        command += ["-m", "needs_cuda"]
        environment["REQUIRE_CUDA"] = "1"
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise NotProved(
            f"error: no figure is printed, for the tests do not pass · {_last_line(done)} · "
            f"{shlex.join(['python', *command])}"
        )


def _last_line(done: subprocess.CompletedProcess) -> str:
    lines = (done.stdout + done.stderr).strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return (failed or lines or [f"exit code {done.returncode}"])[-1]
