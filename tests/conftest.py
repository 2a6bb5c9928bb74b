"""Shared fixtures: real JPEG folders, and the markers' conditions."""

import os
import sys
from pathlib import Path

# Before torch starts its threads, and for the processes that tests start: several pools of threads on few cores, of
# which each waits by spinning, make a run of the tiny models here take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

from dali_mix import branches, native
from dali_mix.fn.mixing import base as graph_methods
from dali_mix.methods import base
from dali_mix.methods.attention import base as attention
from dali_mix.sources import base as sources
from dali_mix.sources.synthetic import write_synthetic_folder
from tests.implementations import need_native

REAL_IMAGES = "DALI_MIX_TEST_IMAGES"


def pytest_collection_modifyitems(config, items):
    # The longest first: of two processes none then waits long for the other's last test.
    items.sort(key=lambda item: "distributed" not in item.keywords)
    if "long" not in config.option.markexpr:
        long = pytest.mark.skip(reason="takes many minutes: pytest -m long")
        for item in items:
            if "long" in item.keywords:
                item.add_marker(long)
    if torch.cuda.is_available():
        return
    no_gpu = pytest.mark.skip(reason="needs a CUDA GPU, none found")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(no_gpu)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """What was logged may hold names that are no text, and reports travel between processes as UTF-8."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="module", params=["native", "portable"])
def implementation(request):
    """What the graphs of a test are made of; a test that asks for it runs on both."""
    if request.param == "native":
        need_native()
    with native.using("on" if request.param == "native" else "off"):
        yield request.param


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory) -> Path:
    """A folder with train/ (10 x 7 JPEGs) and val/ (10 x 3)."""
    return write_synthetic_folder(tmp_path_factory.mktemp("images"), train_per_class=7, val_per_class=3)


@pytest.fixture(scope="session")
def real_images() -> Path:
    """A folder of real photographs, one sub-folder per class; named by an environment variable."""
    folder = os.environ.get(REAL_IMAGES)
    if not folder or not Path(folder).is_dir():
        pytest.skip(f"needs real photographs: set {REAL_IMAGES} to an ImageFolder directory")
    return Path(folder)


@pytest.fixture
def registry():
    """What others have registered is unknown in a test, and what the test registers is gone after it."""
    classes = (base._registered, graph_methods._methods, attention._FAMILIES, sources._registered)
    tables = (*classes, branches._codes)
    before = [dict(table) for table in tables]
    for table in classes:
        for name in [name for name, kind in table.items() if not kind.__module__.startswith("dali_mix.")]:
            del table[name]
            branches._codes.pop(name, None)
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    for name in [name for name in sys.modules if name.startswith("dali_mix_import_")]:
        del sys.modules[name]
