"""How many frames FFmpeg decodes for those that are delivered, counted beside the pipeline.

The pipeline's own functions are wrapped while it counts, so that they carry no counter elsewhere.
Only this process is seen: loaders that are counted have no workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from types import SimpleNamespace
from unittest.mock import patch

from pipeline import decode, render


@dataclass
class Frames:
    """decoded: what the decoder gave. delivered: what became a picture for a view."""

    decoded: int = 0
    delivered: int = 0

    @property
    def efficiency(self) -> float:
        return self.delivered / self.decoded if self.decoded else 0.0


@contextmanager
def counted() -> Iterator[Frames]:
    """The frames of all that is decoded inside, on the CPU."""
    frames = Frames()

    def each(source: Callable[..., Iterator]) -> Callable[..., Iterator]:
        @wraps(source)
        def counting(*args, **options) -> Iterator:
            for item in source(*args, **options):
                frames.decoded += 1
                yield item

        return counting

    def every(convert: Callable) -> Callable:
        @wraps(convert)
        def counting(*args, **options):
            frames.delivered += 1
            return convert(*args, **options)

        return counting

    # The decoder's own view of `render`: a picture that is made RGB inside counts once.
    own = SimpleNamespace(picture=every(render.picture), rgb=every(render.rgb))
    wrapped = {name: each(getattr(decode, name)) for name in ("from_key_frame", "decode_linear")}
    with ExitStack() as stack:
        for name, value in {**wrapped, "render": own}.items():
            stack.enter_context(patch.object(decode, name, value))
        yield frames


def decoding(run: Callable[[], float], rate: float) -> dict[str, float]:
    """What the decoder does for a unit of `run`, in this process, of which there are `rate` a
    second; counted in a run that is not timed.
    """
    with counted() as frames:
        units = run()
    return {
        "frames decoded": frames.decoded / units,
        "decoded frames/s": rate * frames.decoded / units,
        "efficiency %": 100 * frames.efficiency,
    }
