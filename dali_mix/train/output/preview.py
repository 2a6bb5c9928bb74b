"""``preview.png``: a labeled grid of what the model saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFont

from dali_mix.batch import Batch
from dali_mix.files import replace_file
from dali_mix.methods.picture import COLUMNS, Frame, Row
from dali_mix.text import show
from dali_mix.train.step import TrainStep

Pixels: TypeAlias = NDArray[np.uint8]
Tile: TypeAlias = tuple[Image.Image, str]  # with its caption

_TILE_PX = 144
_GAP_PX = 8
_TITLE_PX = 26
_CAPTION_PX = 34
_DARKEST = 0.45


class Preview:
    """Keeps what a method shows of the first batch of each branch, and draws it.

    Args:
        classes: names in label order.
        mean, std: of the normalization, to undo it.
        smoothing: of the targets, to undo it in the captions.
        step: has the methods.
    """

    def __init__(
        self, classes: Sequence[str], mean: Sequence[float], std: Sequence[float], smoothing: float, step: TrainStep
    ) -> None:
        self._classes = [show(name) for name in classes]
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)
        self._smoothing = smoothing
        self._step = step
        self._kept: dict[str, Sequence[Row]] = {}

    def watch(self, batch: Batch, plan: Any) -> None:
        """Keep the batch if it is the first of its branch since :meth:`restart`; call it before the step."""
        if batch.branch not in self._kept:
            # Kept on the device: nothing here waits for it, and it is drawn when the epoch is over.
            self._kept[batch.branch] = self._step.method_of(batch.branch).picture(batch, plan)

    def restart(self) -> None:
        """Forget what was kept."""
        self._kept.clear()

    def save(self, path: Path) -> bool:
        """Draw what was kept; False if nothing was."""
        # Always in one order, and those that the pipeline has mixed first.
        own = {method.name for method in self._step.methods}
        branches = sorted(self._kept, key=lambda branch: (branch in own, branch))
        rows = [(row.title, self._tiles(row)) for branch in branches for row in self._kept[branch]]
        if rows:
            replace_file(path, lambda temporary: _draw_grid(rows).save(temporary, format="PNG"))
        return bool(rows)

    def _tiles(self, row: Row) -> list[Tile]:
        images = self._pixels(row.images[:COLUMNS])
        tiles = [_tile(image) for image in images]
        if row.light is not None:
            lights = row.light[:COLUMNS].detach().float().cpu().numpy()
            tiles = [_lit(tile, light) for tile, light in zip(tiles, lights, strict=True)]
        if row.frame is not None:
            for tile, box in zip(tiles, row.frame.boxes[:COLUMNS].tolist(), strict=True):
                _outline(tile, box, row.frame)
        return list(zip(tiles, self._captions(row.classes), strict=True))

    def _pixels(self, images: torch.Tensor) -> Pixels:
        values = images.detach().float().cpu().permute(0, 2, 3, 1) * self._std + self._mean
        return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()

    def _captions(self, classes: torch.Tensor | Sequence[tuple[float, torch.Tensor]]) -> list[str]:
        if not isinstance(classes, torch.Tensor):
            named = [(share, labels[:COLUMNS].tolist()) for share, labels in classes]
            count = len(named[0][1])
            return [
                "\n".join(f"{share:.2f} {self._classes[labels[index]]}" for share, labels in named)
                for index in range(count)
            ]
        if classes.dim() == 1:
            return [self._classes[label] for label in classes[:COLUMNS].tolist()]
        targets = classes[:COLUMNS].cpu()
        shares = (targets - self._smoothing / targets.shape[1]) / max(1 - self._smoothing, 1e-6)
        captions = []
        for row in shares:
            weights, labels = row.topk(min(2, len(row)))
            pairs = zip(weights.tolist(), labels.tolist(), strict=True)
            captions.append(
                "\n".join(f"{weight:.2f} {self._classes[label]}" for weight, label in pairs if weight > 0.005)
            )
        return captions


def _tile(image: Pixels) -> Image.Image:
    return Image.fromarray(image).resize((_TILE_PX, _TILE_PX), Image.Resampling.BICUBIC)


def _lit(tile: Image.Image, attention: NDArray[np.floating]) -> Image.Image:
    """The tile, dim where little attention falls and as it is where much does."""
    low, high = np.quantile(attention, (0.0, 0.95))  # a few patches that get nearly all would darken the rest
    light = ((attention - low) / max(float(high - low), 1e-12)).clip(0, 1)
    shade = Image.fromarray((255 * (_DARKEST + (1 - _DARKEST) * light)).astype(np.uint8))
    return ImageChops.multiply(tile, shade.resize(tile.size, Image.Resampling.BILINEAR).convert("RGB"))


def _outline(tile: Image.Image, box: Sequence[int], frame: Frame) -> None:
    y1, x1, y2, x2 = (round(edge * _TILE_PX / frame.grid[axis % 2]) for axis, edge in enumerate(box))
    ImageDraw.Draw(tile).rectangle((x1, y1, x2 - 1, y2 - 1), outline=frame.color, width=3)


def _draw_grid(rows: Sequence[tuple[str, Sequence[Tile]]]) -> Image.Image:
    columns = max(len(tiles) for _, tiles in rows)
    row_px = _TITLE_PX + _TILE_PX + _CAPTION_PX + _GAP_PX
    width = _GAP_PX + columns * (_TILE_PX + _GAP_PX)
    canvas = Image.new("RGB", (width, _GAP_PX + row_px * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    title_font, caption_font = ImageFont.load_default(15), ImageFont.load_default(12)
    for index, (title, tiles) in enumerate(rows):
        y = _GAP_PX + index * row_px
        draw.text((_GAP_PX, y), title, fill="black", font=title_font)
        for column, (tile, caption) in enumerate(tiles):
            x = _GAP_PX + column * (_TILE_PX + _GAP_PX)
            canvas.paste(tile, (x, y + _TITLE_PX))
            draw.text((x, y + _TITLE_PX + _TILE_PX + 2), caption, fill="black", font=caption_font, spacing=2)
    return canvas
