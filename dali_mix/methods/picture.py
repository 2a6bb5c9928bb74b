"""What a method shows in ``preview.png``: rows of images, as data; the trainer draws them when the epoch is over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from torch import Tensor

COLUMNS = 6
"""Images of a row; more are not drawn."""

Color: TypeAlias = tuple[int, int, int]


class Frame(NamedTuple):
    """A rectangle around a part of each image.

    Fields:
        boxes: int (N, 4), y1, x1, y2, x2, half-open, in cells of the grid.
        grid: rows and columns of cells into which an image is divided; (H, W) for pixels.
        color: red, green, blue, 0..255.
    """

    boxes: Tensor
    grid: tuple[int, int]
    color: Color = (255, 210, 0)


class Row(NamedTuple):
    """One row of the picture; its tensors stay on their device.

    Fields:
        title: above the row.
        images: (N, 3, H, W), normalized as the model sees them.
        classes: what stands below each image: labels int64 (N,), soft targets (N, K), whose two largest are named
            with their shares, or pairs of a share and labels (N,), which are named in their order.
        light: (N, h, w) or None; the images are dim where it is low.
        frame: None for none.
    """

    title: str
    images: Tensor
    classes: Tensor | Sequence[tuple[float, Tensor]]
    light: Tensor | None = None
    frame: Frame | None = None
