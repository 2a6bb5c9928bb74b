"""What is known of an epoch, by the names of the columns of ``summary.csv``."""

from __future__ import annotations

import re

TRAIN_LOSS = "train_loss"
COLUMNS = (
    "epoch",
    TRAIN_LOSS,
    "eval_loss",
    "eval_top1",
    "eval_top5",
    "eval_ema_loss",
    "eval_ema_top1",
    "eval_ema_top5",
    "lr",
    "img_size",
    "img_per_s",
    "data_wait",
    "seconds",
)
"""The columns of ``summary.csv`` in every row; the parts of the loss follow the loss."""
_PART = re.compile(r"train_\w+")


def is_column(name: str) -> bool:
    """Whether a row may have a value of this name: one of the columns, or a part of the training loss."""
    return name in COLUMNS or _PART.fullmatch(name) is not None
