"""Where compiled libraries are kept, and how they get there: written beside, then renamed, so that all are whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from dali_mix.native.toolchain import compiler_version, find_compiler, platform_facts

PACKAGE_FOLDER = Path(__file__).parent / "built"
"""For libraries that are compiled ahead, as in a container image; looked through first."""

LIBRARY = "libdali_mix.so"
_MANIFEST = "manifest.json"
_PATIENCE_S = 300.0


class Library(NamedTuple):
    """A compiled library.

    Fields:
        path: of the shared library.
        kernels: files of its kernels by compute capability, 10 * major + minor; 0 is PTX.
    """

    path: Path
    kernels: dict[int, Path]


def cache_folder() -> Path | None:
    """``$DALI_MIX_CACHE``, or ``dali_mix`` in the user's cache; None for a user without a home."""
    named = os.environ.get("DALI_MIX_CACHE")
    if named:
        return Path(named)
    with contextlib.suppress(RuntimeError):
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dali_mix"
    return None


def find() -> Library | None:
    """A library that fits this process: for its DALI, these sources, and a C library that is not newer.

    One that another compiler made is used where there is no compiler, or the library came with the package.
    """
    compiler = find_compiler()
    own = compiler_version(compiler) if compiler else None
    for library, facts in _libraries(PACKAGE_FOLDER):
        if _fits(facts, None):
            return library
    folder = cache_folder()
    for library, facts in _libraries(folder) if folder else ():
        if _fits(facts, own):
            return library
    return None


def keep(build: Callable[[Path], None], folder: Path) -> Library:
    """Build a library into a folder, unless another process has done so in the meantime.

    Args:
        build: writes :data:`LIBRARY` and ``sm_XX.cubin`` or ``compute_XX.ptx`` into the folder that it is given.
        folder: the cache, or the folder of the package; made where it is missing.

    Raises:
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    facts = platform_facts() | {"compiler": compiler_version(find_compiler() or "")}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    place = folder / key
    with _locked(folder / f"{key}.lock"):
        found = next((library for library, known in _libraries(folder) if known == facts), None)
        if found is not None:
            return found
        temporary = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=folder))
        try:
            build(temporary)
            _write_manifest(temporary, facts)
            temporary.chmod(0o755)
            _replace(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return library_in(place)


def build_unkept(build: Callable[[Path], None]) -> Iterator[Library]:
    """Yield a library of this process alone, for machines whose caches cannot be written; it is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="dali_mix-") as folder:
        build(Path(folder))
        yield library_in(Path(folder))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time compile.  Without locks, as on some network drives, each does; the rename is safe."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_PATIENCE_S)
    except (Timeout, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _replace(temporary: Path, place: Path) -> None:
    """Put a whole folder where there may be one: another process's, or a damaged one."""
    try:
        temporary.rename(place)
    except OSError:
        old = Path(tempfile.mkdtemp(prefix="old-", dir=place.parent))
        with contextlib.suppress(OSError):
            place.rename(old / "old")
        shutil.rmtree(old, ignore_errors=True)
        temporary.rename(place)


def _write_manifest(folder: Path, facts: dict[str, str]) -> None:
    manifest = {"facts": facts, "sha256": _digest(folder / LIBRARY)}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _libraries(folder: Path) -> Iterator[tuple[Library, dict[str, str]]]:
    """The whole libraries in a folder, with what they were made for."""
    for path in sorted(folder.glob(f"*/{_MANIFEST}")):
        try:
            manifest = json.loads(path.read_text())
            if _digest(path.with_name(LIBRARY)) == manifest["sha256"]:
                yield library_in(path.parent), dict(manifest["facts"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not readable, or not one of ours: as if it were not there


def library_in(folder: Path) -> Library:
    """The library that a folder holds, with its kernels."""
    kernels = {int(path.stem.removeprefix("sm_")): path for path in folder.glob("sm_*.cubin")}
    ptx = next(folder.glob("compute_*.ptx"), None)
    return Library(folder / LIBRARY, kernels | ({0: ptx} if ptx else {}))


def _fits(facts: dict[str, str], compiler: str | None) -> bool:
    here = platform_facts()
    libc = here.pop("libc")
    equal = all(facts.get(name) == value for name, value in here.items())
    return equal and _serves(facts.get("libc", ""), libc) and compiler in (None, facts.get("compiler"))


def _serves(built: str, here: str) -> bool:
    """Whether what was built with one C library runs with another: with the same or a later one of its kind."""
    (kind, _, old), (other, _, new) = built.partition("-"), here.partition("-")
    numbers = [re.findall(r"\d+", version) for version in (old, new)]
    return kind == other and [*map(int, numbers[0])] <= [*map(int, numbers[1])]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
