"""From pixels to a file: H.264 in MP4, as varied as files from the net."""

from __future__ import annotations

import os
from pathlib import Path

import av
import numpy as np

from tools.synth.options import Options, Purpose, stream


def write_video(path: Path, frames: np.ndarray, *, fps: int, x264: dict[str, str]) -> None:
    """Writes frames [T, H, W, 3] (uint8 RGB) under a temporary name and renames: whole or absent.

    The same frames and options give the same bytes. Raises OSError when it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    with av.open(str(partial), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=fps, options=x264)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        for pixels in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(video.encode())
    os.replace(partial, path)


def draw_x264_options(class_index: int, number: int, options: Options) -> dict[str, str]:
    """Encoder settings of one video: long and short GOPs, with and without B-frames.

    Half of the files have one key frame in 250, as x264 leaves them, which is the hardest to seek.
    """
    rng = stream(options, class_index, number, purpose=Purpose.ENCODER)
    return {
        "preset": "veryfast",
        "crf": str(rng.integers(18, 24)),
        "g": str(rng.choice([250, 250, 48, 12])),
        "bf": str(rng.choice([0, 2, 3])),
        # x264 with several threads would still be deterministic, but only for one number of threads
        "threads": "1",
    }
