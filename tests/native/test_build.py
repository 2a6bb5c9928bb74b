"""How the library comes to be, in processes of their own: DALI cannot forget one that it has loaded."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dali_mix.native import cache, library
from tests.implementations import need_native

TELL = """
import logging, sys
logging.basicConfig(format="%(message)s", level=logging.INFO)
from dali_mix import native
print(native.implementation())
print(*native.describe(), sep="\\n")
"""

# Kernels take NVRTC some seconds; a test that does not look at them does without.
QUICK = "from dali_mix.native import kernels; kernels.ARCHITECTURES = ()\n"

# Runs a graph, and prints what a mixed batch sums to.
MIX = """
import numpy as np
from nvidia.dali import fn, pipeline_def, types
from dali_mix import fn as mix, native
@pipeline_def(batch_size=4, num_threads=1, device_id=None, seed=3)
def graph():
    images = types.Constant(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), layout="HWC")
    labels = types.Constant(np.array([1], np.int32))
    return tuple(mix.random_mix(images, labels, num_classes=2))
pipeline = graph()
pipeline.build()
print(native.implementation(), int(np.asarray(pipeline.run()[0][0]).sum()))
"""


@pytest.fixture(scope="module")
def built() -> Path:
    """The folder of the library that this process has loaded."""
    need_native()
    return library._state.library.parent


@pytest.fixture
def copying_compiler(built, tmp_path):
    """Stands for g++ where a test is not about compiling: it delivers the library that is there already."""
    return script(
        tmp_path / "g++",
        f"""
        if [ "$1" = --version ]; then echo "a compiler that copies"; exit; fi
        echo called >> {tmp_path}/calls
        while [ $# -gt 0 ]; do [ "$1" = -o ] && cp {built / cache.LIBRARY} "$2"; shift; done
        """,
    )


def script(path, text):
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def start(code, **environment):
    env = {name: value for name, value in os.environ.items() if name not in ("CXX", "DALI_MIX_NATIVE")}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="surrogateescape",
        env=env | {name: str(value) for name, value in environment.items()},
    )  # fmt: skip


def run(code, **environment):
    process = start(QUICK + code, **environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.splitlines(), err


def test_two_processes_at_once_compile_once_without_a_toolkit(tmp_path):
    """The real compiler, and no header but those that the Python packages bring."""
    counting = script(
        tmp_path / "compiler", f'case "$*" in *--version) ;; *) echo >> {tmp_path}/calls;; esac; exec g++ "$@"'
    )
    hidden = (
        "from dali_mix.native import toolchain\n"
        "toolchain.TOOLKITS = ()\n"
        "assert not [path for path in toolchain.include_folders() if 'site-packages' not in str(path)]\n"
    )
    place = tmp_path / "a place with spaces and an é"
    environment = {"DALI_MIX_CACHE": place, "CUDA_HOME": "", "CUDA_PATH": "", "CPATH": "", "PATH": "/usr/bin:/bin"}
    both = [start(hidden + TELL, CXX=f"{counting} -pipe", **environment) for _ in range(2)]
    outputs = [process.communicate(timeout=300) for process in both]
    assert [out.splitlines()[0] for out, _ in outputs] == ["native", "native"], outputs
    assert (tmp_path / "calls").read_text() == "\n"
    (manifest,) = place.glob("*/manifest.json")
    assert {path.name for path in manifest.parent.glob("*.cubin")} >= {"sm_80.cubin", "sm_90.cubin"}
    assert not [path for path in place.iterdir() if path.is_dir() and path != manifest.parent]


def test_no_compiler(tmp_path):
    out, err = run(MIX, DALI_MIX_CACHE=tmp_path, CXX="no-such-compiler")
    assert out[0].startswith("portable ")
    (line,) = err.splitlines()
    assert "CXX=no-such-compiler is no command: install g++ 11 or newer" in line
    assert "DALI_MIX_NATIVE=off" in line


def test_no_compiler_but_a_library_that_was_built_ahead(tmp_path, built):
    shutil.copytree(built, tmp_path / built.name)
    out, err = run(MIX, DALI_MIX_CACHE=tmp_path, CXX="no-such-compiler")
    assert out[0].startswith("native ")
    assert err == ""


def test_a_compiler_that_fails(tmp_path):
    failing = script(tmp_path / "g++", "echo 'x.cc:1:2: error: out of ideas' >&2; exit 1")
    out, err = run(TELL, DALI_MIX_CACHE=tmp_path / "cache", CXX=failing)
    assert out[0] == "portable"
    assert "failed (x.cc:1:2: error: out of ideas)" in err
    assert not list((tmp_path / "cache").glob("*/"))  # nothing half done is left


def test_a_message_that_is_not_utf8(tmp_path):
    """The compiler speaks Latin-1, when it is asked for its version and when it fails."""
    failing = script(tmp_path / "g++", "printf 'Gro\\337e Pr\\374fung\\n'; printf 'error: Gr\\374n\\n' >&2; exit 1")
    out, err = run(TELL, DALI_MIX_CACHE=tmp_path / "cache", CXX=failing)
    assert out[0] == "portable"
    assert "failed (error: Gr" in err


def test_a_cache_that_may_not_be_entered(tmp_path, monkeypatch, copying_compiler):
    """As for another user than the one whose home it is: nothing is found there, and importing goes on."""
    deny = (
        "import pathlib\n"
        "def glob(self, pattern):\n"
        "    raise PermissionError(13, 'Permission denied', str(self))\n"
        "pathlib.Path.glob = glob\n"
    )
    run(deny + "import dali_mix.fn", DALI_MIX_CACHE=tmp_path / "cache", CXX=copying_compiler)


def test_those_who_wait_for_a_compilation_that_fails_do_not_repeat_it(tmp_path):
    slow = script(tmp_path / "g++", f'[ "$1" = --version ] && exit; echo >> {tmp_path}/calls; sleep 3; exit 1')
    three = [start(QUICK + TELL, DALI_MIX_CACHE=tmp_path / "cache", CXX=slow) for _ in range(3)]
    assert {process.communicate(timeout=100)[0].splitlines()[0] for process in three} == {"portable"}
    assert (tmp_path / "calls").read_text() == "\n"


def test_two_threads_define_their_first_graphs(tmp_path, copying_compiler):
    code = (
        "import threading\nfrom dali_mix import native\nseen = []\n"
        "def look(): seen.append(native.operators() is not None)\n"
        "threads = [threading.Thread(target=look) for _ in range(4)]\n"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads]\nprint(seen)"
    )
    out, _ = run(code, DALI_MIX_CACHE=tmp_path / "cache", CXX=copying_compiler)
    assert out == ["[True, True, True, True]"]


def test_insisting_is_an_error_of_one_line(tmp_path):
    code = TELL.replace("from dali_mix import native", "from dali_mix import native\nnative.use('on')")
    process = start(code, DALI_MIX_CACHE=tmp_path, CXX="no-such-compiler")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert err.splitlines()[-1].endswith("is no command: install g++ 11 or newer, or name one in CXX")


def test_a_cache_that_cannot_be_written(tmp_path, copying_compiler):
    (tmp_path / "file").write_text("no folder")
    out, err = run(TELL, DALI_MIX_CACHE=tmp_path / "file", CXX=copying_compiler)
    assert out[0] == "native"
    assert "for this process alone" in err
    assert not Path(out[1].rpartition(" ")[2]).exists()  # what was written elsewhere is gone


def test_a_library_of_another_dali_is_not_loaded(tmp_path, built, copying_compiler):
    other = tmp_path / "cache" / "other"
    shutil.copytree(built, other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["facts"]["dali"] = "2.3.0"
    (other / "manifest.json").write_text(json.dumps(manifest))
    out, _ = run(TELL, DALI_MIX_CACHE=tmp_path / "cache", CXX=copying_compiler)
    assert out[0] == "native"
    assert str(other) not in out[1]


@pytest.mark.parametrize(
    ("built_with", "fits"),
    [("glibc-2.36", True), ("glibc-2.9", True), ("glibc-2.40", False), ("musl-1.2", False), ("", False)],
)
def test_a_later_c_library_will_do(monkeypatch, built_with, fits):
    """A library that was built on an older system is what clusters and machines without a compiler are given."""
    monkeypatch.setattr(cache, "platform_facts", lambda: {"dali": "2.4.0", "libc": "glibc-2.36"})
    assert cache._fits({"dali": "2.4.0", "libc": built_with}) == fits


def test_a_damaged_library_is_replaced(tmp_path, built, copying_compiler):
    out, _ = run(TELL, DALI_MIX_CACHE=tmp_path / "cache", CXX=copying_compiler)
    made = Path(out[1].rpartition(" ")[2])
    made.write_bytes(made.read_bytes()[:1000])
    out, _ = run(TELL, DALI_MIX_CACHE=tmp_path / "cache", CXX=copying_compiler)
    assert out[0] == "native"
    assert made.stat().st_size == (built / cache.LIBRARY).stat().st_size
    assert (tmp_path / "calls").read_text().count("called") == 2


def test_a_library_that_does_not_load(tmp_path, built):
    """Whole by its checksum, and refused by the loader."""
    broken = script(
        tmp_path / "g++",
        '[ "$1" = --version ] && exit\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && echo nonsense > "$2"; shift; done',
    )
    out, err = run(MIX, DALI_MIX_CACHE=tmp_path / "cache", CXX=broken)
    assert out[0].startswith("portable ")
    assert "cannot be loaded" in err


def test_another_build_in_the_process_is_left_alone(tmp_path, built):
    """A second library with the same operators would abort the process."""
    copy = shutil.copytree(built, tmp_path / "copy")
    code = (
        "from nvidia.dali import plugin_manager\n"
        f"plugin_manager.load_library({str(copy / cache.LIBRARY)!r})\n"
        "from dali_mix.native import toolchain, library\n"
    )
    out, _ = run(code + TELL)
    assert out[0] == "native"  # the same build, so it will do
    out, err = run(code + "library.sources_digest = lambda: 'another'\n" + TELL, DALI_MIX_CACHE=tmp_path / "cache")
    assert out[0] == "portable"
    assert "other operators of the name dali_mix are loaded" in err


def test_off_is_off_and_a_mode_that_is_none_is_refused():
    out, err = run(MIX, DALI_MIX_NATIVE="off")
    assert out[0].startswith("portable ")
    assert err == ""
    process = start(TELL, DALI_MIX_NATIVE="maybe")
    _, err = process.communicate(timeout=100)
    assert process.returncode == 1
    assert "DALI_MIX_NATIVE must be one of auto, on, off, got 'maybe'" in err.splitlines()[-1]


def test_importing_compiles_nothing_and_graphs_are_deserialized_in_a_worker(tmp_path, copying_compiler):
    run("import dali_mix.fn", DALI_MIX_CACHE=tmp_path / "cache", CXX=copying_compiler)
    assert not (tmp_path / "calls").exists()
    save = MIX + f"\nopen({str(tmp_path / 'graph')!r}, 'wb').write(pipeline.serialize())"
    run(save, DALI_MIX_CACHE=tmp_path / "cache", CXX=copying_compiler)
    read = (
        "import dali_mix.fn\nfrom nvidia.dali.pipeline import Pipeline\n"
        f"pipeline = Pipeline.deserialize(filename={str(tmp_path / 'graph')!r})\n"
        "pipeline.build()\nprint(pipeline.run()[1].shape()[0][0])"
    )
    out, _ = run(read, DALI_MIX_CACHE=tmp_path / "cache", CXX="no-such-compiler")
    assert out == ["2"]


def test_built_ahead_by_the_command(tmp_path, copying_compiler):
    environment = os.environ | {"DALI_MIX_CACHE": str(tmp_path / "cache"), "CXX": str(copying_compiler)}
    # As python -m does, which the installation of a checkout runs.
    command = [sys.executable, "-c", QUICK + "import runpy; runpy.run_module('dali_mix.native', run_name='__main__')"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "native operators" in result.stdout
    environment["CXX"] = "no-such-compiler"
    environment["DALI_MIX_CACHE"] = str(tmp_path / "empty")
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "install g++ 11 or newer" in result.stderr


def test_a_library_that_cannot_be_used_once_it_is_loaded_is_the_last(tmp_path, built):
    """Another one with the same operators would end the process, so there is no second try."""
    for name in ("first", "second"):
        shutil.copytree(built, tmp_path / "cache" / name)
    code = (
        "import ctypes\n"
        "class Failing(ctypes.CDLL):\n"
        "    dali_mix_self_check = staticmethod(lambda: 1)\n"
        "ctypes.CDLL = Failing\n"
        "import dali_mix.fn\n"
    )
    out, _ = run(code + TELL, DALI_MIX_CACHE=tmp_path / "cache", CXX="no-such-compiler")
    assert out[0] == "portable"
    assert "fails its self-check" in out[1]


def test_a_compiler_that_is_no_command_line(tmp_path):
    out, _ = run(TELL, DALI_MIX_CACHE=tmp_path, CXX="g++ 'x")
    assert out[0] == "portable"


def test_a_cache_whose_path_is_no_text(tmp_path, copying_compiler):
    """Not even then importing fails."""
    out, _ = run(TELL, DALI_MIX_CACHE=os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"), CXX=copying_compiler)
    assert out[0] == "portable"
    assert "cannot be loaded" in out[1]
