"""Looks at one library each, in a process of its own: a broken one may do anything.

python -m tools.doctor.libraries NAME prints what it found as JSON in the last line.
"""

from __future__ import annotations

import importlib
import json
import sys
from importlib import metadata
from pathlib import Path

from tools.doctor import driver
from tools.doctor.findings import LOW, OFF, OK, STOP, Finding, reason

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"
INSTALL = "pip install -r requirements.txt"
# Module -> its package, and what does not work without it.
REQUIRED = {
    "cv2": ("opencv-contrib-python-headless", "views on a CPU, crops for a GPU"),
    "numpy": ("numpy", "all of it"),
    "omegaconf": ("omegaconf", "all of it"),
    "yaml": ("pyyaml", "all of it"),
    "pyarrow": ("pyarrow", "all of it"),
    "rich": ("rich", "all of it"),
    "safetensors": ("safetensors", "all of it but pipeline and models"),
}
OPTIONAL = {
    "PIL": ("pillow", "tools.preview and the reports"),
    "tensorboard": ("tensorboard", "curves in TensorBoard; metrics.jsonl has every number"),
    "sklearn": ("scikit-learn", "the linear SVM of evaluation"),
    "distributed": ("distributed", "tools.shard on a Dask cluster"),
    "decord": ("decord2", "comparing with decord2 in tools.benchmark"),
    "webdataset": ("webdataset", "tests of exchange with webdataset"),
    "kornia": ("kornia", "tests against its augmentations"),
    "pytest": ("pytest", "the tests"),
}
DECODERS = {
    "h264": ("h264",),
    "hevc": ("hevc",),
    "vp9": ("vp9", "libvpx-vp9"),
    # FFmpeg's own "av1" decodes on a GPU only.
    "av1": ("libdav1d", "libaom-av1"),
    "mpeg4": ("mpeg4",),
}
ENCODERS = {"libx264": "H.264 shards and tools.synth", "libx265": "HEVC shards"}


def torch() -> list[Finding]:
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    version = str(torch.__version__)
    first = Finding("torch", OK, f"{version}, {build}", data={"version": version})
    return [first, *_gpus(torch), *_backends(torch)]


def _gpus(torch) -> list[Finding]:
    try:
        torch.cuda.init()
    except Exception as error:
        return [_no_gpu(torch, error)]
    devices = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    if not devices:
        return [_no_gpu(torch, RuntimeError("no device"))]
    data = {"devices": [{"name": d.name, "memory_bytes": d.total_memory} for d in devices]}
    names = ", ".join(f"{d.name} {d.total_memory / 2**30:.0f} GiB" for d in devices)
    found = [Finding("CUDA", OK, names, data=data)]
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return [*found, Finding("BF16", OK, "yes")]
    cure = "a GPU of compute capability 8.0 or more (Ampere)"
    return [*found, Finding("BF16", OFF, "no", "bf16 training; fp32 is used", cure)]


def _no_gpu(torch, error: Exception) -> Finding:
    effect = "training on a GPU; it runs on the CPU, slower"
    if not driver.has_driver():
        value, cure = "no NVIDIA driver", driver.NO_DRIVER_CURE
    elif not torch.version.cuda:
        value = "the driver is here, but this torch is a CPU build"
        cure = (
            f"pip install torch=={torch.__version__.split('+')[0]} from the CUDA index of PyTorch"
        )
    else:
        value = f"{reason(error)}, driver {driver.driver_version()}"
        cure = f"a driver for CUDA {torch.version.cuda}, see CUDA_VISIBLE_DEVICES as well"
    return Finding("CUDA", OFF, value, effect, cure)


def _backends(torch) -> list[Finding]:
    here = torch.distributed.is_available()
    gloo = here and torch.distributed.is_gloo_available()
    nccl = here and torch.distributed.is_nccl_available()
    cure = "a torch built with it"
    return [
        Finding("gloo", OK, "yes")
        if gloo
        else Finding("gloo", OFF, "no", "several processes on the CPU", cure),
        Finding("NCCL", OK, "yes")
        if nccl
        else Finding("NCCL", OFF, "no", "several GPUs", f"{cure}: CPU builds have none"),
    ]


def dali() -> list[Finding]:
    import nvidia.dali
    from nvidia.dali import Pipeline, fn, types

    version = nvidia.dali.__version__
    data = {"version": version, "cpu": True, "gpu": False}
    _run(Pipeline(batch_size=1, num_threads=1, device_id=None), fn, types, "cpu")
    if not driver.has_driver():
        return [Finding("DALI", OK, f"{version}, CPU backend", data=data)]
    try:
        _run(Pipeline(batch_size=1, num_threads=1, device_id=0), fn, types, "gpu")
    except RuntimeError as error:
        effect = "augmentation and decoding on the GPU"
        cure = "a DALI for this driver's CUDA: nvidia-dali-cuda120 or -cuda130"
        return [
            Finding("DALI", OK, f"{version}, CPU backend", data=data),
            Finding("DALI on the GPU", OFF, reason(error), effect, cure),
        ]
    return [Finding("DALI", OK, f"{version}, CPU and GPU backend", data={**data, "gpu": True})]


