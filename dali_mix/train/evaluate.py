"""Validation: every image once, over all ranks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from timm.task import ClassificationEvaluator
from torch import nn

from dali_mix.data import MixLoader
from dali_mix.train.distributed import World


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: MixLoader, world: World, autocast: Callable[[], AbstractContextManager]
) -> dict[str, float]:
    """Loss and accuracy over the whole validation set.

    Args:
        model: in any mode; left in the mode it was in.
        loader: with ``last_batch="partial"``, so that no image counts twice.
        world: ranks whose counts are added up.
        autocast: makes the context that the forward runs in.

    Returns:
        "loss", and "top1" and "top5" in per cent.
    """
    was_training = model.training
    model.eval()
    evaluator = ClassificationEvaluator(world.device)
    for batch in loader:
        batch = batch.to(world.device)
        with autocast():
            logits = model(batch.images)
        evaluator.update(logits, batch.labels)
    model.train(was_training)
    return dict(evaluator.compute(distributed=world.size > 1))
