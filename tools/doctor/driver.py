"""The NVIDIA driver and its engines, found without any library but the C library's loader."""

from __future__ import annotations

import ctypes

from tools.doctor.findings import OFF, OK, Finding

NVML = "libnvidia-ml.so.1"
VIDEO_CURE = "start the container with NVIDIA_DRIVER_CAPABILITIES=compute,utility,video"
NO_DRIVER_CURE = "needs an NVIDIA GPU and its driver; in a container: docker run --gpus all"


def driver_version() -> str:
    """Version of the driver. Raises OSError that says what is missing."""
    try:
        nvml = ctypes.CDLL(NVML)
    except OSError:
        raise OSError(f"{NVML} is not here") from None
    try:
        if code := nvml.nvmlInit_v2():
            raise OSError(f"the driver does not answer (NVML error {code})")
        text = ctypes.create_string_buffer(96)
        nvml.nvmlSystemGetDriverVersion(text, len(text))
        nvml.nvmlShutdown()
    except AttributeError as error:
        raise OSError(f"{NVML} is broken, {error}") from error
    return text.value.decode()


def has_driver() -> bool:
    try:
        return bool(driver_version())
    except OSError:
        return False


def driver() -> list[Finding]:
    try:
        version = driver_version()
    except OSError as error:
        effect = "the GPU; everything runs on the CPU, slower"
        return [Finding("NVIDIA driver", OFF, str(error), effect, NO_DRIVER_CURE)]
    return [Finding("NVIDIA driver", OK, version, data={"version": version})]


def nvdec() -> list[Finding]:
    effect = "decoding on the GPU; FFmpeg decodes on the CPU (data.decoder=ffmpeg)"
    return [_library("NVDEC", "libnvcuvid.so.1", effect)]


def optical_flow() -> list[Finding]:
    effect = "optical flow by the GPU's own engine"
    return [_library("optical-flow engine", "libnvidia-opticalflow.so.1", effect)]


def _library(name: str, file: str, effect: str) -> Finding:
    try:
        ctypes.CDLL(file)
    except OSError:
        cure = VIDEO_CURE if has_driver() else NO_DRIVER_CURE
        return Finding(name, OFF, f"{file} is not here", effect, cure)
    return Finding(name, OK, file)
