"""A run on a terminal: how far it is and its newest figures, drawn in place.

    step 120/2400  adversarial  ━━━━━━━━━━╺━━━━━━━━━━━━━━━━  0:31:07 left
    loss 3.012   lr 0.01   clips/s 56.1   data wait 2 %   queue age, steps 14   R@1 36.3 %

Drawing is a thread's work, from plain numbers: it waits for no device.
"""

from __future__ import annotations

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from training.stages import Stage
from training.timing import Pace

REFRESH_PER_SECOND = 4
NARROW_COLUMNS = 48  # of a terminal without room for a bar
# Scalars of the methods and how the terminal calls them; others are in metrics.jsonl.
SHOWN = {"loss": "loss", "accuracy": "accuracy", "queue_age_steps": "queue age, steps"}
SHARES = {"knn_R@1": "R@1", "knn_R@5": "R@5"}
ORDER = ("loss", "lr", "clips/s", "data wait", "accuracy", "queue age, steps", "R@1", "R@5")


class LiveView:
    """The display of a run of `total` steps that begins at `first`."""

    def __init__(self, console: Console, *, first: int, total: int):
        self.console = console
        self.pace = Pace(done=first, total=total)
        self.stage = ""
        self.figures: dict[str, str] = {}
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
        self.pace.step(step, times)
        figures = {name: f"{scalars[key]:.4g}" for key, name in SHOWN.items() if key in scalars}
        figures["lr"] = f"{stage.lr(step - 1):.3g}"
        figures |= self.pace.rates() | shares(scalars)
        # One assignment each, for the thread that draws. A retrieval measured stays in sight.
        self.figures = {**self.figures, **figures}
        self.stage = stage.name

    def drawn(self) -> Group:
        """Two lines, or more where the terminal is narrow."""
        known = self.figures
        ordered = [name for name in ORDER if name in known]
        named = (Text.assemble((name, "dim"), f" {known[name]}") for name in ordered)
        return Group(self._line(), Columns(named, padding=(0, 3)))

    def _line(self) -> Table | Text:
        """Step, stage, a bar where there is room, and the time left."""
        pace = self.pace
        step, left = f"step {pace.done}/{pace.total}", f"{pace.left()} left"
        if under_way := pace.under_way():
            left = f"this step {under_way}  {left}"
        if self.console.width < NARROW_COLUMNS:
            return Text(f"{step}  {self.stage}  {left}")
        line = Table.grid(padding=(0, 2), expand=True)
        for options in ({}, {}, {"ratio": 1}, {"justify": "right"}):
            line.add_column(no_wrap=True, **options)
        bar = ProgressBar(total=pace.total, completed=pace.done)
        line.add_row(step, Text(self.stage, "bold"), bar, left)
        return line


def shares(scalars: dict[str, float]) -> dict[str, str]:
    """A retrieval in words, where the scalars of a step have one."""
    return {name: f"{100 * scalars[key]:.1f} %" for key, name in SHARES.items() if key in scalars}
