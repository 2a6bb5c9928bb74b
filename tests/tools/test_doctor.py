"""The report on the environment, also where drivers and libraries do not fit each other."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nvidia import dali

from dali_mix.tools import nvjpeg
from dali_mix.tools.doctor import main

NAMES = [
    "python", "dali_mix", "DALI", "torch", "torchvision", "timm", "driver", "GPU", "DALI backend", "libnvjpeg",
    "JPEG engine", "native operators",
]  # fmt: skip

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


def rows(text):
    """Name and value of each line; a name may hold single spaces."""
    return [(line[:20].strip(), line[20:]) for line in text.splitlines()]


def examine(**environment):
    command = [sys.executable, "-m", "dali_mix.tools.cli", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=600)
    assert result.stderr == ""
    assert "Traceback" not in result.stdout
    return result.returncode, rows(result.stdout)


@no_gpu
def test_a_sound_machine_without_a_gpu(capfd):
    assert main([]) == 0
    out, err = capfd.readouterr()
    found = rows(out)
    assert list(dict.fromkeys(name for name, _ in found)) == NAMES
    assert err == ""
    told = dict(found)
    assert told["DALI"].startswith(f"{dali.__version__}, CUDA 1")
    assert told["DALI"].endswith(dali.__git_sha__)
    assert told["torch"].startswith(torch.__version__)
    assert told["driver"] == "none"
    assert told["DALI backend"] == "cpu: no CUDA GPU found"
    assert told["libnvjpeg"].startswith("none is loaded without a GPU; ")


@pytest.fixture
def fake_driver(tmp_path):
    """Make a libcuda.so.1 whose cuDriverGetVersion runs the given C."""

    def build(body):
        source = tmp_path / "cuda.c"
        source.write_text(
            "#include <stdlib.h>\n"
            f"int cuDriverGetVersion(int *version) {{ {body} }}\n"
            "int cuInit(unsigned flags) { return 0; }\n"
            "int cuDeviceGetCount(int *count) { *count = 1; return 0; }\n"
        )
        library = tmp_path / "libcuda.so.1"
        subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, source], check=True)
        return {"LD_LIBRARY_PATH": str(tmp_path)}

    return build


@no_gpu
@needs_gcc
def test_a_driver_older_than_dalis_cuda_is_the_last_line(fake_driver):
    code, found = examine(**fake_driver("*version = 12080; return 0;"))
    assert code == 1
    assert dict(found)["driver"] == "unknown, up to CUDA 12.8"
    problems = [value for name, value in found if name == "problem"]
    assert found[-1] == ("problem", problems[-1])
    assert "the driver goes up to 12.8: pip install 'dali_mix[cuda12]' in its place, or update" in problems[-1]
    assert any("there is a GPU, but PyTorch" in problem for problem in problems)


@no_gpu
@needs_gcc
def test_a_library_that_ends_the_process_is_a_line_too(fake_driver):
    code, found = examine(**fake_driver("abort();"))
    assert code == 1
    assert [name for name, _ in found] == [*NAMES[:6], "problem"]
    assert found[-1][1].startswith("the examination ended by SIGABRT after timm")


@no_gpu
def test_the_library_to_be_found_is_the_linkers_choice(tmp_path):
    (wheel,) = Path(dali.__file__).parents[1].glob("cu1*/lib/libnvjpeg.so.*")
    other = tmp_path / wheel.name
    other.symlink_to(wheel)
    pipeline = nvjpeg.load_decoders(on_gpu=False)
    assert nvjpeg.loaded_libraries() == []
    assert nvjpeg.library_to_be_found() == str(wheel)
    code, found = examine(LD_LIBRARY_PATH=str(tmp_path))
    assert code == 0
    assert f"; {other} would be found" in dict(found)["libnvjpeg"]
    del pipeline


def test_a_loaded_library_tells_its_version_and_that_it_sees_no_engine_without_a_gpu():
    (wheel,) = Path(dali.__file__).parents[1].glob("cu1*/lib/libnvjpeg.so.*")
    code = (
        "import sys; from dali_mix.tools import nvjpeg; path = sys.argv[1]\n"
        "print(nvjpeg.library_version(path), nvjpeg.loaded_libraries() == [path], nvjpeg.engine(path), sep='|')"
    )
    result = subprocess.run([sys.executable, "-c", code, wheel], capture_output=True, text=True, check=True)
    number, loaded, engine = result.stdout.strip().split("|")
    assert number.split(".")[0] == wheel.name.rpartition(".")[2]
    assert loaded == "True"
    if not torch.cuda.is_available():
        assert engine == nvjpeg.NO_ENGINE


@pytest.mark.parametrize(
    ("value", "hides"),
    [(None, False), ("all", False), ("compute,utility,video", False), ("compute, video", False), ("", True),
     ("compute,utility", True)],
)  # fmt: skip
def test_a_container_without_video_has_no_engine(value, hides):
    environment = {} if value is None else {"NVIDIA_DRIVER_CAPABILITIES": value}
    said = nvjpeg.hidden_by(environment)
    assert said == (f"NVIDIA_DRIVER_CAPABILITIES={value} hides it" if hides else None)
