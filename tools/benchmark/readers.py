"""Rivals that bring their own reader: torchcodec, PyNvVideoCodec, and DALI's video reader.

Written by their documentation. Where one does not import it is left out, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.augment import AugmentConfig
from pipeline.decode import read_bytes
from pipeline.manifest import Video

# T frames, S side of a view

TORCHCODEC, PYNV = "torchcodec", "PyNvVideoCodec"
WHY_CHARACTERS = 160


def lacking(*modules: str) -> str:
    """Why a rival that needs these modules is not here; empty where it is."""
    for name in modules:
        try:
            import_module(name)
        except Exception as error:  # a wheel for another torch raises anything at its import
            reason = " ".join(str(error).split())[:WHY_CHARACTERS]
            return f"not here: {type(error).__name__}: {reason}"
    return ""


def torchcodec_clip(video: Video, frames: np.ndarray) -> np.ndarray:
    """[T, H, W, 3] uint8 through torchcodec on one thread, its seeks by the container's times."""
    from torchcodec.decoders import VideoDecoder

    settings = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "seek_mode": "approximate"}
    decoder = VideoDecoder(read_bytes(video).tobytes(), **settings)
    return decoder.get_frames_at(frames.tolist()).data.numpy()


def torchcodec_view(
    path: Path, frames: Sequence[int], augment: AugmentConfig, *, device: str
) -> Tensor:
    """A view [3, T, S, S] on the device through torchcodec, on a GPU by NVDEC."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), device=device, seek_mode="approximate")
    return _scaled(decoder.get_frames_at(list(frames)).data, augment)


def pynv_view(path: Path, frames: Sequence[int], augment: AugmentConfig, *, device: str) -> Tensor:
    """A view [3, T, S, S] on the GPU through PyNvVideoCodec's random access."""
    import PyNvVideoCodec as nvc

    decoder = nvc.SimpleDecoder(
        str(path),
        gpu_id=torch.device(device).index or 0,
        use_device_memory=True,
        output_color_type=nvc.OutputColorType.RGB,
    )
    pictures = decoder.get_batch_frames_by_index(list(frames))
    clip = torch.stack([torch.from_dlpack(picture) for picture in pictures]).permute(0, 3, 1, 2)
    return _scaled(clip, augment)


def _scaled(clip: Tensor, augment: AugmentConfig) -> Tensor:
    """The view [3, T, S, S] of pictures [T, 3, H, W]."""
    small = torch.nn.functional.interpolate(
        clip.float(), size=(augment.size, augment.size), mode="bilinear", antialias=True
    )
    mean, std = (255 * clip.new_tensor(v, dtype=torch.float32) for v in (augment.mean, augment.std))
    return ((small - mean.view(3, 1, 1)) / std.view(3, 1, 1)).transpose(0, 1)


class ReaderPipeline:
    """DALI's own reader with resize and normalisation behind it, as its examples put it together.

    clips: (file, first frame) of every clip, in the order in which they come round and round.
    """

    def __init__(
        self,
        clips: Sequence[tuple[Path, int]],
        listing: Path,
        augment: AugmentConfig,
        *,
        frames: int,
        stride: int,
        batch: int,
        device: str,
    ):
        # The reader wants the step behind the last frame, too.
        ends = (f"{path} 0 {first} {first + frames * stride}" for path, first in clips)
        listing.write_text("\n".join(ends) + "\n")
        self.batch, self.device = batch, device
        self.pipe = self._build(listing, augment, frames=frames, stride=stride)

    def _build(self, listing: Path, augment: AugmentConfig, *, frames: int, stride: int):
        from nvidia.dali import Pipeline, fn, types

        on_gpu = self.device != "cpu"
        device_id = torch.device(self.device).index or 0 if on_gpu else None
        pipe = Pipeline(batch_size=self.batch, num_threads=1, device_id=device_id)
        with pipe:
            pictures, _ = fn.experimental.readers.video(
                device="gpu" if on_gpu else "cpu",
                file_list=str(listing),
                file_list_format="frames",
                file_list_include_end=False,
                sequence_length=frames,
                stride=stride,
            )
            side = [augment.size, augment.size]
            small = fn.resize(pictures, size=side, interp_type=types.INTERP_LINEAR, antialias=True)
            view = fn.crop_mirror_normalize(
                small,
                mean=[255 * m for m in augment.mean],
                std=[255 * s for s in augment.std],
                dtype=types.FLOAT,
                output_layout="CFHW",
            )
            pipe.set_outputs(view)
        pipe.build()
        return pipe

    def views(self) -> Tensor:
        """The next views [batch, 3, T, S, S]; those after them are already under way."""
        (found,) = self.pipe.run()
        return torch.from_dlpack(found.as_tensor()).clone()
