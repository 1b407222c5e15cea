"""What a feature is made with besides the network and the videos: libraries, decoder, device."""

from __future__ import annotations

from contextlib import suppress
from importlib import metadata

import torch

from pipeline import Manifest
from pipeline.loader import decoder_of
from training.config import Recipe
from training.distributed import Process

OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python",
          "opencv-contrib-python-headless")  # fmt: skip
ON_A_GPU = ("nvidia-dali-cuda130",)
LIBRARIES = ("numpy", "av", *OPENCV, *ON_A_GPU, "scikit-learn")


def versions(names: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """Of the libraries that a feature or a figure may depend on, where they are installed."""
    found = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def made_with(manifest: Manifest, recipe: Recipe, process: Process) -> dict:
    """All that changes the features of a set where checkpoint, videos and recipe stay the same.

    Threads and processes are no part of it: they move a feature by a rounding at most.
    """
    on_gpu = process.device.type != "cpu"
    return {
        "libraries": versions(("torch", "av", *OPENCV, *(ON_A_GPU if on_gpu else ()))),
        "decoder": decoder_of(manifest, recipe.data, str(process.device))[0],
        "device": torch.cuda.get_device_name(process.device) if on_gpu else "cpu",
        "precision": f"fp32, products {torch.get_float32_matmul_precision()}",
    }
