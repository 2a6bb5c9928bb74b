"""From sources to a library: g++ for the operators, NVRTC for the kernels."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dali_mix.native import kernels
from dali_mix.native.cache import LIBRARY
from dali_mix.native.toolchain import (
    SOURCES,
    compile_options,
    find_compiler,
    find_nvrtc,
    include_folders,
    link_options,
    sources_digest,
)

_TIMEOUT_S = 300


class BuildError(RuntimeError):
    """The library cannot be compiled here; one line that says why."""


def build(folder: Path) -> None:
    """Compile the library, and the kernels where there is NVRTC, into a folder.

    Raises:
        BuildError: if there is no compiler, or it fails.
        OSError: if the folder cannot be written.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler was found: install g++ 11 or newer, or name one in CXX")
    with ThreadPoolExecutor() as pool:
        kernels_done = pool.submit(_compile_kernels, folder)
        _compile_operators(compiler, folder)
        kernels_done.result()


def _compile_operators(compiler: str, folder: Path) -> None:
    # DALI's headers are not ours to mend: as a system's, they cause no warnings.
    includes = [option for path in include_folders() for option in ("-isystem", str(path))]
    build = f'-DDALI_MIX_BUILD="{sources_digest()}"'
    abi = "-D_GLIBCXX_USE_CXX11_ABI=1"  # as DALI's wheels
    try:
        link = link_options()
    except FileNotFoundError as error:
        raise BuildError(str(error)) from error
    # All files as one: DALI's headers take most of the time, and are read once.
    whole = "".join(f'#include "{path}"\n' for path in sorted(SOURCES.glob("*.cc")))
    command = [compiler, *compile_options(), build, abi, f"-I{SOURCES}", *includes, "-x", "c++", "-", "-x", "none"]
    _run([*command, "-shared", "-o", str(folder / LIBRARY), *link], whole)


def _run(command: list[str], text: str) -> None:
    try:
        result = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error
    if result.returncode:
        lines = result.stderr.splitlines()
        first = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        raise BuildError(f"{command[0]} failed ({first.strip()})")


def _compile_kernels(folder: Path) -> None:
    library = find_nvrtc()
    if library is None:
        return  # on a CPU nothing is missing
    try:
        compiler = kernels.Compiler(library)
        supported = compiler.supported()
        for architecture in kernels.ARCHITECTURES:
            if architecture in supported:
                (folder / f"sm_{architecture}.cubin").write_bytes(compiler.binary(architecture))
        (folder / f"compute_{kernels.PTX}.ptx").write_bytes(compiler.ptx(kernels.PTX))
    except (kernels.KernelError, AttributeError) as error:  # an NVRTC without one of its functions
        raise BuildError(f"{library.name} failed ({str(error).splitlines()[0]})") from error
