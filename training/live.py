"""A run on a terminal: how far it is and its newest figures, drawn in place.

    step 120/2400  adversarial  ━━━━━━━━━━╺━━━━━━━━━━━━━━━━  0:31:07 left
    loss 3.012   lr 0.01   56.1 clips/s   data wait 2 %   queue age 14 steps   R@1 36.3 %

Drawing is a thread's work, from plain numbers: it waits for no device.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import timedelta

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from training.stages import Stage

REFRESH_PER_SECOND = 4
NARROW_COLUMNS = 48  # of a terminal without room for a bar
RATE_STEPS = 50  # steps that the rates are means of
# Scalars of the methods and how the terminal calls them; others are in metrics.jsonl.
SHOWN = {"loss": "loss", "accuracy": "accuracy", "queue_age_steps": "queue age, steps"}
SHARES = {"knn_R@1": "R@1", "knn_R@5": "R@5"}


class LiveView:
    """The display of a run of `total` steps that begins at `first`."""

    def __init__(self, console: Console, *, first: int, total: int):
        self.console, self.total, self.done = console, total, first
        self.stage = ""
        self.figures: dict[str, str] = {}
        self._times: deque[dict[str, float]] = deque(maxlen=RATE_STEPS)
        self._stepped_seconds = time.monotonic()
        self._live = Live(
            get_renderable=self.drawn, console=console, refresh_per_second=REFRESH_PER_SECOND,
            vertical_overflow="crop",
        )  # fmt: skip

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(self, *_) -> None:
        self._live.stop()

    def step(
        self, step: int, stage: Stage, scalars: dict[str, float], times: dict[str, float]
    ) -> None:
        """`step` is done. scalars: the newest that have been read. times: of `Stopwatch.lap`."""
        self._times.append(times)
        self._stepped_seconds = time.monotonic()
        figures = {name: f"{scalars[key]:.4g}" for key, name in SHOWN.items() if key in scalars}
        figures["lr"] = f"{stage.lr(step - 1):.3g}"
        figures |= _rates(list(self._times))
        figures |= {
            name: f"{100 * scalars[key]:.1f} %" for key, name in SHARES.items() if key in scalars
        }
        # One assignment each, for the thread that draws. A retrieval measured stays in sight.
        self.figures = {**self.figures, **figures}
        self.done, self.stage = step, stage.name

    def left(self) -> str:
        """Time to the end at the mean pace of the last steps, less what this step has taken."""
        times = list(self._times)
        if not times:
            return "-:--:--"
        seconds = sum(entry["seconds"] for entry in times) / len(times) * (self.total - self.done)
        waited = time.monotonic() - self._stepped_seconds
        return str(timedelta(seconds=round(max(0.0, seconds - waited))))

    def drawn(self) -> Group:
        """Two lines, or more where the terminal is narrow."""
        named = (Text.assemble((name, "dim"), f" {value}") for name, value in self.figures.items())
        return Group(self._line(), Columns(named, padding=(0, 3)))

    def _line(self) -> Table | Text:
        """Step, stage, a bar where there is room, and the time left."""
        step, left = f"step {self.done}/{self.total}", f"{self.left()} left"
        if self.console.width < NARROW_COLUMNS:
            return Text(f"{step}  {self.stage}  {left}")
        line = Table.grid(padding=(0, 2), expand=True)
        for options in ({}, {}, {"ratio": 1}, {"justify": "right"}):
            line.add_column(no_wrap=True, **options)
        bar = ProgressBar(total=self.total, completed=self.done)
        line.add_row(step, Text(self.stage, "bold"), bar, left)
        return line


def _rates(times: list[dict[str, float]]) -> dict[str, str]:
    """Clips a second and the share of the time that the data took, over the last steps."""
    seconds = sum(entry["seconds"] for entry in times)
    clips = sum(entry["clips_per_second"] * entry["seconds"] for entry in times)
    waited = sum(entry["data_wait_seconds"] for entry in times)
    if not seconds:
        return {}
    return {"clips/s": f"{clips / seconds:.1f}", "data wait": f"{100 * waited / seconds:.0f} %"}
