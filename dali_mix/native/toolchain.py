"""What is at hand to compile with: a C++ compiler, DALI's and CUDA's headers and libraries.

Everything but the compiler comes with the Python packages: DALI's headers with DALI, CUDA's with PyTorch and
``nvidia-cuda-crt``.  No CUDA toolkit is needed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import nvidia.dali

TOOLKITS = (Path("/usr/local/cuda"),)
"""The folders of toolkits, beside ``$CUDA_HOME`` and ``$CUDA_PATH``.  None is needed; its headers come last."""


class BuildError(RuntimeError):
    """The library cannot be compiled here; one line that says why."""


SOURCES = Path(__file__).parent / "src"


@cache
def find_compiler() -> tuple[str, ...] | None:
    """The command of ``$CXX``, which may have arguments, or of g++; None where there is none."""
    try:
        command = shlex.split(os.environ.get("CXX") or "g++")
    except ValueError:  # a quotation mark without its other
        return None
    path = shutil.which(command[0]) if command else None
    return (path, *command[1:]) if path else None


@cache
def compiler_version(compiler: tuple[str, ...]) -> str:
    """What the compiler says it is, "" if it cannot be run."""
    command = [*compiler, "--version"]
    try:
        result = subprocess.run(command, capture_output=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout.partition("\n")[0].strip()


@cache
def sources_digest() -> str:
    """A fingerprint of everything that is compiled, and of how."""
    digest = hashlib.sha256(" ".join(compile_options()).encode())
    for path in [*sorted(SOURCES.rglob("*")), Path(__file__).with_name("kernels.py")]:
        if path.is_file():
            digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def platform_facts() -> dict[str, str]:
    """What a library must have been made for to be loaded here; a compiler beside another one makes no difference."""
    return {
        "dali": nvidia.dali.__version__,
        "dali_git": nvidia.dali.__git_sha__,
        "cuda": str(nvidia.dali.__cuda_version__),
        "sources": sources_digest(),
        "libc": "-".join(platform.libc_ver()),
        "machine": platform.machine(),
    }


def compile_options() -> list[str]:
    """Flags for g++.  Not ``-march=native``: machines may share the library."""
    speed = ["-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic"]
    # Without contraction the arithmetic is the kernel's, which is compiled without it, too.
    return ["-std=c++20", *speed, "-ffp-contract=off", "-fPIC", "-fvisibility=hidden"]


def include_folders() -> list[Path]:
    """DALI's headers, then CUDA's, the first that has a file counts."""
    major = cuda_major()
    candidates = [folder / f"cu{major}" / "include" for folder in _nvidia_folders()]
    # The packages for CUDA 12 have a folder each.
    candidates += [
        folder / name / "include" for folder in _nvidia_folders() for name in ("cuda_runtime", "cuda_nvcc", "cuda_cccl")
    ]
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates += [toolkit / "include" for toolkit in ((Path(named),) if named else ()) + TOOLKITS]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin:  # the headers that others lack, of another version
        candidates.append(Path(triton.origin).parent / "backends" / "nvidia" / "include")
    return [_dali_folder() / "include", *(path for path in candidates if path.is_dir())]


def link_options() -> list[str]:
    """Flags for g++, after the object files.

    Raises:
        FileNotFoundError: if CUDA's runtime library is not there.
    """
    folder = _dali_folder()
    # DALI's own flags name only one of its libraries; undefined symbols would be met at the first call.
    dali = [f"-L{folder}", "-ldali", "-ldali_core"]
    strict = ["-Wl,--no-undefined", "-Wl,--exclude-libs,ALL"]
    return [*dali, *strict, str(_cuda_runtime()), "-ldl", "-lrt", "-lpthread"]


def find_nvrtc() -> Path | None:
    """NVRTC's library, which PyTorch brings; None where there is none."""
    return _library("cuda_nvrtc", f"libnvrtc.so.{cuda_major()}")


def cuda_major() -> int:
    """The major version of the CUDA that DALI is built for: 13000 or 13492 is 13."""
    return int(nvidia.dali.__cuda_version__) // 1000


def _cuda_runtime() -> Path:
    major = cuda_major()
    for name in ("libcudart_static.a", f"libcudart.so.{major}"):
        path = _library("cuda_runtime", name)
        if path is not None:
            return path
    raise FileNotFoundError(f"CUDA's runtime library (libcudart.so.{major}, as PyTorch brings it) is not installed")


def _library(package: str, name: str) -> Path | None:
    places = [place for folder in _nvidia_folders() for place in (folder / f"cu{cuda_major()}", folder / package)]
    return next((path for place in places if (path := place / "lib" / name).is_file()), None)


def _nvidia_folders() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    return [Path(folder) for folder in spec.submodule_search_locations or []] if spec else []


def _dali_folder() -> Path:
    return Path(nvidia.dali.__file__).parent
