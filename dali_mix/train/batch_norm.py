"""Whether a model's batch norms can train on the batches that they will get."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from dali_mix.errors import ConfigError


def check_batch_norm(model: nn.Module, name: str, sides_px: Iterable[int]) -> None:
    """Refuse batches of one image for a model with a batch norm that sees one value per channel of it.

    It depends on the image size: ResNet-18's last maps are 1 x 1 at 32 px, and 7 x 7 at 224 px.

    Args:
        model: on its device; it is left as it was.
        name: what the user calls it.
        sides_px: of all images that will come.

    Raises:
        ConfigError: if PyTorch would refuse the first training step.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    # One that is synchronized would ask the other ranks.
    if not norms or any(isinstance(module, nn.SyncBatchNorm) for module in norms):
        return
    side = min(sides_px)
    parameter = next(model.parameters())
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.no_grad():
        tried = copy.deepcopy(model).train()
        try:
            tried(torch.zeros(1, 3, side, side, device=parameter.device))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                f"--batch-size 1: a batch norm of {name} gets a single value per channel at {side} px, which has "
                f"no variance; use --batch-size 2 or more"
            ) from error
