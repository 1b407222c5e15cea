"""From video files to batches on the training device; knows nothing of models.

A clip meets these modules in this order:

    container    one byte range opened as a video, safely
    probe        is it a video, how many frames decode, which way is up (scan, layout, limits)
    facts        what the prober finds out, by the names of the manifest's columns
    annotations  folders, lists and tars -> rows
    manifest     rows -> one parquet file
    shards       videos -> tars made for random access, and their manifest (optional)
    order        (seed, epoch, position) -> video
    clip         (frames, rng) -> frame numbers of every view (interval: how far apart a pair is)
    augment      rng -> crop, flip, colour, blur of every view
    needed       packets + wanted frames -> those that they are decoded from
    decode       bytes + frame numbers -> pictures
    cut          a long file + wanted frames -> its key-frame runs, for a decoder on the GPU
    render       picture + draw -> a view's region at its size, its colours, its luma
    host         on a CPU all of a view, for a GPU what it shows (track: what a lane is given)
    sample       all of the above for one sample: the host stage, run in worker processes
    workers      the host stage in processes of its own, watched and replaced (crew, watch)
    graph        on a GPU, the DALI graph: pictures + draws -> views, and luma where flow is wanted
    flow         luma -> optical flow -> flow views
    stream       workers and lanes, joined in order; a lane that fails is built again (lane_runs)
    lanes        how many, and who decodes which place of a batch: by measured rates
    loader       streams and flow -> batches (assembly: what they are made of)
    batch        what leaves the pipeline (buffers: its memory on a host, used again)
    windows      clips as rows of their own, for evaluation
    quarantine   the list of damaged videos, and its budget
    refused      those that ended a worker or a lane, which are not tried again
    whole        files whole or absent (checksum: their hashes; errors: what can go wrong)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.augment import AugmentConfig
    from pipeline.batch import Batch
    from pipeline.clip import ClipConfig
    from pipeline.errors import BadVideo, DataError
    from pipeline.flow.config import FlowConfig
    from pipeline.loader import DataConfig, Place, build_evaluation_loader, build_loader
    from pipeline.manifest import Manifest

__all__ = [
    "AugmentConfig",
    "BadVideo",
    "Batch",
    "ClipConfig",
    "DataConfig",
    "DataError",
    "FlowConfig",
    "Manifest",
    "Place",
    "build_evaluation_loader",
    "build_loader",
]

# Imported when first asked for (PEP 562): programs and worker processes that only look at files
# start without torch.
_MODULES = {
    "AugmentConfig": "augment",
    "BadVideo": "errors",
    "Batch": "batch",
    "ClipConfig": "clip",
    "DataConfig": "loader",
    "DataError": "errors",
    "FlowConfig": "flow.config",
    "Manifest": "manifest",
    "Place": "loader",
    "build_evaluation_loader": "loader",
    "build_loader": "loader",
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
