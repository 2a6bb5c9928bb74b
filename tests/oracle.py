"""Slow, obvious NumPy versions of every operator, written from the definitions."""

import numpy as np


def cutmix(images: np.ndarray, partner: np.ndarray, box: np.ndarray) -> np.ndarray:
    mixed = images.copy()
    for i, (y1, x1, y2, x2) in enumerate(box):
        mixed[i, y1:y2, x1:x2] = images[partner[i], y1:y2, x1:x2]
    return mixed


def mixup(images: np.ndarray, partner: np.ndarray, lam: np.ndarray) -> np.ndarray:
    """Unrounded."""
    weight = lam.astype(np.float64)[:, None, None, None]
    return weight * images + (1 - weight) * images[partner]


def resizemix(images: np.ndarray, partner: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Unrounded; the value of every pixel from the four of the partner around its center, without antialiasing."""
    height, width = images.shape[1:3]
    mixed = images.astype(np.float64)
    for i, (y1, x1, y2, x2) in enumerate(box):
        other = images[partner[i]].astype(np.float64)
        for y in range(y1, y2):
            for x in range(x1, x2):
                down = max((y - y1 + 0.5) * height / (y2 - y1) - 0.5, 0)
                across = max((x - x1 + 0.5) * width / (x2 - x1) - 0.5, 0)
                top, left = int(down), int(across)
                bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
                upper = other[top, left] * (1 - across % 1) + other[top, right] * (across % 1)
                lower = other[bottom, left] * (1 - across % 1) + other[bottom, right] * (across % 1)
                mixed[i, y, x] = upper * (1 - down % 1) + lower * (down % 1)
    return mixed


def own_share(box: np.ndarray, height: int, width: int) -> np.ndarray:
    y1, x1, y2, x2 = box.T.astype(np.float64)
    return 1 - (y2 - y1) * (x2 - x1) / (height * width)


def soft_targets(
    labels: np.ndarray, partner: np.ndarray, lam: np.ndarray, num_classes: int, smoothing: float
) -> np.ndarray:
    off = smoothing / num_classes
    one_hot = np.full((len(labels), num_classes), off)
    one_hot[np.arange(len(labels)), labels.reshape(-1)] = 1 - smoothing + off
    weight = lam.astype(np.float64)[:, None]
    return weight * one_hot + (1 - weight) * one_hot[partner]


def windows(attention: np.ndarray, square: int) -> tuple[np.ndarray, np.ndarray]:
    """Target windows (least, own) and source windows (most, of the partner B-1-i), first in row order."""
    batch, h, w = attention.shape
    least, most = np.zeros((batch, 2), int), np.zeros((batch, 2), int)
    for b in range(batch):
        lowest, highest = np.inf, -np.inf
        for y in range(h - square + 1):
            for x in range(w - square + 1):
                score = attention[b, y : y + square, x : x + square].sum(dtype=np.float64)
                if score < lowest:
                    lowest, least[b] = score, (y, x)
                if score > highest:
                    highest, most[b] = score, (y, x)
    return least, most[::-1]


def max_min_mix(images: np.ndarray, attention: np.ndarray, square: int) -> tuple[np.ndarray, np.ndarray]:
    """Mixed images (B, C, H, W) and mask (B, h, w)."""
    batch, h, w = attention.shape
    patch_h, patch_w = images.shape[2] // h, images.shape[3] // w
    target, source = windows(attention, square)
    mixed, mask = images.copy(), np.zeros(attention.shape, bool)
    for b in range(batch):
        (ty, tx), (sy, sx) = target[b], source[b]
        mask[b, ty : ty + square, tx : tx + square] = True
        for dy in range(square * patch_h):
            for dx in range(square * patch_w):
                mixed[b, :, ty * patch_h + dy, tx * patch_w + dx] = images[
                    batch - 1 - b, :, sy * patch_h + dy, sx * patch_w + dx
                ]
    return mixed, mask
