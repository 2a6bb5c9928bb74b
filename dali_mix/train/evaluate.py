"""Validation: every image once, over all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional

from dali_mix.data import Batch
from dali_mix.train.distributed import World


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], world: World, autocast: Callable[[], AbstractContextManager]
) -> dict[str, float]:
    """Loss and accuracy over the whole validation set.

    Args:
        model: in any mode; left in the mode it was in.
        batches: of a loader with ``last_batch="partial"``, so that no image counts twice.  Ranks may have more or
            fewer of them, or none.  Rows whose label is negative stand in for images that could not be decoded,
            and do not count.
        world: ranks whose counts are added up.
        autocast: makes the context that the forward runs in.

    Returns:
        "loss" (mean cross-entropy), "top1" and "top5" in per cent, and "images", the number of images counted.
        Without any image the first three are NaN.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=world.device)  # exact for counts up to 2**53
    for batch in batches:
        if not len(batch.labels):
            continue
        batch = batch.to(world.device)
        with autocast():
            logits = model(batch.images)
        sums += _sums(logits.float(), batch.labels)
    model.train(was_training)
    images, loss, top1, top5 = world.reduce_sum(sums).tolist()
    count = images or math.nan
    return {"loss": loss / count, "top1": 100 * top1 / count, "top5": 100 * top5 / count, "images": images}


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Images, their loss, and how many are right at once and among the first five: float64 (4,).

    Nothing here waits for the device, as picking rows by a mask would.
    """
    counted = labels >= 0
    classes = labels.clamp(min=0)
    loss = functional.cross_entropy(logits, classes, reduction="none")
    right = logits.topk(min(5, logits.shape[-1]), dim=-1).indices == classes[:, None]
    rows = torch.stack([torch.ones_like(loss), loss, right[:, 0].float(), right.any(dim=-1).float()])
    return rows.double().where(counted, 0.0).sum(dim=-1)
