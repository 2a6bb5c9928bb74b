"""The library in this process: found, compiled, loaded once, and chosen or not."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvidia.dali import backend, fn, plugin_manager

from dali_mix.errors import ConfigError, first_line
from dali_mix.native import cache
from dali_mix.native.compile import build
from dali_mix.native.toolchain import BuildError, find_compiler, sources_digest

_log = logging.getLogger(__name__)

MODES = ("auto", "on", "off")
"""auto takes the native operators where they can be had, on insists on them, off takes the portable graph."""

MODE_VARIABLE = "DALI_MIX_NATIVE"

_OPERATORS = ("Plan", "SoftTargets", "Pixels", "LimitSize", "AugmentPlan", "Augment")
_SCHEMAS = tuple(f"dali_mix__{name}" for name in _OPERATORS)


_find_schema: Any = backend.TryGetSchema  # type: ignore[attr-defined]


class _State:
    """What this process has found out.  DALI cannot forget a library, so there is one state per process."""

    mode: str | None = None
    reason: str = ""  # why the mode is what it is, where nobody asked for it
    tried: bool = False
    library: Path | None = None
    kernels: tuple[int, ...] = ()
    failure: str = ""
    warned: bool = False


_state = _State()
_lock = threading.RLock()
"""Two threads that define their first graphs wait for one library."""


def load_existing() -> None:
    """Load a library that is there already; nothing is compiled, and nothing is said if there is none."""
    with _lock:
        if current_mode(strict=False) == "off" or _state.tried or _find_schema(_SCHEMAS[0]) is not None:
            return
        _load_first(cache.find())


def operators(device: str = "cpu") -> Any | None:
    """The native operators (``nvidia.dali.fn.dali_mix``), or None where the portable graph is to be used.

    Compiles the library if that has not been tried before in this process: some seconds, once per machine.

    Args:
        device: "cpu" or "gpu", where the images are.

    Raises:
        ConfigError: if the mode is "on" and they cannot be had; or for a mode that is none.
    """
    mode = current_mode()
    if mode == "off":
        return None
    failure = why_not(device)
    if not failure:
        return fn.dali_mix  # type: ignore[attr-defined]
    if mode == "on":
        raise ConfigError(f"the native operators are asked for but cannot be had: {failure}")
    _say_once(failure)
    return None


def why_not(device: str = "cpu") -> str:
    """Why the native operators cannot be had, "" if they can; compiles them as :func:`operators` does."""
    with _lock:
        if not _state.tried:
            _obtain()
    if _state.library is None:
        return _state.failure
    return _why_no_kernel() if device == "gpu" else ""


def _why_no_kernel() -> str:
    """Why images on the GPU cannot be mixed, "" if they can or it cannot be told before the first batch."""
    if not _state.kernels:
        return "there are no kernels: NVRTC, which compiles them and comes with PyTorch for CUDA, was not to be had"
    torch = sys.modules.get("torch")  # whoever trains has imported it; for others it would take seconds
    if torch is None or not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability()
    served = any(kernel // 10 == major and kernel % 10 <= minor for kernel in _state.kernels)
    if served or (0 in _state.kernels and 10 * major + minor >= min(kernel for kernel in _state.kernels if kernel)):
        return ""
    return f"there is no kernel for a device of compute capability {major}.{minor}"


def current_mode(strict: bool = True) -> str:
    """The mode that was chosen, else that of the environment, else "auto".

    Raises:
        ConfigError: for one that is none, unless ``strict`` is False.
    """
    mode = _state.mode or os.environ.get(MODE_VARIABLE) or "auto"
    if mode in MODES:
        return mode
    if strict:
        raise ConfigError(f"{MODE_VARIABLE} must be one of {', '.join(MODES)}, got {mode!r}")
    return "auto"


def use(mode: str, reason: str = "") -> None:
    """Choose for graphs that are defined from now on, whatever the environment says.

    Args:
        mode: one of :data:`MODES`.
        reason: why, for :func:`describe`.
    """
    if mode not in MODES:
        raise ConfigError(f"the native operators can be {', '.join(MODES)}, got {mode!r}")
    _state.mode, _state.reason = mode, reason


@contextlib.contextmanager
def using(mode: str, reason: str = "") -> Iterator[None]:
    """``use`` for the graphs that are defined in a ``with`` block."""
    before = _state.mode, _state.reason
    use(mode, reason)
    try:
        yield
    finally:
        _state.mode, _state.reason = before


def implementation(device: str = "cpu") -> str:
    """ "native" or "portable": what a graph that is defined now is made of."""
    return "portable" if operators(device) is None else "native"


def describe() -> list[str]:
    """Which implementation is in use, and why, a line each; compiles as :func:`operators` does."""
    mode = current_mode(strict=False)
    if mode == "off":
        return [f"portable graph ({_state.reason or 'native operators are off'})"]
    failure = why_not()
    if failure:
        return [f"portable graph: {failure}"]
    names = [f"sm_{arch}" if arch else "PTX" for arch in sorted(_state.kernels, reverse=True)]
    kernels = f"kernels for {', '.join(names)}" if names else "no kernels: on a GPU the portable graph mixes"
    return [f"native operators, {_state.library}", kernels]


def _obtain() -> None:
    """Find or compile the library, and load it; ``_state`` holds the outcome, whatever happens on the way."""
    _state.failure = "compiling them was interrupted"
    try:
        if _find_schema(_SCHEMAS[0]) is not None:
            _adopt()
        else:
            _find_or_compile()
    except BuildError as error:
        _state.failure = str(error)
    except OSError as error:
        _state.failure = f"the library cannot be written: {error}"
    _state.tried = True


def _adopt() -> None:
    """Take the library that somebody else has loaded; another one with the same operators would abort the process."""
    path = _loaded_path()
    if path is None or sources_digest() not in _find_schema(_SCHEMAS[0]).Dox():
        _state.failure = "other operators of the name dali_mix are loaded in this process"
    else:
        files = cache.library_in(path.parent).kernels
        _take(path, {architecture: file.read_bytes() for architecture, file in files.items()})


def _find_or_compile() -> None:
    unusable = _load_first(cache.find())
    if _find_schema(_SCHEMAS[0]) is not None:
        return  # loaded, for better or worse: there cannot be another
    folder = cache.cache_folder()
    if find_compiler() is not None:
        _log.info("compiling the native operators, once for this machine and DALI ...")
    if folder is not None:
        try:
            _load(cache.keep(build, folder, unusable))
            return
        except OSError as error:
            _log.info("%s cannot be written (%s): the operators are compiled for this process alone", folder, error)
    for library in cache.build_unkept(build):
        _load(library)


def _load_first(libraries: Iterator[cache.Library]) -> list[Path]:
    """Load the first library that DALI takes; those that it does not take."""
    unusable = []
    for library in libraries:
        if _load(library) or _find_schema(_SCHEMAS[0]) is not None:
            break
        unusable.append(library.path)
    return unusable


def _load(library: cache.Library) -> bool:
    """Load a library into DALI; whether it can be used."""
    try:
        kernels = {architecture: file.read_bytes() for architecture, file in library.kernels.items()}
        plugin_manager.load_library(str(library.path))
    except Exception as error:  # a path that is no text is a TypeError of DALI's
        _state.failure = f"{library.path} cannot be loaded ({first_line(error)}); delete its folder"
        return False
    return _take(library.path, kernels)


def _take(path: Path, kernels: dict[int, bytes]) -> bool:
    """Check a library that is loaded, and give it its kernels."""
    handle = ctypes.CDLL(str(path))
    if any(_find_schema(name) is None for name in _SCHEMAS) or handle.dali_mix_self_check():
        _state.failure = f"{path} fails its self-check; delete it"
        return False
    for architecture, code in kernels.items():
        handle.dali_mix_add_kernels(architecture, code, ctypes.c_size_t(len(code)))
    _state.library, _state.kernels, _state.failure, _state.tried = path, tuple(kernels), "", True
    return True


def _loaded_path() -> Path | None:
    """The path of the library with our operators that this process has loaded."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            if line.endswith(f"/{cache.LIBRARY}"):
                return Path(line.split(maxsplit=5)[-1])
    return None


def _say_once(failure: str) -> None:
    if _state.warned:
        return
    _state.warned = True
    _log.warning(
        "the portable graph mixes and augments, which decides some ten times more slowly (it can halve a GPU loader): "
        "%s. %s=off says that this is wanted",
        failure,
        MODE_VARIABLE,
    )
