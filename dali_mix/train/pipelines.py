"""The ready-made pipelines, for entries; imported by name, as nothing else in this package may know them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from dali_mix.errors import ConfigError
from dali_mix.train.data import Pipelines

_PACKAGE = "dali_mix.pipelines"


def ready_made() -> Pipelines:
    """What ``--pipeline`` of ``train_imagenet.py`` and ``dali-mix train`` chooses from.

    Raises:
        ConfigError: if they are neither installed nor beside the package.
    """
    cifar, imagenet = (_module(name) for name in ("cifar", "imagenet"))
    return {
        "imagenet": (imagenet.imagenet_train, imagenet.imagenet_val),
        "cifar": (cifar.cifar_train, cifar.cifar_val),
    }


def _module(name: str) -> ModuleType:
    if _PACKAGE not in sys.modules and importlib.util.find_spec(_PACKAGE) is None:
        _load_from_source()
    return importlib.import_module(f"{_PACKAGE}.{name}")


def _load_from_source() -> None:
    """In a source tree they lie beside the package; by their place, as a user's project may have a "pipelines" too."""
    folder = Path(__file__).parents[2] / "pipelines"
    start = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(_PACKAGE, start, submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None or not start.is_file():
        raise ConfigError(f"the ready-made pipelines are missing: neither {_PACKAGE} nor {folder} is there; reinstall")
    sys.modules[_PACKAGE] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
