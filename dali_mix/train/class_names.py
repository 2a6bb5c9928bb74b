"""The names of the classes beside weights: logits whose order is another folder's are numbers without meaning."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import safetensors

from dali_mix.errors import ConfigError

_log = logging.getLogger(__name__)

_NOTE = "classes"
_MOST_BYTES = 1 << 24


def class_notes(classes: Sequence[str]) -> dict[str, str]:
    """Return what a weights file notes of its classes, so that it still knows them when it is moved."""
    return {_NOTE: json.dumps(list(classes))}


def check_class_names(path: Path, classes: Sequence[str], *, refuse: bool) -> None:
    """Compare the names that weights were trained with, where they are known, with those of the data.

    Args:
        path: of weights, or of a checkpoint.
        classes: of the data, in the order of their labels.
        refuse: False only warns, as what is fine-tuned may have other classes.

    Raises:
        ConfigError: naming the first class that differs.
    """
    source, names = _known_names(path)
    if names is None or len(names) != len(classes) or list(names) == list(classes):
        return  # another number of classes is the classifier's to refuse
    label = next(index for index, name in enumerate(names) if name != classes[index])
    differs = f"{path}: its class {label} is {names[label]!r} ({source}), that of the data is {classes[label]!r}"
    if refuse:
        raise ConfigError(f"{differs}; give the names in its order with --class-map FILE")
    _log.warning("%s; --class-map FILE gives the data its order", differs)


def _known_names(path: Path) -> tuple[str, list[str] | None]:
    """Where the names were found, and the names; None if they are nowhere."""
    if path.suffix == ".safetensors":
        try:
            with safetensors.safe_open(path, "pt") as file:
                names = _names(json.loads((file.metadata() or {}).get(_NOTE, "null")))
        except (OSError, ValueError, RecursionError, safetensors.SafetensorError):
            names = None
        if names is not None:
            return "noted in it", names
    folder = path.parent if path.is_file() else path
    # A checkpoint lies two folders below the run's.
    places = [folder, *([folder.parent.parent] if folder.parent.name == "checkpoints" else [])]
    for place in places:
        if (names := read_class_names(place)) is not None:
            return str(place / "classes.txt"), names
        if (text := _text(place / "config.json")) is not None:
            try:
                content = json.loads(text)
            except (ValueError, RecursionError):
                continue
            names = _names(content.get("label_names") if isinstance(content, dict) else None)
            if names is not None:
                return f"label_names in {place / 'config.json'}", names
    return "", None


def read_class_names(folder: Path) -> list[str] | None:
    """Read the names in a run's ``classes.txt``, in the order of the logits; None if it has none."""
    text = _text(folder / "classes.txt")
    # As a class map is read: it may have been saved by an editor.
    return None if text is None else [line.strip() for line in text.splitlines() if line.strip()]


def _names(value: object) -> list[str] | None:
    return value if isinstance(value, list) and value and all(isinstance(name, str) for name in value) else None


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8-sig", "surrogateescape")
    except OSError:
        return None
