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
    """Find the k x k windows with the least and the most attention; ties go to the first in row order.

    The partner of sample i is sample B-1-i.

    Args:
        attention: float (B, h, w), what each token receives; any scale.
        square: k, in [1, min(h, w)]; an integer tensor () is not checked, since that would wait for the device.

    Raises:
        ValueError: if the window does not fit the grid.

    Every shape is the same for all k, so that nothing is compiled anew when k changes.
    """
    _, h, w = attention.shape
    if isinstance(square, int):
        check_square(square, (h, w))
    in_rows = _spans(h, square, attention.device)
    in_columns = in_rows if w == h else _spans(w, square, attention.device)
    # In float64 sums of some hundred float32 values are exact, so that equal windows tie exactly
    # whatever the order of the additions.
    scores = (in_rows @ attention.double() @ in_columns.T).flatten(1)
    found = torch.stack((scores.argmin(1), scores.argmax(1).flip(0)))
    # A window that would stick out has been scored at the edge, where it ties with an earlier one.  The limits
    # hold where sums are not exact after all: no pixel may be read from outside.
    rows, columns = (found // w).clamp(max=h - square), (found % w).clamp(max=w - square)
    target, source = torch.stack((rows, columns), -1)
    return Windows(target, source)


def check_square(square: int, grid: tuple[int, int]) -> None:
    """Raise ValueError if a k x k window does not fit a token grid (h, w)."""
    if not 1 <= square <= min(grid):
        raise ValueError(
            f"square must lie in [1, {min(grid)}] for an attention grid of {grid[0]} x {grid[1]}, got {square}"
        )


def _spans(length: int, size: int | Tensor, device: torch.device) -> Tensor:
    """float64 (length, length): 1 where token t lies in the span that starts at row i, or at the last that fits."""
    token = torch.arange(length, device=device)
    start = token.clamp(max=length - size)[:, None]
    return ((token >= start) & (token < start + size)).double()


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
    batch, channels, height, width = images.shape
    h, w = grid
    if height % h or width % w:
        raise ValueError(f"the attention grid {h} x {w} must divide the image of {height} x {width} pixels")
    top, left = windows.target.int()[:, :, None].unbind(1)
    token_row, token_column = (torch.arange(side, dtype=torch.int32, device=images.device) for side in grid)
    in_rows = (token_row >= top) & (token_row < top + square)
    in_columns = (token_column >= left) & (token_column < left + square)
    mask = in_rows[:, :, None] & in_columns[:, None, :]

    # What adjoins in memory and belongs to one token moves as one run of pixels.  Runs are numbered in the order of
    # the memory; a token of the window is read from a fixed number of runs further on.
    by_pixel = images.is_contiguous(memory_format=torch.channels_last)
    planes = 1 if by_pixel else channels
    runs = (images.permute(0, 2, 3, 1) if by_pixel else images).reshape(batch * planes * height * w, -1)
    sample = torch.arange(batch, dtype=torch.int32, device=images.device)
    down, right = (windows.source - windows.target).int().unbind(1)
    jump = ((batch - 1 - 2 * sample) * (planes * height) + down * (height // h)) * w + right
    own = torch.arange(len(runs), dtype=torch.int32, device=images.device).view(batch, planes, h, -1, w)
    mixed = runs.index_select(0, (own + (jump[:, None, None] * mask)[:, None, :, None]).flatten())
    if by_pixel:
        return mixed.view(batch, height, width, channels).permute(0, 3, 1, 2), mask
    return mixed.view(images.shape), mask


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
    """Compute lam, the share of tokens that a k x k window leaves to the own image."""
    return 1.0 - square * square / (grid[0] * grid[1])
