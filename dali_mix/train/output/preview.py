"""``preview.png``: a labelled grid of what the model saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFont

from dali_mix.files import replace_file
from dali_mix.loading.loader import Batch
from dali_mix.methods.smmix.stage import Mixture, SMMix
from dali_mix.text import show

Pixels: TypeAlias = NDArray[np.uint8]
Row: TypeAlias = list[tuple[Image.Image, str]]  # tiles and their captions
Box: TypeAlias = tuple[int, int, int, int]  # y1, x1, y2, x2 in tokens, half-open

_TILE_PX = 144
_GAP_PX = 8
_TITLE_PX = 26
_CAPTION_PX = 34
_DARKEST = 0.45
_TARGET_COLOUR = (40, 220, 255)
_SOURCE_COLOUR = (255, 210, 0)

_TITLES = {
    "cutmix": "CutMix: what the model saw",
    "mixup": "Mixup: what the model saw",
    "own": "SMMix 1/3: own image, dim where little attended, target window (least attended)",
    "partner": "SMMix 2/3: partner, dim where little attended, source window (most attended)",
    "smmix": "SMMix 3/3: what the model saw, the source window moved onto the target window",
}


class Preview:
    """Keeps the first batch of each branch and draws it.

    Args:
        classes: names in label order.
        mean, std: of the normalisation, to undo it.
        smoothing: of the targets, to undo it in the captions.
        stage: SMMix, or None.
        columns: images per row.
    """

    def __init__(
        self,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        smoothing: float,
        stage: SMMix | None,
        columns: int = 6,
    ) -> None:
        self._classes = [show(name) for name in classes]
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)
        self._smoothing = smoothing
        self._stage = stage
        self._columns = columns
        self._kept: dict[str, Callable[[], dict[str, Row]]] = {}

    def watch(self, batch: Batch, square: int | None) -> None:
        """Keep the batch if it is the first of its branch since :meth:`restart`; call it before the step.

        For SMMix the probe is repeated with the same weights and window side, so that what is drawn
        is what the step is about to compute.
        """
        if batch.branch in self._kept:
            return
        # Kept on the device: nothing here waits for it, and it is drawn when the epoch is over.
        if batch.branch == "smmix" and self._stage is not None:
            self._kept["smmix"] = partial(self._draw_smmix, batch, self._stage.mix(batch.images, square))
        elif batch.branch in ("cutmix", "mixup"):
            self._kept[batch.branch] = partial(self._draw_mixed, batch)

    def restart(self) -> None:
        """Forget what was kept."""
        self._kept.clear()

    def save(self, path: Path) -> bool:
        """Draw what was kept; False if nothing was."""
        drawn: dict[str, Row] = {}
        for draw in self._kept.values():
            drawn |= draw()
        rows = [(_TITLES[name], drawn[name]) for name in _TITLES if name in drawn]
        if rows:
            replace_file(path, lambda temporary: _draw_grid(rows).save(temporary, format="PNG"))
        return bool(rows)

    def _draw_mixed(self, batch: Batch) -> dict[str, Row]:
        images = self._pixels(batch.images[: self._columns])
        captions = self._captions(batch.targets[: self._columns])
        return {batch.branch: [(_tile(image), text) for image, text in zip(images, captions, strict=True)]}

    def _draw_smmix(self, batch: Batch, mixture: Mixture) -> dict[str, Row]:
        count = min(self._columns, len(batch.labels))
        # Only what is drawn leaves the device: the partners of the first images are the last ones.
        originals = self._pixels(batch.images[:count])
        partners = self._pixels(batch.images[-count:].flip(0))
        mixed = self._pixels(mixture.images[:count])
        attention = mixture.attention.float().cpu().numpy()
        names = [self._classes[label] for label in batch.labels.tolist()]
        grid = attention.shape[1:]
        rows: dict[str, Row] = {"own": [], "partner": [], "smmix": []}
        for own in range(count):
            partner = len(names) - 1 - own
            target = _window(mixture.windows.target[own], mixture.square)
            source = _window(mixture.windows.source[own], mixture.square)
            own_tile = _outlined(_lit(originals[own], attention[own]), target, grid, _TARGET_COLOUR)
            partner_tile = _outlined(_lit(partners[own], attention[partner]), source, grid, _SOURCE_COLOUR)
            seen = _outlined(_tile(mixed[own]), target, grid, _SOURCE_COLOUR)
            rows["own"].append((own_tile, names[own]))
            rows["partner"].append((partner_tile, names[partner]))
            rows["smmix"].append((seen, f"{mixture.lam:.2f} {names[own]}\n{1 - mixture.lam:.2f} {names[partner]}"))
        return rows

    def _pixels(self, images: torch.Tensor) -> Pixels:
        values = images.detach().float().cpu().permute(0, 2, 3, 1) * self._std + self._mean
        return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()

    def _captions(self, targets: torch.Tensor) -> list[str]:
        classes = targets.shape[1]
        shares = (targets.cpu() - self._smoothing / classes) / max(1 - self._smoothing, 1e-6)
        captions = []
        for row in shares:
            weights, labels = row.topk(min(2, classes))
            pairs = zip(weights.tolist(), labels.tolist(), strict=True)
            captions.append(
                "\n".join(f"{weight:.2f} {self._classes[label]}" for weight, label in pairs if weight > 0.005)
            )
        return captions


def _window(corner: torch.Tensor, square: int) -> Box:
    top, left = corner.tolist()
    return top, left, top + square, left + square


def _tile(image: Pixels) -> Image.Image:
    return Image.fromarray(image).resize((_TILE_PX, _TILE_PX), Image.Resampling.BICUBIC)


def _lit(image: Pixels, attention: NDArray[np.floating]) -> Image.Image:
    """The image, dim where little attention falls and as it is where much does."""
    low, high = np.quantile(attention, (0.0, 0.95))  # a few patches that get nearly all would darken the rest
    light = ((attention - low) / max(float(high - low), 1e-12)).clip(0, 1)
    shade = Image.fromarray((255 * (_DARKEST + (1 - _DARKEST) * light)).astype(np.uint8))
    tile = _tile(image)
    return ImageChops.multiply(tile, shade.resize(tile.size, Image.Resampling.BILINEAR).convert("RGB"))


def _outlined(tile: Image.Image, box: Box, grid: Sequence[int], colour: tuple[int, int, int]) -> Image.Image:
    y1, x1, y2, x2 = (round(edge * _TILE_PX / grid[axis % 2]) for axis, edge in enumerate(box))
    ImageDraw.Draw(tile).rectangle((x1, y1, x2 - 1, y2 - 1), outline=colour, width=3)
    return tile


def _draw_grid(rows: Sequence[tuple[str, Sequence[tuple[Image.Image, str]]]]) -> Image.Image:
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
