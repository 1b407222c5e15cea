"""How far a long run over many items is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

PLAIN_INTERVAL_SECONDS = 10.0


@contextmanager
def progress(total: int, verb: str) -> Iterator[Callable[[Iterable], Iterator]]:
    """Gives a wrapper for an iterable of `total` items; `verb` is such as "probed"."""
    if not sys.stderr.isatty():
        yield lambda items: _plain(items, total, verb)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield lambda items: bar.track(items, total=total, description=verb)


def _plain(items: Iterable, total: int, verb: str) -> Iterator:
    last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last > PLAIN_INTERVAL_SECONDS:
            last = time.monotonic()
            print(f"{verb} {done}/{total}", file=sys.stderr, flush=True)
