"""A small data set made from nothing: textured objects on cluttered backgrounds, as real JPEG files.

Ten classes, each a texture with a color family and an outline.  Objects lie anywhere and cover an eighth to a half
of the image; the background carries colors of all classes, smooth gradients and distracting blobs, so that a model
must find the object before it can name it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array: TypeAlias = NDArray[np.floating]

_VERSION = 1
_STAMP = "synthetic.json"


class _Kind(NamedTuple):
    hue: float
    texture: str
    outline: str


CLASSES: dict[str, _Kind] = {
    "apple_dots": _Kind(0.98, "dots", "disc"),
    "bee_stripes": _Kind(0.14, "stripes", "ellipse"),
    "board_checks": _Kind(0.58, "checks", "square"),
    "brick_wall": _Kind(0.04, "bricks", "square"),
    "cactus_bars": _Kind(0.36, "bars", "ellipse"),
    "coral_waves": _Kind(0.92, "waves", "blob"),
    "leaf_diagonals": _Kind(0.28, "diagonals", "diamond"),
    "pond_rings": _Kind(0.50, "rings", "disc"),
    "star_rays": _Kind(0.74, "rays", "diamond"),
    "stone_grain": _Kind(0.66, "grain", "blob"),
}
"""Class names in label order, and what each looks like."""


def write_synthetic_folder(
    root: str | Path, *, train_per_class: int = 300, val_per_class: int = 50, seed: int = 0
) -> Path:
    """Write ``root/train/CLASS/*.jpg`` and ``root/val/CLASS/*.jpg``; nothing to do if they are there.

    Args:
        root: created if missing.
        train_per_class, val_per_class: images in each of the ten classes.
        seed: the same seed gives the same pixels.

    Returns:
        ``root``.
    """
    root = Path(root)
    wanted = {"version": _VERSION, "train": train_per_class, "val": val_per_class, "seed": seed}
    stamp = root / _STAMP
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return root
    for split_index, (split, count) in enumerate((("train", train_per_class), ("val", val_per_class))):
        for label, (name, kind) in enumerate(CLASSES.items()):
            folder = root / split / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                rng = np.random.default_rng([seed, split_index, label, index])
                Image.fromarray(_draw(kind, rng)).save(folder / f"{index:04d}.jpg", quality=int(rng.integers(75, 96)))
    stamp.write_text(json.dumps(wanted))
    return root


def _draw(kind: _Kind, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One image, uint8 (H, W, 3), sides 64 to 112 px."""
    height, width = (int(side) for side in rng.integers(64, 113, 2))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    image = _background(y, x, rng)
    size = float(rng.uniform(0.42, 0.8)) * min(height, width) / 2
    center_y = rng.uniform(size, height - size)
    center_x = rng.uniform(size, width - size)
    v, u = (y - center_y) / size, (x - center_x) / size
    inside = _OUTLINES[kind.outline](v, u, rng)[..., None]
    angle = rng.uniform(-0.3, 0.3)
    v, u = v * np.cos(angle) - u * np.sin(angle), v * np.sin(angle) + u * np.cos(angle)
    pattern = _TEXTURES[kind.texture](v, u, rng)[..., None]
    light = _color(kind.hue + rng.normal(0, 0.025), rng.uniform(0.35, 0.6), rng.uniform(0.8, 1.0))
    dark = _color(kind.hue + rng.normal(0, 0.025), rng.uniform(0.7, 1.0), rng.uniform(0.3, 0.55))
    image = image * (1 - inside) + (light * pattern + dark * (1 - pattern)) * inside
    image = image * rng.uniform(0.8, 1.1) + rng.normal(0, 0.03, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def _background(y: Array, x: Array, rng: np.random.Generator) -> Array:
    """A gradient between two colors under blobs, some of them in the strong colors of the objects."""
    height, width = y.shape
    slope = np.cos(angle := rng.uniform(0, 2 * np.pi)) * y / height + np.sin(angle) * x / width
    slope = ((slope - slope.min()) / np.ptp(slope))[..., None]
    first, second = (_color(rng.uniform(), rng.uniform(0, 0.6), rng.uniform(0.2, 0.9)) for _ in range(2))
    image = first * slope + second * (1 - slope)
    for _ in range(int(rng.integers(4, 9))):
        center_y, center_x = rng.uniform(0, height), rng.uniform(0, width)
        radius_y, radius_x = rng.uniform(3, 12, 2)
        blob = ((y - center_y) / radius_y) ** 2 + ((x - center_x) / radius_x) ** 2 < 1
        image[blob] = _color(rng.uniform(), rng.uniform(0.2, 1.0), rng.uniform(0.3, 1.0))
    return image


def _color(hue: float, saturation: float, value: float) -> Array:
    """HSV to RGB, float32 (3,) in [0, 1]; the hue wraps."""
    offsets = np.array([5.0, 3.0, 1.0])
    sector = (offsets + hue * 6) % 6
    return (value - value * saturation * np.clip(np.minimum(sector, 4 - sector), 0, 1)).astype(np.float32)


def _soft(edge: Array) -> Array:
    return np.clip(edge * 8 + 0.5, 0, 1)


def _blob(v: Array, u: Array, rng: np.random.Generator) -> Array:
    phase = rng.uniform(0, 2 * np.pi)
    return _soft(0.85 + 0.15 * np.sin(3 * np.arctan2(v, u) + phase) - np.hypot(v, u))


_OUTLINES: dict[str, Callable[[Array, Array, np.random.Generator], Array]] = {
    "disc": lambda v, u, rng: _soft(1 - np.hypot(v, u)),
    "ellipse": lambda v, u, rng: _soft(1 - np.hypot(v * rng.uniform(1.1, 1.4), u)),
    "square": lambda v, u, rng: _soft(0.85 - np.maximum(np.abs(v), np.abs(u))),
    "diamond": lambda v, u, rng: _soft(1.05 - np.abs(v) - np.abs(u)),
    "blob": _blob,
}


def _wave(phase: Array) -> Array:
    return np.clip(np.sin(phase) * 2 + 0.5, 0, 1)


def _shift(rng: np.random.Generator) -> float:
    return float(rng.uniform(0, 2 * np.pi))


def _dots(v: Array, u: Array, rng: np.random.Generator) -> Array:
    return _soft((np.sin(7 * v + _shift(rng)) * np.sin(7 * u + _shift(rng))) - 0.25)


def _bricks(v: Array, u: Array, rng: np.random.Generator) -> Array:
    row = np.floor(v * 3)
    joint = np.minimum(np.abs(v * 3 - row - 0.5), 1) > 0.36
    column = (u * 1.6 + 0.5 * (row % 2)) % 1
    return 1 - np.maximum(joint, np.abs(column - 0.5) > 0.42).astype(np.float32)


def _grain(v: Array, u: Array, rng: np.random.Generator) -> Array:
    coarse = rng.uniform(0, 1, ((v.shape[0] + 2) // 3, (v.shape[1] + 2) // 3))
    return coarse.repeat(3, 0).repeat(3, 1)[: v.shape[0], : v.shape[1]].astype(np.float32)


_TEXTURES: dict[str, Callable[[Array, Array, np.random.Generator], Array]] = {
    "stripes": lambda v, u, rng: _wave(9 * u + _shift(rng)),
    "bars": lambda v, u, rng: _wave(9 * v + _shift(rng)),
    "diagonals": lambda v, u, rng: _wave(7 * (u + v) + _shift(rng)),
    "waves": lambda v, u, rng: _wave(8 * v + 1.5 * np.sin(5 * u) + _shift(rng)),
    "checks": lambda v, u, rng: _wave(4 * np.sin(6 * v + _shift(rng)) * np.sin(6 * u + _shift(rng))),
    "rings": lambda v, u, rng: _wave(12 * np.hypot(v, u) + _shift(rng)),
    "rays": lambda v, u, rng: _wave(8 * np.arctan2(v, u) + _shift(rng)),
    "dots": _dots,
    "bricks": _bricks,
    "grain": _grain,
}
