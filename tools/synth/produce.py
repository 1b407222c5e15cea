"""Makes many videos, here or in worker processes, with the same bytes either way."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tools.synth.classes import CLASSES
from tools.synth.encode import draw_x264_options, write_video
from tools.synth.options import Options
from tools.synth.render import render_video


def make_video(out: Path, options: Options, video: tuple[int, int]) -> Path:
    """Renders and writes one video, given as (class index, number); returns its path."""
    class_index, number = video
    action = CLASSES[class_index].name
    path = out / action / f"{action}_{options.split}_s{options.seed}_{number:05d}.mp4"
    frames = render_video(class_index, number, options)
    x264 = draw_x264_options(class_index, number, options)
    write_video(path, frames, fps=options.fps, x264=x264)
    return path


@contextmanager
def make_videos(
    out: Path, options: Options, *, classes: int, videos_per_class: int, jobs: int
) -> Iterator[Iterator[Path]]:
    """The paths of the first classes' videos, one after another as they are finished.

    A file of an earlier, stopped run is written again: a name alone does not say that its size and
    length are the ones asked for now, and all of it takes less than a minute.
    """
    videos = [(c, n) for c in range(classes) for n in range(videos_per_class)]
    make = partial(make_video, out, options)
    for action in CLASSES[:classes]:
        (out / action.name).mkdir(parents=True, exist_ok=True)
    if jobs == 1:
        yield map(make, videos)
        return
    # spawn: a forked child would inherit the locks of the threads of FFmpeg and of other libraries
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,  # Ctrl-C is the parent's to handle
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield pool.map(make, videos, chunksize=8)
    finally:
        pool.shutdown(cancel_futures=True)
