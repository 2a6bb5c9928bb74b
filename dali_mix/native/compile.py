"""Compiles sources to a library: g++ for the operators, NVRTC for the kernels."""

from __future__ import annotations

import logging
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dali_mix.native import kernels
from dali_mix.native.cache import LIBRARY
from dali_mix.native.toolchain import (
    SOURCES,
    BuildError,
    compile_options,
    find_compiler,
    find_nvrtc,
    include_folders,
    link_options,
    sources_digest,
)

_log = logging.getLogger(__name__)

_TIMEOUT_S = 300


def build(folder: Path) -> None:
    """Compile the library, and the kernels where there is NVRTC, into a folder.

    Raises:
        BuildError: if there is no compiler, or it fails.
        OSError: if the folder cannot be written.
    """
    compiler = find_compiler()
    if compiler is None:
        named = f"CXX={os.environ['CXX']} is no command" if os.environ.get("CXX") else "no C++ compiler was found"
        raise BuildError(f"{named}: install g++ 11 or newer, or name one in CXX")
    with ThreadPoolExecutor() as pool:
        kernels_done = pool.submit(_compile_kernels, folder)
        _compile_operators(compiler, folder)
        kernels_done.result()


def _compile_operators(compiler: tuple[str, ...], folder: Path) -> None:
    # DALI's headers are not ours to mend: as a system's, they cause no warnings.
    includes = [option for path in include_folders() for option in ("-isystem", str(path))]
    build = f'-DDALI_MIX_BUILD="{sources_digest()}"'
    abi = "-D_GLIBCXX_USE_CXX11_ABI=1"  # as DALI's wheels
    try:
        link = link_options()
    except FileNotFoundError as error:
        raise BuildError(str(error)) from error
    # All files as one: DALI's headers take most of the time, and are read once.
    whole = "".join(f'#include "{path}"\n' for path in sorted(SOURCES.rglob("*.cc")))
    command = [*compiler, *compile_options(), build, abi, f"-I{SOURCES}", *includes, "-x", "c++", "-", "-x", "none"]
    _run([*command, "-shared", "-o", str(folder / LIBRARY), *link], whole)


def _run(command: list[str], text: str) -> None:
    options: dict[str, Any] = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "timeout": _TIMEOUT_S}
    try:  # in English, so that an error is recognized
        result = subprocess.run(command, input=text, env=os.environ | {"LC_ALL": "C"}, check=False, **options)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error
    if result.returncode:
        lines = result.stderr.splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        raise BuildError(f"{command[0]} failed ({first.strip()})")


def _compile_kernels(folder: Path) -> None:
    """Without them the operators still work on the CPU, so what goes wrong is said and no more."""
    library = find_nvrtc()
    if library is None:
        return
    try:
        compiler = kernels.Compiler(library)
        supported = sorted(compiler.supported().intersection(kernels.ARCHITECTURES))
        files = {f"sm_{architecture}.cubin": compiler.binary(architecture) for architecture in supported}
        files[f"compute_{kernels.PTX}.ptx"] = compiler.ptx(kernels.PTX)
    except (kernels.KernelError, AttributeError, OSError) as error:  # also an NVRTC that lacks a function
        _log.warning("no kernels for GPUs: %s failed (%s)", library.name, str(error).partition("\n")[0])
        return
    for name, code in files.items():  # a disk that is full is another matter
        (folder / name).write_bytes(code)
