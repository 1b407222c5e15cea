"""Commands one after the other under one deadline; one that fails leaves the others their turn."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
TAIL_LINES = 15  # of a part's output
BUDGET = "{budget}"  # in a command: seconds after which it should begin nothing more
BUDGET_SHARE = 0.75  # of the seconds after which it is ended


@dataclass(frozen=True)
class Part:
    """commands: without the interpreter, in order; the first that fails ends the part.

    seconds: at most, and of those left no more than `share`. benchmark: the command of
    `tools.benchmark` whose figures it writes, in a folder of the part's name.
    """

    name: str
    commands: Sequence[Sequence[str]]
    seconds: float
    share: float = 1.0
    environment: dict[str, str] = field(default_factory=dict)
    benchmark: str = ""


@dataclass(frozen=True)
class Outcome:
    """failure: why the part did not end well, empty if it did. tail: its last lines."""

    part: Part
    seconds: float
    failure: str
    tail: list[str]

    def plain(self) -> dict:
        """For JSON."""
        return {
            "name": self.part.name,
            "commands": [shown(command) for command in self.part.commands],
            "seconds": round(self.seconds, 1),
            "failure": self.failure,
            "tail": self.tail,
        }


def benchmark(
    name: str,
    command: str,
    options: Sequence[str],
    *,
    scratch: Path,
    seconds: float,
    share: float = 1.0,
) -> Part:
    """A part that is one command of `tools.benchmark`."""
    words = ["-m", "tools.benchmark", command, "-o", f"{scratch}/{name}", *options]
    return Part(name, [words], seconds, share=share, benchmark=command)


def run_part(part: Part, *, log: Path, deadline: float) -> Outcome:
    """Runs until `deadline`, of time.monotonic, at most. The output goes to `log`."""
    start = time.monotonic()
    seconds = min(part.seconds, part.share * (deadline - start))
    failure = ""
    with log.open("w") as output:
        for command in part.commands:
            command = [w.replace(BUDGET, f"{BUDGET_SHARE * seconds:.0f}") for w in command]
            output.write(f"$ {shown(command)}\n")
            output.flush()
            failure = _run(command, part, output, seconds=start + seconds - time.monotonic())
            if failure:
                break
    return Outcome(part, time.monotonic() - start, failure, _tail(log))


def shown(command: Sequence[str]) -> str:
    """The command as one types it."""
    return shlex.join(["python", *command])


def _tail(log: Path) -> list[str]:
    """Its last lines, without the folders of this machine."""
    text = log.read_text(errors="replace")
    for folder, short in ((f"{ROOT}/", ""), (str(Path.home()), "~")):
        text = text.replace(folder, short)
    return text.splitlines()[-TAIL_LINES:]


def _run(command: Sequence[str], part: Part, output, *, seconds: float) -> str:
    """Why the command did not end well, or nothing."""
    if seconds <= 0:
        return "no time was left for it"
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **part.environment},
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that what it has started ends with it
    )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"not done after {seconds:.0f} s: {shown(command)}"
    finally:
        _end_group(process)
    return f"exit code {code}: {shown(command)}" if code else ""


def _end_group(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of it has ended
    process.wait()
