"""The DALI graph: pictures and draws -> normalised views, on a GPU. Tests run it on a CPU, too,
where a training has `pipeline.host` instead.

    ffmpeg: crops [n, S, S, 3] from the host ──┐
    nvdec: bytes -> fn.decoders.video ─────────┴─ rows -> resize (region) -> colour -> blur
                                     -> solarise -> mirror, normalise -> [C, T, H, W]

Where flow is wanted a clip has one frame more, and what was resized goes two ways: all of it is
mirrored as luma [T+1, H, W], all but the last frame becomes the view.

The graph holds no state and draws nothing: every parameter is an input. Operators that a view
never uses are not built.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, types
from torch import Tensor

from pipeline.augment import AugmentConfig, Draw, blur_window
from pipeline.errors import DecoderFailed
from pipeline.track import Track


@dataclass(frozen=True)
class GraphSpec:
    """What a graph is built for. device: torch's name, "cpu" or "cuda:0"; augments: per view.

    next_frame: tracks have one frame more than views. lumas: views whose luma comes out, too.
    """

    kind: str
    device: str
    augments: tuple[AugmentConfig, ...]
    training: bool
    rotated: bool  # some videos need turning (decoders of the GPU leave the picture as stored)
    batch: int  # most tracks in one run
    threads: int
    depth: int  # runs in flight
    next_frame: bool = False
    lumas: tuple[int, ...] = ()

    def operators(self, view: int) -> set[str]:
        """Those of color, mean (of contrast about it), blur and solarize that a view needs."""
        config = self.augments[view]
        about_clip = config.contrast_about == "clip" and config.contrast > 0
        needed = {
            "color": config.jitter > 0 or config.grayscale > 0,
            "mean": config.jitter > 0 and about_clip,
            "blur": config.blur > 0,
            "solarize": config.solarize > 0,
        }
        return {name for name, needs in needed.items() if needs and self.training}


class Lane:
    """One whole graph with its own decoder and stream: submit tracks, collect views, in order."""

    def __init__(self, spec: GraphSpec):
        self.spec, self.kind = spec, spec.kind
        self.rebuild()

    def rebuild(self) -> None:
        """A fresh graph, without runs: the only way out after `collect` has failed."""
        self.pipe: Pipeline | None = None  # its memory and its decoders are for the next one
        self._failure: DecoderFailed | None = None
        self.pipe = _build(self.spec)

    def submit(self, tracks: list[Track]) -> None:
        """Start a run over `tracks`, at most `spec.batch` of them; returns at once."""
        if self._failure:
            return
        inputs = _inputs(self.spec, tracks)
        try:
            for name, data in inputs.items():
                self.pipe.feed_input(name, data)
            self.pipe.schedule_run()
        except RuntimeError as error:
            self._failure = self._told(error)  # of a run before, which `collect` will meet

    def collect(self) -> tuple[list[Tensor], list[Tensor]]:
        """Views and lumas of the oldest run, new tensors on the device.

        Each view is [tracks, C, T, H, W] float32, each luma [tracks, T+1, H, W] uint8. Raises
        DecoderFailed when the decoder inside the graph fails: then `rebuild` it, and submit again
        all that has not been collected.
        """
        if self._failure:
            raise self._failure
        on_gpu = self.spec.device != "cpu"
        stream = torch.cuda.current_stream(self.spec.device) if on_gpu else None
        try:
            outputs = self.pipe.share_outputs(cuda_stream=stream)
        except RuntimeError as error:
            self._failure = self._told(error)
        if self._failure:
            # Not from DALI's error, whose traceback would keep this graph beside the next one.
            raise self._failure
        tensors = [torch.from_dlpack(output.as_tensor()).clone() for output in outputs]
        self.pipe.release_outputs()
        views = len(self.spec.augments)
        return tensors[:views], [luma.squeeze(-1) for luma in tensors[views:]]

    def _told(self, error: RuntimeError) -> DecoderFailed:
        if self.kind == "ffmpeg":
            raise error  # there is no decoder in this graph
        return DecoderFailed(_reason(error))


def _reason(error: RuntimeError) -> str:
    """What DALI says between the place in our source and the place in its own."""
    what = str(error).rpartition("encountered:")[2].partition("C++ context:")[0]
    return " ".join(what.split())


def _build(spec: GraphSpec) -> Pipeline:
    on_gpu = spec.device != "cpu"
    pipe = Pipeline(
        batch_size=spec.batch,
        num_threads=spec.threads,
        device_id=torch.device(spec.device).index or 0 if on_gpu else None,
        prefetch_queue_depth=spec.depth,
        exec_dynamic=True,
        # Every run is scheduled by hand: `submit` starts exactly one, not a queue full of them.
        exec_pipelined=False,
    )
    with pipe:
        pictures = _pictures(spec)
        if on_gpu:
            pictures = pictures.gpu()
        made = [_view(spec, pictures, view) for view in range(len(spec.augments))]
        lumas = [luma for _, luma in made if luma is not None]
        pipe.set_outputs(*[view for view, _ in made], *lumas)
    pipe.build()
    return pipe


def _pictures(spec: GraphSpec):
    if spec.kind == "ffmpeg":
        return fn.external_source(name="pictures", layout="FHWC", dtype=types.UINT8, ndim=4)
    encoded = fn.external_source(name="pictures", dtype=types.UINT8, ndim=1)
    frames = fn.external_source(name="frames", dtype=types.INT32, ndim=1)
    device = "cpu" if spec.device == "cpu" else "mixed"
    pictures = fn.decoders.video(encoded, frames=frames, device=device)
    if spec.rotated:
        angle = fn.external_source(name="angle", dtype=types.FLOAT, ndim=0)
        pictures = fn.rotate(pictures, angle=angle, interp_type=types.INTERP_NN, keep_size=False)
    return pictures


def _view(spec: GraphSpec, pictures, view: int):
    """A view, and its luma or None."""

    def parameter(name: str, dtype, ndim: int):
        return fn.external_source(name=f"{name}_{view}", dtype=dtype, ndim=ndim)

    config, operators = spec.augments[view], spec.operators(view)
    clip = fn.sequence_rearrange(pictures, new_order=parameter("rows", types.INT32, 1))
    clip = fn.resize(
        clip,
        size=[config.size, config.size],
        roi_start=parameter("start", types.FLOAT, 1),
        roi_end=parameter("end", types.FLOAT, 1),
        roi_relative=True,
        interp_type=types.INTERP_LINEAR,
        antialias=True,
    )
    mirror, luma = parameter("mirror", types.INT32, 0), None
    if view in spec.lumas:
        grey = fn.color_space_conversion(clip, image_type=types.RGB, output_type=types.GRAY)
        luma, clip = fn.flip(grey, horizontal=mirror), clip[:-1]
    if "color" in operators:
        matrix, offset = parameter("matrix", types.FLOAT, 2), parameter("offset", types.FLOAT, 1)
        if "mean" in operators:
            clip = _colored(clip, matrix, offset, parameter("mean_matrix", types.FLOAT, 2))
        else:
            clip = fn.coord_transform(clip, M=matrix, T=offset, dtype=types.UINT8)
        clip = fn.reshape(clip, layout="FHWC")
    if "blur" in operators:
        sigma, window = parameter("sigma", types.FLOAT, 0), parameter("window", types.INT32, 0)
        clip = fn.gaussian_blur(clip, sigma=sigma, window_size=window)
    if "solarize" in operators:
        clip = _solarized(spec, clip, parameter("solarize", types.INT32, 0))
    view = fn.crop_mirror_normalize(
        clip,
        mirror=mirror,
        mean=[255 * m for m in config.mean],
        std=[255 * s for s in config.std],
        dtype=types.FLOAT,
        output_layout="CFHW",
    )
    return view, luma


def _colored(clip, matrix, offset, mean_matrix):
    """Matrix and offset of every pixel, and mean_matrix of the clip's mean colour, as bytes.

    The mean is data on the device of the clip, which no argument of an operator may be: so it is
    added, not made a part of the offset.
    """
    mean = fn.reductions.mean(clip, axis_names="FHW", keep_dims=True)
    levels = fn.coord_transform(clip, M=matrix, T=offset, dtype=types.FLOAT)
    return fn.cast(levels + fn.coord_transform(mean, M=mean_matrix), dtype=types.UINT8)


def _solarized(spec: GraphSpec, clip, threshold):
    if spec.device != "cpu":
        threshold = threshold.gpu()
    bright = clip >= threshold
    return fn.cast(bright * (255 - clip) + (bright ^ True) * clip, dtype=types.UINT8)


def _inputs(spec: GraphSpec, tracks: list[Track]) -> dict:
    inputs: dict = {"pictures": [track.pictures for track in tracks]}
    if spec.kind != "ffmpeg":
        inputs["frames"] = [track.frames.astype(np.int32) for track in tracks]
        if spec.rotated:
            # DALI turns counter-clockwise, the manifest says clockwise.
            inputs["angle"] = np.array([-track.rotation for track in tracks], dtype=np.float32)
    for view in range(len(spec.augments)):
        rows = np.stack([track.rows[view] for track in tracks])
        unused = spec.next_frame and view not in spec.lumas
        inputs[f"rows_{view}"] = np.ascontiguousarray(rows[:, :-1]) if unused else rows
        draws = [track.draws[view] for track in tracks]
        named = _parameters(spec.operators(view), draws)
        inputs |= {f"{name}_{view}": data for name, data in named.items()}
    return inputs


def _parameters(operators: set[str], draws: list[Draw]) -> dict[str, np.ndarray]:
    roi = np.array([draw.roi for draw in draws], dtype=np.float32)
    named = {"start": roi[:, :2], "end": roi[:, 2:]}
    named["mirror"] = np.array([draw.flip for draw in draws], dtype=np.int32)
    if "color" in operators:
        color = np.stack([draw.color for draw in draws]).astype(np.float32)
        named |= {"matrix": color[:, :, :3], "offset": color[:, :, 3]}
    if "mean" in operators:
        named["mean_matrix"] = np.stack([d.mean_matrix for d in draws]).astype(np.float32)
    if "blur" in operators:
        sigma = np.array([draw.blur_sigma for draw in draws], dtype=np.float32)
        window = np.array([blur_window(draw.blur_sigma) for draw in draws], dtype=np.int32)
        # A window of one pixel leaves the picture alone; its sigma only must not be zero.
        named |= {"sigma": np.where(sigma > 0, sigma, 1.0).astype(np.float32)}
        named |= {"window": window}
    if "solarize" in operators:
        named["solarize"] = np.array([draw.solarize_from for draw in draws], dtype=np.int32)
    return {name: np.ascontiguousarray(data) for name, data in named.items()}
