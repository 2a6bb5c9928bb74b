"""The kernels for GPUs, compiled by NVRTC: no GPU, driver or toolkit is needed for it."""

from __future__ import annotations

import ctypes
from pathlib import Path

from dali_mix.native.toolchain import SOURCES

ARCHITECTURES = (75, 80, 90, 100, 120)
"""Compute capabilities that are compiled for; each also serves the later minor versions of its major one."""

PTX = 80
"""What the text for devices that come later is made for; the driver compiles it when it is loaded."""

_SOURCES = ("pixels.cu", "augment/augment.cu")
_OPTIONS = ("--std=c++17", "--fmad=false", "-default-device")


class KernelError(RuntimeError):
    """NVRTC could not compile the kernels; the text is its log."""


class Compiler:
    """NVRTC.

    Args:
        library: its path.
    """

    def __init__(self, library: Path) -> None:
        self._nvrtc = ctypes.CDLL(str(library))
        self._nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p

    def supported(self) -> set[int]:
        """The compute capabilities that it compiles for, as 10 * major + minor."""
        count = ctypes.c_int()
        self._check(self._nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        architectures = (ctypes.c_int * count.value)()
        self._check(self._nvrtc.nvrtcGetSupportedArchs(architectures))
        return set(architectures)

    def binary(self, architecture: int) -> bytes:
        """The kernels for one compute capability (a cubin)."""
        return self._compile(f"sm_{architecture}", "CUBIN")

    def ptx(self, architecture: int) -> bytes:
        """The kernels as text, for this compute capability and all later ones."""
        return self._compile(f"compute_{architecture}", "PTX").rstrip(b"\0")

    def _compile(self, architecture: str, result: str) -> bytes:
        nvrtc, program = self._nvrtc, ctypes.c_void_p()
        source = "".join(f'#include "{name}"\n' for name in _SOURCES)
        headers = {str(path.relative_to(SOURCES)): path for path in SOURCES.rglob("*") if path.suffix in (".cu", ".h")}
        count = len(headers)
        self._check(
            nvrtc.nvrtcCreateProgram(
                ctypes.byref(program), source.encode(), b"kernels.cu", count,
                (ctypes.c_char_p * count)(*(path.read_bytes() for path in headers.values())),
                (ctypes.c_char_p * count)(*(name.encode() for name in headers)),
            )
        )  # fmt: skip
        try:
            options = [f"--gpu-architecture={architecture}".encode(), *(option.encode() for option in _OPTIONS)]
            if nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)):
                raise KernelError(self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace"))
            return self._read(program, result)
        finally:
            nvrtc.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._nvrtc, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _check(self, code: int) -> None:
        if code:
            raise KernelError(self._nvrtc.nvrtcGetErrorString(code).decode())
