"""What this environment is, and what stands in the way of a fast run: ``dali-mix doctor``.

The examination runs in a process of its own: drivers and libraries that do not fit each other end a process without
an exception, and the last line should say so all the same.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from dali_mix.tools import nvjpeg

_WIDTH = 20
_PROBLEM = "problem"

Line = tuple[str, str]
"""Name and value; the name of what is wrong is "problem"."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line each, name and value.

    Returns:
        0, or 1 with a last line that names what is wrong and what to do.
    """
    parser = argparse.ArgumentParser(prog="dali-mix doctor", description="What this environment is, and what is wrong.")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args(argv).here:
        code = _examine()
        sys.stdout.flush()
        os._exit(code)  # what libraries do when the interpreter ends is no finding, and takes seconds
    command = [sys.executable, "-m", "dali_mix.tools.doctor", "--here"]
    # What libraries write besides is not of the report's form; the end of it is told if they end the process.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        last, said, name = "", "", "the start"
        assert child.stdout is not None
        for text in child.stdout:
            if text.startswith(_MARK):
                last = text.removeprefix(_MARK).rstrip("\n")
                name = last[:_WIDTH].split("  ")[0].strip()
                print(last, flush=True)
            elif text.strip():
                said = text.strip()
    if child.returncode in (0, 1) and last:
        return child.returncode
    end = f"by {signal.Signals(-child.returncode).name}" if child.returncode < 0 else f"with code {child.returncode}"
    print(_line(_PROBLEM, f"the examination ended {end} after {name}: {said or 'nothing was said'}"))
    return 1


_MARK = "\x1edoctor: "
"""Before the lines that are for the user."""


def _line(name: str, value: str) -> str:
    return f"{name:<{_WIDTH}}{' '.join(value.split())}"


def _examine() -> int:
    problems: list[str] = []
    for part in (_versions, _driver, _gpus, _backend, _jpeg, _native_operators):
        try:
            for name, value in part():
                if name == _PROBLEM:
                    problems.append(value)
                else:
                    print(f"{_MARK}{_line(name, value)}", flush=True)
        except Exception as error:  # whatever a broken installation raises; the other parts may still tell more
            problems.append(f"{part.__name__.strip('_')}: {type(error).__name__}: {error}")
    # The first cause is mostly that of the others.
    for problem in reversed(problems):
        print(f"{_MARK}{_line(_PROBLEM, problem)}", flush=True)
    return 1 if problems else 0


def _versions() -> Iterator[Line]:
    yield "python", platform.python_version()
    yield "dali_mix", _version("dali_mix")
    import nvidia.dali as dali

    yield "DALI", f"{dali.__version__}, CUDA {_dali_cuda()}, {dali.__git_sha__}"
    torch = import_module("torch")
    yield "torch", f"{torch.__version__}, {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'without CUDA'}"
    for name in ("torchvision", "timm"):
        import_module(name)  # as a run does: what they load may be found before what DALI looks for
        yield name, _version(name)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _dali_cuda() -> str:
    """CUDA's version that DALI was built for; it gives the digits without the points."""
    import nvidia.dali as dali

    digits = str(dali.__cuda_version__)
    return f"{digits[:2]}.{digits[2]}"


def _driver() -> Iterator[Line]:
    driver = nvjpeg.driver_version()
    cuda = nvjpeg.driver_cuda()
    if driver is None and cuda is None:
        yield "driver", "none"
        return
    yield "driver", f"{driver or 'unknown'}, up to CUDA {'.'.join(map(str, cuda)) if cuda else 'unknown'}"
    if cuda is None:
        yield (
            _PROBLEM,
            (
                "the NVIDIA driver is loaded, but libcuda.so.1 is not to be found; in a container, start it with "
                "--gpus all, or install the driver's libraries"
            ),
        )
    elif cuda[0] < int(_dali_cuda().split(".")[0]):
        yield (
            _PROBLEM,
            (
                f"DALI is built for CUDA {_dali_cuda()}, the driver goes up to {cuda[0]}.{cuda[1]}: "
                f"pip install 'dali_mix[cuda{cuda[0]}]' in its place, or update the driver"
            ),
        )


def _gpus() -> Iterator[Line]:
    import torch

    if not torch.cuda.is_available():
        yield "GPU", "none that PyTorch can use"
        driver = nvjpeg.driver_cuda()
        if driver is not None and nvjpeg.count_gpus():
            built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
            told = f"there is a GPU, but PyTorch {torch.__version__}, built for {built}, cannot use it"
            yield _PROBLEM, f"{told}: install a build for at most CUDA {driver[0]}.{driver[1]}"
        return
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        yield f"GPU {index}", f"{found.name}, {found.total_memory / 2**30:.0f} GiB, sm_{found.major}{found.minor}"


def _backend() -> Iterator[Line]:
    from dali_mix.loading.device import reason_for_cpu

    reason = reason_for_cpu()
    yield "DALI backend", f"cpu: {reason}" if reason else "gpu, with the mixed decoder"


def _jpeg() -> Iterator[Line]:
    import torch

    on_gpu = torch.cuda.is_available()
    pipeline = nvjpeg.load_decoders(on_gpu)
    loaded = nvjpeg.loaded_libraries()
    if not loaded:
        found = nvjpeg.library_to_be_found()
        yield "libnvjpeg", f"none is loaded without a GPU; {found or 'none'} would be found"
    for path in loaded:
        yield "libnvjpeg", f"{nvjpeg.library_version(path)}, {path}"
    if on_gpu:
        yield from _engine(loaded)
    else:
        yield "JPEG engine", "none without a GPU"
    del pipeline


def _engine(loaded: Sequence[str]) -> Iterator[Line]:
    import torch

    engine = nvjpeg.engine(loaded[0]) if loaded else "unknown, as DALI has loaded no libnvjpeg"
    yield "JPEG engine", engine
    hidden = nvjpeg.hidden_by(os.environ)
    if hidden and engine == nvjpeg.NO_ENGINE and torch.cuda.get_device_capability() in nvjpeg.WITH_ENGINE:
        yield _PROBLEM, f"the GPU has a JPEG engine, but {hidden}: start it with compute,utility,video, or all"


def _native_operators() -> Iterator[Line]:
    """Which implementation mixes and augments, and why."""
    try:
        from dali_mix import native
    except ImportError:
        yield "native operators", "portable graph"
        return
    for line in native.describe():
        yield "native operators", line


if __name__ == "__main__":
    sys.exit(main())
