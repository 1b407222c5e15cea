"""What a user would take instead of Kinema: decord2, PyAV by hand, the ffmpeg program and tar."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import av
import numpy as np

from pipeline.container import ByteRange
from pipeline.manifest import Video
from tools.benchmark.measure import NotInstalled


def decord_clip(video: Video, frames: np.ndarray) -> np.ndarray:
    """[T, H, W, 3] uint8 through decord2, the file opened for this clip as a loader does."""
    try:
        import decord
    except ImportError as error:
        raise NotInstalled("decord2: pip install decord2==3.4.0") from error
    with ByteRange(video.path, video.offset, video.size) as file:
        reader = decord.VideoReader(_Bytes(file), num_threads=1)
        return reader.get_batch(frames.tolist()).asnumpy()


class _Bytes:
    """decord takes an object with `read`, and reads it whole."""

    def __init__(self, file: ByteRange):
        self.file = file

    def read(self, *_) -> bytes:
        return self.file.read(self.file.size)


def pyav_clip(video: Video, frames: np.ndarray) -> np.ndarray:
    """[T, H, W, 3] uint8 through PyAV as its documentation shows: seek, decode, `to_ndarray`.

    It trusts the seek and the times, which is right for a shard and not for every file.
    """
    wanted = set(frames.tolist())
    found = []
    with ByteRange(video.path, video.offset, video.size) as file, av.open(file) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        container.seek(int(frames[0] / rate / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            number = round(frame.time * rate)
            if number in wanted:
                found.append(frame.to_ndarray(format="rgb24"))
            if number >= frames[-1]:
                break
    return np.stack(found)


def ffmpeg_program() -> str:
    """Path of an ffmpeg program: the system's, or that of the package imageio-ffmpeg."""
    if path := shutil.which("ffmpeg"):
        return path
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise NotInstalled("ffmpeg: pip install imageio-ffmpeg==0.8.1") from error
    return imageio_ffmpeg.get_ffmpeg_exe()


def ffmpeg_and_tar(videos: list[Path], folder: Path, *, arguments: list[str]) -> int:
    """The loop of many data-set scripts: ffmpeg for each video, then one tar. Returns videos.

    Decodes with one thread; arguments are those of the encoder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = ffmpeg_program()
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for source in videos:
            encoded = folder / f"{source.stem}.mp4"
            command = [program, "-loglevel", "error", "-y", "-threads", "1", "-i", str(source)]
            subprocess.run([*command, *arguments, "-an", str(encoded)], check=True)
            tar.add(encoded, arcname=encoded.name)
    return len(videos)
