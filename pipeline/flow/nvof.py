"""Flow by the optical-flow engine of NVIDIA GPUs (Turing and newer), through DALI.

The engine takes one pair after the other and leaves most of the GPU to the training. It was never
run by this project: no number of it is known here.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.flow.config import NVOF_PRESETS, NvofConfig

# The driver's, and in a container only with its capability "video".
LIBRARY = "libnvidia-opticalflow.so.1"


def lacking(device: str) -> str:
    """What this machine lacks to use the engine for clips on a device; empty: nothing known."""
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return "a GPU, none is here"
    if not find_spec("nvidia") or not find_spec("nvidia.dali"):
        return "DALI, which is not installed"
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return f"{LIBRARY} of the driver (in a container: its capability video)"
    return ""


class Nvof:
    """Flow of clips on one GPU. The engine is set up for one form of clip: keep to it."""

    def __init__(self, config: NvofConfig, device: str):
        self._config, self._device = config, torch.device(device)
        self._form: torch.Size | None = None

    def __call__(self, clip: Tensor) -> Tensor:
        """Flow [B, 2, T-1, H, W] of a clip [B, T, H, W]. Raises ValueError where DALI or the
        engine refuses it.
        """
        try:
            return self._full_size(self._vectors(clip), *clip.shape[-2:])
        except RuntimeError as error:
            why = " ".join(str(error).split())[:300]
            raise ValueError(
                f"flow.operator: nvof fails for clips of {list(clip.shape)} · {why} · use tvl1"
            ) from error

    def _vectors(self, clip: Tensor) -> Tensor:
        """[B, T-1, h, w, 2]: one vector for each cell of the grid, in pixels of the clip."""
        if clip.shape != self._form:
            self._pipe, self._form = self._build(len(clip)), clip.shape
        stream = torch.cuda.current_stream(self._device)
        frames = list(clip.contiguous()[..., None])
        self._pipe.feed_input("clip", frames, layout="FHWC", cuda_stream=stream)
        self._pipe.schedule_run()
        (vectors,) = self._pipe.share_outputs(cuda_stream=stream)
        try:
            return torch.from_dlpack(vectors.as_tensor()).clone()
        finally:
            self._pipe.release_outputs()

    def _build(self, batch: int):
        # DALI is imported here so that `import pipeline` works where DALI is missing.
        from nvidia.dali import Pipeline, fn, types

        pipe = Pipeline(
            batch_size=batch,
            num_threads=1,
            device_id=self._device.index or 0,
            prefetch_queue_depth=1,
            exec_dynamic=True,
            exec_pipelined=False,
        )
        with pipe:
            clip = fn.external_source(
                name="clip", device="gpu", layout="FHWC", dtype=types.UINT8, ndim=4
            )
            vectors = fn.optical_flow(
                clip,
                image_type=types.GRAY,
                preset=NVOF_PRESETS[self._config.preset],
                output_grid=self._config.grid,
            )
            pipe.set_outputs(vectors)
        pipe.build()
        return pipe

    def _full_size(self, vectors: Tensor, height: int, width: int) -> Tensor:
        """[B, T-1, h, w, 2] -> [B, 2, T-1, H, W], linear between the centres of the cells."""
        b, pairs, _, _, _ = vectors.shape
        planes = vectors.flatten(0, 1).permute(0, 3, 1, 2)
        if self._config.grid > 1:
            planes = F.interpolate(planes, scale_factor=self._config.grid, mode="bilinear")
        planes = planes[:, :, :height, :width].unflatten(0, (b, pairs))
        return planes.transpose(1, 2).contiguous()
