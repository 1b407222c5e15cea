"""What a figure was measured on: without it a figure says nothing."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "torch",
    "triton",
    "cut-cross-entropy",
    "nvidia-dali-cuda130",
    "av",
    "numpy",
    "pyarrow",
    "opencv-contrib-python-headless",
    "kornia",
    "decord2",
    "imageio-ffmpeg",
    "torchcodec",
    "pynvvideocodec",
)
# Who waits how for whom when cores are shared; the first two double a CPU's figures or halve them.
THREADING = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS", "KMP_BLOCKTIME")
LOAD_AT_START = os.getloadavg()[0]  # what others do; later it is ours


def conditions() -> dict:
    """Hardware, versions, settings and the command."""
    return {
        "command": " ".join(["python -m tools.benchmark", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "device": device_name(),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": round(LOAD_AT_START, 2),
        "threading": {name: os.environ.get(name, "") for name in THREADING},
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        **_of_torch(),
    }


def device_name() -> str:
    """The GPU, or the processor where there is none."""
    torch = sys.modules.get("torch")  # only what uses it anyway needs to wait for it
    if torch and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return processor()


def file_stem(name: str) -> str:
    """A device's name as that of a file: NVIDIA H200 is nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", name.lower())).strip("-")


def in_words(facts: dict) -> str:
    """One line for people."""
    settings = [f"{name}={value}" for name, value in facts["threading"].items() if value]
    return (
        f"{facts['device']}, {facts['cores']} cores, "
        f"load {facts['load_at_start']:.1f} at the start, Python {facts['python']}, "
        f"torch {facts['versions'].get('torch', 'none')}, "
        f"{' '.join(settings) or 'OpenMP as it comes'}"
    )


def of_figure(facts: dict) -> str:
    """One line for people: what other figures of a file may have been measured with otherwise."""
    settings = [f"{name}={value}" for name, value in facts["threading"].items() if value]
    threads = [f"torch threads {facts['threads']}"] if "threads" in facts else []
    load = f"load {facts['load_at_start']:.1f} at the start"
    return f"{', '.join([facts['date'], load, *threads, *settings])}: {facts['command']}"


def _of_torch() -> dict:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    facts = {"threads": torch.get_num_threads(), "cuda": torch.version.cuda}
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu_memory_bytes": gpu.total_memory,
            "multiprocessors": gpu.multi_processor_count,
            "capability": f"{gpu.major}.{gpu.minor}",
        }
    return facts


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
