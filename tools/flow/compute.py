"""The flow of one video into one file.

    image    KEY.zip: flow_00001.jpg, flow_00002.jpg, ... as others store flow: quality 100, and
             read as RGB the channels are 128, v, u. It is not compressed again, so any program
             reads one picture of it, and `unzip` makes the folder that readers of frames expect.
    raw      KEY.npy: [pairs, 2, height, width] float16 in pixels, to the right and down. NumPy
             maps it into memory, where a clip is one slice.

Flow n leads from the n-th of the frames that were taken to the next one, so there is one less.

An hour of video with 25 frames a second, 128 pixels high and 171 wide, takes 7.9 GB as raw:
90,000 x 128 x 171 x 4 bytes. As pictures it takes the less the smoother the motion: 2 % of that for
a camera that travels (footage of tools.benchmark, by DIS and TV-L1 3 %), 36 % where every pixel is
half a pixel off its neighbours.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.decode import every_frame
from pipeline.errors import BadVideo
from pipeline.flow.config import FlowConfig
from pipeline.flow.encoding import BOUND_PIXELS, image_of
from pipeline.flow.operator import Operator, build_operator
from pipeline.manifest import Video
from pipeline.whole import whole_file

SUFFIXES = {"image": ".zip", "raw": ".npy"}
PAIRS_AT_ONCE = 64
JPEG_QUALITY = 100
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can tell: equal flow makes equal files


@dataclass(frozen=True)
class Settings:
    """What decides the flow of every video of a folder. size: of the short side, pixels."""

    operator: str
    config: FlowConfig
    size: int
    stride: int

    def told(self) -> dict:
        """For the file beside the flow."""
        image = self.config.encoding == "image"
        return {
            "operator": self.operator,
            self.operator: asdict(getattr(self.config, self.operator)),
            "encoding": self.config.encoding,
            "bound_pixels": BOUND_PIXELS if image else None,
            "channels": "128, v, u" if image else "u, v",
            "size": self.size,
            "stride": self.stride,
        }


@dataclass
class Maker:
    """Writes the flow of a video below `folder`. Each process has its own."""

    settings: Settings
    folder: Path
    device: str

    def __call__(self, video: Video) -> dict | BadVideo | OSError:
        """The video's row of the index, or why there is none; OSError: it could not be written."""
        try:
            return self._make(video)
        except (BadVideo, OSError) as error:
            return error

    def _make(self, video: Video) -> dict:
        encoding = self.settings.config.encoding
        name = file_name(video, encoding)
        pairs = pair_count(video, self.settings.stride)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            if encoding == "image":
                height, width = write_images(file, self._flows(video))
            else:
                height, width = write_raw(file, self._flows(video), pairs)
        made = {"path": name, "bytes": path.stat().st_size, "pairs": pairs}
        return row_of(video) | made | {"width": width, "height": height}

    def _flows(self, video: Video) -> Iterator[Tensor]:
        """Flow [n, 2, h, w] of some pairs after the other."""
        pictures = every_frame(video, stride=self.settings.stride)
        for clip in windows(luma(picture, self.settings.size) for picture in pictures):
            try:
                flow = self._operator(clip[None].to(self.device))
            except ValueError as error:  # of the operator, for pictures that are too small for it
                raise BadVideo("E-TINY", str(error), video.path, "leave it out") from error
            yield flow[0].transpose(0, 1).cpu()

    @cached_property
    def _operator(self) -> Operator:
        torch.set_num_threads(1)  # every core has a process
        return build_operator(self.settings.operator, self.settings.config, device=self.device)


def file_name(video: Video, encoding: str) -> str:
    """Below the folder, where keys may be folders themselves."""
    if ".." in Path(video.key).parts or Path(video.key).is_absolute():
        what = f"key '{video.key}' leads out of the folder"
        raise BadVideo("E-FORMAT", what, video.path, "give it another key")
    return video.key + SUFFIXES[encoding]


def pair_count(video: Video, stride: int) -> int:
    """Raises BadVideo where there is none."""
    taken = len(range(0, video.frames, stride))
    if taken < 2:
        what = f"{video.frames} frames with stride {stride} leave {taken}, and flow needs two"
        raise BadVideo("E-SHORT", what, video.path, "leave it out, or lower --stride")
    return taken - 1


def row_of(video: Video) -> dict:
    """What the index says of a video; its bytes and frames tell whether it is still the same."""
    return {
        "key": video.key,
        "label": video.label,
        "split": video.split,
        "fps": str(video.fps),
        "source": str(video.path),
        **identity(video),
    }


def identity(video: Video) -> dict[str, int]:
    names = ("offset", "size", "crc32", "first_frame", "frames")
    return {f"source_{name}": getattr(video, name) for name in names}


def luma(rgb: np.ndarray, size: int) -> np.ndarray:
    """[H, W, 3] uint8 -> [h, w] uint8 whose shorter side is `size`, or was less before."""
    image = Image.fromarray(rgb).convert("L")
    factor = min(1.0, size / min(image.size))
    width, height = (max(1, round(side * factor)) for side in image.size)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def windows(pictures: Iterable[np.ndarray]) -> Iterator[Tensor]:
    """Pictures [h, w] as clips [n, h, w]; each begins with the last picture of the one before."""
    window: list[np.ndarray] = []
    for picture in pictures:
        window.append(picture)
        if len(window) > PAIRS_AT_ONCE:
            yield torch.from_numpy(np.stack(window))
            window = [picture]
    if len(window) > 1:
        yield torch.from_numpy(np.stack(window))


def write_images(file: BinaryIO, flows: Iterable[Tensor]) -> tuple[int, int]:
    """Height and width of the pictures."""
    number = 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for flow in flows:
            # [n, 2, h, w] -> [n, h, w, 3], channels in the order of OpenCV's files
            pictures = image_of(flow.transpose(0, 1)[None])[0].flip(0).permute(1, 2, 3, 0)
            for picture in pictures.contiguous().numpy():
                number += 1
                entry = zipfile.ZipInfo(f"flow_{number:05d}.jpg", EPOCH)
                archive.writestr(entry, _jpeg(picture))
    return tuple(flow.shape[-2:])


def _jpeg(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    # Colours at full size: to JPEG they are colours, and here they are most of the flow.
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def write_raw(file: BinaryIO, flows: Iterable[Tensor], pairs: int) -> tuple[int, int]:
    """Height and width of the flow."""
    for number, flow in enumerate(flows):
        if not number:
            header = {"descr": "<f2", "fortran_order": False, "shape": (pairs, *flow.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(flow.numpy().astype("<f2").tobytes())
    return tuple(flow.shape[-2:])
