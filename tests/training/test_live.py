"""The live view: what it shows, in any width, and on a terminal that is resized and stopped."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import signal
import struct
import termios
import threading
import time
from dataclasses import dataclass

import pytest
from rich.console import Console

from tests import runs
from tests.training.test_stages import schedule
from training.live import LiveView
from training.timing import Pace

TIMES = {"seconds": 0.5, "data_wait_seconds": 0.1, "clips_per_second": 16.0}
MOCO = schedule()[0]
SCALARS = {"loss": 3.0123, "queue_age_steps": 14.0, "knn_R@1": 0.363, "drop_distance": 7.0}


def viewed(width: int = 120, height: int = 20) -> tuple[LiveView, Console]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    return LiveView(console, first=0, total=12), console


def lines(view: LiveView, console: Console) -> list[str]:
    drawn = console.render_lines(view.drawn(), pad=False)
    return ["".join(segment.text for segment in line) for line in drawn]


def test_it_shows_how_far_and_how_fast():
    view, console = viewed()
    view.step(3, MOCO, SCALARS, TIMES)
    first, *more = lines(view, console)
    assert first.startswith("step 3/12  moco  ") and first.rstrip().endswith("left")
    shown = " ".join(more)
    # The rate of the step that took the third step, after a cosine from 1e-3 over six.
    for figure in ("loss 3.012", "lr 0.00075", "clips/s 16.0", "data wait 20 %",
                   "queue age, steps 14", "R@1 36.3 %"):  # fmt: skip
        assert figure in shown
    assert "drop_distance" not in shown


def test_the_time_left_is_that_of_the_last_steps(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pace = Pace(done=0, total=12)
    assert pace.left() == "-:--:--" and pace.rates() == {}
    for step, seconds in enumerate((10.0, 20.0), 1):
        pace.step(step, {**TIMES, "seconds": seconds})
    assert pace.left() == "0:02:30"  # ten steps of 15 s
    now[0] += 4
    assert pace.left() == "0:02:26"
    now[0] += 1000
    assert pace.left() == "0:00:00"


def test_a_step_that_takes_long_says_so(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    view, console = viewed()
    now[0] += 7  # of the first step, whose data do not come yet
    assert "this step 0:00:07" in lines(view, console)[0]
    view.step(1, MOCO, SCALARS, TIMES)
    now[0] += 1.9
    assert "this step" not in lines(view, console)[0]
    now[0] += 70  # retrieval is measured
    assert "this step 0:01:12" in lines(view, console)[0]
    view.step(12, MOCO, SCALARS, TIMES)
    now[0] += 70
    assert "this step" not in lines(view, console)[0]  # there is none


def test_the_figures_keep_their_places():
    """The loss is read some steps late: it comes first all the same."""
    view, console = viewed()
    view.step(1, MOCO, {}, TIMES)
    view.step(2, MOCO, SCALARS, TIMES)
    shown = " ".join(lines(view, console)[1:])
    places = [shown.index(name) for name in ("loss", "lr", "clips/s", "data wait", "R@1")]
    assert places == sorted(places)


def test_a_retrieval_stays_in_sight_until_the_next():
    view, console = viewed()
    view.step(1, MOCO, SCALARS, TIMES)
    view.step(2, MOCO, {"loss": 2.0}, TIMES)
    shown = " ".join(lines(view, console))
    assert "R@1 36.3 %" in shown and "loss 2" in shown and "loss 3" not in shown


def test_a_narrow_terminal_has_all_of_it_without_the_bar():
    view, console = viewed(24)
    view.step(3, MOCO, SCALARS, TIMES)
    shown = " ".join(" ".join(lines(view, console)).split())
    assert shown.startswith("step 3/12 moco 0:00:04 left loss 3.012 ")


@pytest.mark.parametrize("width", [1, 2, 5, 10, 20, 39, 80, 400])
def test_any_width_holds_it(width):
    view, console = viewed(width, height=3)
    lines(view, console)  # before the first step
    view.step(3, MOCO, SCALARS, {**TIMES, "seconds": 0.0})
    view.step(4, MOCO, SCALARS, TIMES)
    assert all(len(line.rstrip()) <= width for line in lines(view, console))
    with view:
        view.step(5, MOCO, SCALARS, TIMES)


@dataclass(frozen=True)
class OnTerminal:
    """Standard output and error of a training are the terminal `name`."""

    name: str

    def __call__(self) -> None:
        terminal = os.open(self.name, os.O_RDWR | os.O_NOCTTY)
        os.dup2(terminal, 1)
        os.dup2(terminal, 2)


class Terminal:
    """A terminal of our own; `text` is all that was written to it."""

    def __init__(self, columns: int, rows: int):
        self._master, slave = pty.openpty()
        self.name, self.text = os.ttyname(slave), ""
        self.resize(columns, rows)
        self._slave = slave  # open, so that the reader does not end before the training begins
        threading.Thread(target=self._read, daemon=True).start()

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 60
        while text not in self.text:
            assert time.monotonic() < end, self.text
            time.sleep(0.01)

    def _read(self) -> None:
        while piece := os.read(self._master, 65536):
            self.text += piece.decode(errors="replace")


def test_a_training_on_a_terminal_that_is_resized_and_interrupted(tiny_data, tmp_path):
    terminal = Terminal(100, 24)
    endless = "run.stages.moco.run.steps=1000000"
    online = (f"online.manifest={tiny_data}", "online.every_epochs=2")
    run = runs.Run(
        *runs.smoke(tiny_data, tmp_path / "run", endless, *online),
        faults=[OnTerminal(terminal.name)], env={"TERM": "xterm-256color"},
    )  # fmt: skip
    terminal.wait_for("R@1")
    for columns, rows in ((30, 5), (8, 2), (200, 50)):
        terminal.resize(columns, rows)
        run.send(signal.SIGWINCH)
        before = len(terminal.text)
        while len(terminal.text) < before + 500:
            assert run.is_alive(), terminal.text
            time.sleep(0.02)
    run.send(signal.SIGINT).wait()
    assert run.code == 130
    shown = terminal.text
    assert "Traceback" not in shown and "features of" not in shown
    assert "data wait" in shown and "clips/s" in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # the cursor is back
    told = (tmp_path / "run" / "log.txt").read_text()
    assert "stopped by a signal, saved at step" in told and "s/step" not in told
    assert "retrieval at step " in told  # which stays when the display is gone
