"""Max-min mixing: which window is cut from the partner, and where it is moved to.

Shapes: B batch, C channels, H/W pixels, h/w tokens of the attention grid, k side of the window.
Source: SMMix (Chen, ICCV 2023, arXiv 2212.12977), code ChenMnZ/SMMix @14b1edc, ``smmix.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Windows(NamedTuple):
    """Top-left tokens of the windows.

    Fields:
        target: int64 (B, 2), row and column of the own image's least attended window.
        source: int64 (B, 2), row and column, in the partner, of its most attended window.
    """

    target: Tensor
    source: Tensor


def find_windows(attention: Tensor, square: int | Tensor) -> Windows:
    """The k x k windows with the least and the most attention; ties go to the first in row order.

    The partner of sample i is sample B-1-i.

    Args:
        attention: float (B, h, w), what each token receives; any scale.
        square: k, in [1, min(h, w)]; an int64 () tensor is not checked, since that would wait for the device.

    Raises:
        ValueError: if the window does not fit the grid.

    Every shape is the same for all k, so that nothing is compiled anew when k changes.
    """
    _, h, w = attention.shape
    if isinstance(square, int) and not 1 <= square <= min(h, w):
        raise ValueError(f"square must lie in [1, {min(h, w)}] for an attention grid of {h} x {w}, got {square}")
    in_rows, fits_h = _spans(h, square, attention.device)
    in_columns, fits_w = _spans(w, square, attention.device)
    # In float64 sums of some hundred float32 values are exact, so that equal windows tie exactly
    # whatever the order of the additions.
    scores = in_rows.double() @ attention.double() @ in_columns.double().T
    fits = fits_h[:, None] & fits_w
    least = scores.masked_fill(~fits, torch.inf).flatten(1).argmin(1)
    most = scores.masked_fill(~fits, -torch.inf).flatten(1).argmax(1)
    target = torch.stack((least // w, least % w), 1)
    source = torch.stack((most // w, most % w), 1).flip(0)
    return Windows(target, source)


def _spans(length: int, size: int | Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Bool (length, length), whether token t lies in the span that starts at row i; and (length,), whether it fits."""
    token = torch.arange(length, device=device)
    start = token[:, None]
    return (token >= start) & (token < start + size), token + size <= length


def move_windows(
    images: Tensor, windows: Windows, square: int | Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Move each partner's source window onto the sample's target window, aligned to the tokens.

    Args:
        images: (B, C, H, W); read only.
        windows: from :func:`find_windows`.
        square: k.
        grid: (h, w), which must divide (H, W).

    Returns:
        mixed images like ``images`` in shape, dtype and memory format, and the bool mask (B, h, w) of
        the tokens that come from the partner.
    """
    batch, _, height, width = images.shape
    h, w = grid
    if height % h or width % w:
        raise ValueError(f"the attention grid {h} x {w} must divide the image of {height} x {width} pixels")
    patch_h, patch_w = height // h, width // w
    device = images.device
    top, left = (windows.target[:, i, None] for i in range(2))
    token_row = torch.arange(h, device=device)
    token_column = torch.arange(w, device=device)
    in_rows = (token_row >= top) & (token_row < top + square)
    in_columns = (token_column >= left) & (token_column < left + square)
    mask = in_rows[:, :, None] & in_columns[:, None, :]

    pixel_mask = mask.repeat_interleave(patch_h, 1).repeat_interleave(patch_w, 2)
    shift = windows.source - windows.target
    own = torch.arange(batch, device=device)[:, None, None]
    rows = torch.arange(height, device=device)[None, :, None]
    columns = torch.arange(width, device=device)[None, None, :]
    # One gather reads every pixel from where it belongs: the own image, or the partner, shifted.
    sample = torch.where(pixel_mask, batch - 1 - own, own)
    row = torch.where(pixel_mask, rows + shift[:, 0, None, None] * patch_h, rows)
    column = torch.where(pixel_mask, columns + shift[:, 1, None, None] * patch_w, columns)
    mixed = images.permute(0, 2, 3, 1)[sample, row, column].permute(0, 3, 1, 2)
    if not images.is_contiguous(memory_format=torch.channels_last):
        mixed = mixed.contiguous()
    return mixed, mask


def max_min_mix(images: Tensor, attention: Tensor, square: int) -> tuple[Tensor, Tensor, float]:
    """Replace each image's least attended window by its partner's most attended one.

    Args:
        images: (B, C, H, W) of any dtype; sample i is mixed with sample B-1-i, so the middle sample
            of an odd batch with itself.
        attention: float (B, h, w), what each token receives; h and w divide H and W.
        square: side k of the window in tokens.

    Returns:
        mixed images (B, C, H, W), source mask (B, h, w) bool, True where the partner was pasted, and
        ``lam = 1 - k*k / (h*w)``, the own image's share.

    Raises:
        ValueError: if shapes, grid and window do not fit together.
    """
    if attention.ndim != 3 or images.ndim != 4 or len(attention) != len(images):
        raise ValueError(
            f"expected images (B, C, H, W) and attention (B, h, w) of one batch, got {tuple(images.shape)} "
            f"and {tuple(attention.shape)}"
        )
    _, h, w = attention.shape
    windows = find_windows(attention, square)
    mixed, mask = move_windows(images, windows, square, (h, w))
    return mixed, mask, own_share(square, (h, w))


def own_share(square: int, grid: tuple[int, int]) -> float:
    """lam: the share of tokens that a k x k window leaves to the own image."""
    return 1.0 - square * square / (grid[0] * grid[1])
