"""Validation: every image once, over all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
from timm.task import ClassificationEvaluator
from torch import nn

from dali_mix.loading.loader import Batch
from dali_mix.train.distributed import World


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], world: World, autocast: Callable[[], AbstractContextManager]
) -> dict[str, float]:
    """Compute loss and accuracy over the whole validation set.

    Args:
        model: in any mode; left in the mode it was in.
        batches: of a loader with ``last_batch="partial"``, so that no image counts twice.  Ranks may have more or
            fewer of them, or none.  Rows whose label is negative are of bad images, and do not count.
        world: ranks whose counts are added up.
        autocast: makes the context that the forward runs in.

    Returns:
        "loss" (mean cross-entropy), "top1" and "top5" in per cent, and "images", the number of images counted.
        Without any image the first three are NaN.
    """
    was_training = model.training
    model.eval()
    evaluator = ClassificationEvaluator(world.device)
    for batch in batches:
        if not len(batch.labels):
            continue
        batch = batch.to(world.device)
        with autocast():
            logits = model(batch.images)
        counted = batch.labels >= 0
        evaluator.update(logits[counted], batch.labels[counted])
    model.train(was_training)
    metrics = dict(evaluator.compute(distributed=world.size > 1))
    images = float(world.reduce_sum(evaluator.counts[0].clone()))
    if not images:
        metrics = dict.fromkeys(metrics, math.nan)
    return metrics | {"images": images}