def _run(pipe, fn, types, device: str) -> None:
    with pipe:
        picture = fn.constant(idata=[0] * 12, shape=[2, 2, 3], dtype=types.UINT8, layout="HWC")
        picture = picture.gpu() if device == "gpu" else picture
        pipe.set_outputs(fn.resize(picture, size=[4, 4], device=device))
    pipe.build()
    pipe.run()


def codecs() -> list[Finding]:
    import av

    found = [Finding("PyAV", OK, av.__version__, data={"version": av.__version__})]
    cure = f"the wheel of PyPI has it: {INSTALL}"
    missing = [
        codec for codec, names in DECODERS.items() if not any(_has(av, n, "r") for n in names)
    ]
    effect = f"videos in {', '.join(missing)}"
    found.append(_codecs("decoders", list(DECODERS), missing, effect, cure))
    missing = [name for name in ENCODERS if not _has(av, name, "w")]
    effect = ", ".join(ENCODERS[name] for name in missing)
    found.append(_codecs("encoders", list(ENCODERS), missing, effect, cure))
    return found


def _codecs(name: str, all_: list[str], missing: list[str], effect: str, cure: str) -> Finding:
    here = [codec for codec in all_ if codec not in missing]
    data = {"here": here, "missing": missing}
    if not missing:
        return Finding(name, OK, ", ".join(here), data=data)
    return Finding(name, OFF, f"without {', '.join(missing)}", effect, cure, data)


def _has(av, name: str, mode: str) -> bool:
    try:
        av.codec.Codec(name, mode)
    except ValueError:  # UnknownCodecError
        return False
    return True


def triton() -> list[Finding]:
    import triton

    return [Finding("Triton", OK, triton.__version__, data={"version": triton.__version__})]


def required() -> list[Finding]:
    return [*(_import(*row, STOP, INSTALL) for row in _rows(REQUIRED)), *pins()]


def pins() -> list[Finding]:
    """The packages whose version is not the one that the project pins and is tested with."""
    others = {}
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        package, _, pinned = line.partition("==")
        if pinned and not package.startswith("#"):
            here = _version(package)
            if here and here.split("+")[0] != pinned.strip():
                others[package] = f"{package} {here} for {pinned.strip()}"
    if not others:
        return [Finding("pins", OK, "every package has the version of requirements.txt")]
    effect = "not the versions that Kinema is tested with"
    return [Finding("pins", LOW, ", ".join(others.values()), effect, INSTALL)]


def optional() -> list[Finding]:
    return [_import(m, p, e, OFF, f"pip install {p}") for m, p, e in _rows(OPTIONAL)]


def _rows(table: dict[str, tuple[str, str]]) -> list[tuple[str, str, str]]:
    return [(module, package, effect) for module, (package, effect) in table.items()]


def _import(module: str, package: str, effect: str, level: str, cure: str) -> Finding:
    """Whether a package can be imported, which says more than that it is installed."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        own = error.name == module
        return Finding(package, level, "not installed" if own else reason(error), effect, cure)
    except Exception as error:
        return Finding(package, level, f"broken, {reason(error)}", effect, cure)
    return Finding(package, OK, _version(package) or "yes")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# Name -> look, and how the library's failure to load counts: level, what it switches off, cure.
LOOKS = {
    "torch": (torch, STOP, "all of it", INSTALL),
    "NVIDIA driver": (driver.driver, OFF, "the GPU", driver.NO_DRIVER_CURE),
    "NVDEC": (driver.nvdec, OFF, "decoding on the GPU", driver.VIDEO_CURE),
    "optical-flow engine": (driver.optical_flow, OFF, "flow on the GPU", driver.VIDEO_CURE),
    "DALI": (dali, OFF, "the GPU, where it makes every view; run.device=cpu goes without", INSTALL),
    "Triton": (
        triton,
        OFF,
        "fused GPU kernels; plain torch operations do the same",
        "pip install triton (a CUDA build of torch brings it)",
    ),
    "PyAV": (codecs, STOP, "decoding", INSTALL),
    "packages": (required, STOP, "all of it", INSTALL),
    "optional packages": (optional, OFF, "some tools", INSTALL),
}


def look(name: str) -> list[Finding]:
    """What a library has, or why it does not load."""
    function, level, effect, cure = LOOKS[name]
    try:
        return function()
    except ModuleNotFoundError as error:
        return [Finding(name, level, f"not installed ({error.name})", effect, cure)]
    except Exception as error:
        return [Finding(name, level, f"broken, {reason(error)}", effect, cure)]


if __name__ == "__main__":
    print("\n" + json.dumps([finding.plain() for finding in look(sys.argv[1])]))
