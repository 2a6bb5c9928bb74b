"""``--import``: a user's own files, run before the flags are known, so that what they register can be chosen."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from dali_mix.errors import ConfigError, told
from dali_mix.options import shortened


def import_files(paths: Iterable[str | Path]) -> None:
    """Run Python files, each once in a process.

    Raises:
        ConfigError: if one is no file, or raises.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise ConfigError(f"--import {path} is not a file; give a Python file that registers what you want to use")
        absolute = path.resolve()
        name = f"dali_mix_import_{hashlib.sha256(bytes(absolute)).hexdigest()[:16]}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, absolute)
        if spec is None or spec.loader is None:
            raise ConfigError(f"--import {path} is not a Python file: its name must end in .py")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise ConfigError(f"--import {path} fails{shortened(told(error, str(absolute)), 400)}") from error
