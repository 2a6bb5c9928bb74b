"""NVIDIA's driver and JPEG library, as this process finds them.  Nothing here needs a GPU or raises without one."""

from __future__ import annotations

import ctypes
import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path

from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from dali_mix.fn.image.decode import decode_images

NO_ENGINE = "none that this process may use"

WITH_ENGINE = ((8, 0), (9, 0), (10, 0), (10, 3))
"""Compute capabilities of GPUs that all have one: A100, H100 and H200, B200, B300."""

_NAME = "libnvjpeg.so"
_HARDWARE_BACKEND = 3  # NVJPEG_BACKEND_HARDWARE in nvjpeg.h


def driver_version() -> str | None:
    """The version of the kernel module, None without one."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?(\d+\.\d+(\.\d+)?)", text)
    return found[1] if found else None


@functools.cache
def _cuda() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def driver_cuda() -> tuple[int, int] | None:
    """Newest version of CUDA that the driver takes, None without one."""
    number = ctypes.c_int()
    cuda = _cuda()
    if cuda is None or cuda.cuDriverGetVersion(ctypes.byref(number)) != 0 or not number.value:
        return None
    return number.value // 1000, number.value % 1000 // 10


def count_gpus() -> int:
    """GPUs that the driver gives to this process."""
    count = ctypes.c_int()
    cuda = _cuda()
    if cuda is None or cuda.cuInit(0) != 0 or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def load_decoders(on_gpu: bool) -> Pipeline:
    """A pipeline with a decoder: DALI loads what decodes when it is built, and may unload it after its end."""
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=0 if on_gpu else None)
    with pipeline:
        jpegs = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(decode_images(jpegs, decoder="mixed" if on_gpu else "cpu"))
    pipeline.build()
    return pipeline


def loaded_libraries() -> list[str]:
    """The files in this process that answer to nvJPEG's name.

    torchvision brings a copy of its own, under another name and only for itself.
    """
    files = {line.split(maxsplit=5)[-1].strip() for line in _maps() if "/" in line}
    return sorted(path for path in files if Path(path).name.startswith(_NAME))


def _maps() -> list[str]:
    try:
        return Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []


def library_to_be_found() -> str | None:
    """The file that DALI's decoder would load: in the order of the dynamic linker, for the extension that asks."""
    extensions = [Path(line.split(maxsplit=5)[-1]) for line in _maps() if "libnvjpeg_ext.so" in line]
    if not extensions:
        return None
    extension = extensions[0]
    searched = re.search(rb"\$ORIGIN[^\0]*", extension.read_bytes())
    own = searched[0].decode().replace("$ORIGIN", str(extension.parent)).split(":") if searched else []
    for folder in [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), *own]:
        found = sorted(Path(folder).glob(f"{_NAME}.[0-9]*")) if folder else []
        if found:
            return os.path.normpath(found[0])
    return None


def library_version(path: str) -> str:
    """Such as "13.3.2", from the library itself."""
    get = ctypes.CDLL(path).nvjpegGetProperty
    values = [ctypes.c_int(-1) for _ in range(3)]
    for kind, value in enumerate(values):
        get(kind, ctypes.byref(value))
    return ".".join(str(value.value) for value in values)


def engine(path: str) -> str:
    """The GPU's JPEG engine, as nvJPEG sees it; CUDA must be in use already.

    Args:
        path: of the loaded libnvjpeg.
    """
    library = ctypes.CDLL(path)
    handle = ctypes.c_void_p()
    if library.nvjpegCreateEx(_HARDWARE_BACKEND, None, None, 0, ctypes.byref(handle)) != 0:
        return NO_ENGINE
    try:
        engines, cores = ctypes.c_uint(), ctypes.c_uint()
        ask = library.nvjpegGetHardwareDecoderInfo
        if ask(handle, ctypes.byref(engines), ctypes.byref(cores)) != 0 or not engines.value:
            return NO_ENGINE
        return f"{engines.value} with {cores.value} core{'s' if cores.value != 1 else ''} each"
    finally:
        library.nvjpegDestroy(handle)


def hidden_by(environment: Mapping[str, str]) -> str | None:
    """What keeps a container from the engine: its own list of capabilities, without "video"."""
    name = "NVIDIA_DRIVER_CAPABILITIES"
    value = environment.get(name)
    if value is None or {"video", "all"} & set(value.replace(" ", "").split(",")):
        return None
    return f"{name}={value} hides it"
