"""Where compiled libraries are kept, and how they get there: written beside, then renamed, so that all are whole."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from filelock import FileLock, Timeout

from dali_mix.native.toolchain import BuildError, compiler_version, find_compiler, find_nvrtc, platform_facts

PACKAGE_FOLDER = Path(__file__).parent / "built"
"""The folder of libraries that are compiled ahead, as in a container image; looked through first."""

LIBRARY = "libdali_mix.so"
_MANIFEST = "manifest.json"
_PATIENCE_S = 300.0


Facts: TypeAlias = dict[str, str]
"""What a library was made for."""


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
    with contextlib.suppress(RuntimeError):  # "~" of a user who has none
        if named:
            return Path(named).expanduser().absolute()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dali_mix"
    return None


def find() -> Iterator[Library]:
    """The libraries that fit this process: for its DALI, these sources, and a C library that is not newer.

    Those of the package come first, then those of this machine's compiler; another compiler's will do as well.
    """
    compiler = find_compiler()
    own = compiler_version(compiler) if compiler else ""
    folder = cache_folder()
    in_cache = (
        [] if folder is None else sorted(_libraries(folder, _fits), key=lambda kept: kept[1].get("compiler") != own)
    )
    for library, _ in itertools.chain(_libraries(PACKAGE_FOLDER, _fits), in_cache):
        yield library


def keep(build: Callable[[Path], None], folder: Path, unusable: Container[Path] = ()) -> Library:
    """Build a library into a folder, unless another process has done so in the meantime.

    Args:
        build: writes :data:`LIBRARY` and ``sm_XX.cubin`` or ``compute_XX.ptx`` into the folder that it is given.
        folder: the cache, or the folder of the package; made where it is missing.
        unusable: libraries that are there and could not be loaded; one of them is replaced.

    Raises:
        BuildError: from ``build``, in this process or in one that was waited for.
        OSError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compiler = find_compiler()
    facts = platform_facts() | {"compiler": compiler_version(compiler) if compiler else ""}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    place, failed = folder / key, folder / f"{key}.failed"
    asked = time.time()
    with _locked(folder / f"{key}.lock") as alone:
        for library, _ in _libraries(folder, lambda known: known == facts):
            # What another process has just made is as good as what this one would make.
            if library.path not in unusable or library.path.stat().st_mtime >= asked:
                return library
        if failed.exists() and asked <= failed.stat().st_mtime <= time.time():
            raise BuildError(failed.read_text())  # as it would again for each that has waited
        for left in folder.glob(f"{key}-*") if alone else ():
            shutil.rmtree(left, ignore_errors=True)  # by a process that was killed
        temporary = Path(tempfile.mkdtemp(prefix=f"{key}-", dir=folder))
        try:
            build(temporary)
            _write_manifest(temporary, facts)
            temporary.chmod(0o755)
            _replace(temporary, place)
        except BuildError as error:
            failed.write_text(str(error))
            raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return library_in(place)


def build_unkept(build: Callable[[Path], None]) -> Iterator[Library]:
    """Yield a library of this process alone, for machines whose caches cannot be written; it is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="dali_mix-") as folder:
        build(Path(folder))
        yield library_in(Path(folder))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Let one process at a time compile; yields whether this one is alone.

    Without locks, as on some network drives, each process compiles; the rename is safe.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_PATIENCE_S)
    except (Timeout, NotImplementedError):
        yield False
        return
    try:
        yield True
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
    for path in folder.iterdir():
        path.chmod(0o755 if path.name == LIBRARY else 0o644)  # others may use what one has compiled
    manifest = {"facts": facts, "nvrtc": str(find_nvrtc()), "sha256": _digest(folder)}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _libraries(folder: Path, wanted: Callable[[Facts], bool]) -> Iterator[tuple[Library, Facts]]:
    """The whole libraries in a folder, with what they were made for; none of a folder that cannot be read."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob(f"*/{_MANIFEST}")):
            library, manifest = library_in(path.parent), _manifest(path, wanted)
            # Where there is no NVRTC a library has no kernels; where there is one it must have them.
            if manifest and (library.kernels or manifest["nvrtc"] == str(find_nvrtc())):
                yield library, manifest["facts"]


def _manifest(path: Path, wanted: Callable[[Facts], bool]) -> dict[str, Any] | None:
    """The manifest of a whole library; None for a folder not wanted, still written to, damaged, or none of ours."""
    if "-" in path.parent.name:
        return None
    try:
        manifest = json.loads(path.read_text())
        facts = dict(manifest["facts"])
        whole = wanted(facts) and manifest["sha256"] == _digest(path.parent)
        return {"facts": facts, "nvrtc": manifest["nvrtc"]} if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def library_in(folder: Path) -> Library:
    """The library that a folder holds, with its kernels."""
    kernels = {int(path.stem.removeprefix("sm_")): path for path in folder.glob("sm_*.cubin")}
    ptx = next(folder.glob("compute_*.ptx"), None)
    return Library(folder / LIBRARY, kernels | ({0: ptx} if ptx else {}))


def _fits(facts: dict[str, str]) -> bool:
    here = platform_facts()
    libc = here.pop("libc")
    return all(facts.get(name) == value for name, value in here.items()) and _serves(facts.get("libc", ""), libc)


def _serves(built: str, here: str) -> bool:
    """Whether what was built with one C library runs with another: with the same or a later one of its kind."""
    (kind, _, old), (other, _, new) = built.partition("-"), here.partition("-")
    numbers = [re.findall(r"\d+", version) for version in (old, new)]
    return kind == other and [*map(int, numbers[0])] <= [*map(int, numbers[1])]


def _digest(folder: Path) -> str:
    """The digest of all files but the manifest."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.name != _MANIFEST:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()
