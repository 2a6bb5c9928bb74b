"""What a loader delivers, and what it makes it from: the outputs of a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import torch
from nvidia.dali.pipeline import Pipeline

from dali_mix import branches
from dali_mix.batch import Batch, BatchParams
from dali_mix.errors import ConfigError
from dali_mix.fn import MixedBatch, methods_of

UNKNOWN_LABEL = -1
"""Label of images whose pipeline does not output labels."""

HOW_TO_PARSE = "bytes, as WebDataset's cls, are the digits of a number, which docs/soft_targets.md shows how to parse"

_EVERY = (*MixedBatch._fields, *BatchParams._fields)
_CHANNELS = (1, 3, 4)
_WANTED = "images, targets, labels, branch, as random_mix gives them, or images, targets, as cutmix and mixup do"

_log = logging.getLogger(__name__)


class Outputs:
    """How the outputs of a pipeline become batches.

    Args:
        pipeline: built.

    Raises:
        ConfigError: if it has other outputs than a batch is made of.

    Fields:
        names: of the outputs, in their order.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        count = pipeline.num_outputs
        if not 2 <= count <= len(MixedBatch._fields) and count != len(_EVERY):
            raise ConfigError(f"the pipeline has {count} output(s), MixLoader wants {_WANTED}")
        self.names = list(_EVERY[:count])
        self._branch = None if "branch" in self.names else _one_branch(pipeline)
        self._channels_first: bool | None = None

    def batch(self, outputs: Mapping[str, torch.Tensor]) -> Batch:
        """Make a batch of what DALI has delivered; the first one is checked.

        Raises:
            ConfigError: if an output is not what a batch takes in its place.
        """
        if self._channels_first is None:
            self._channels_first = _check_images(outputs["images"])
            _check_targets(outputs["targets"])
        images = outputs["images"]
        if self._channels_first:
            images = images.contiguous(memory_format=torch.channels_last)
        else:
            images = images.permute(0, 3, 1, 2)
        branch = self._branch or _shared_branch(outputs)
        batch = Batch(images, outputs["targets"], self._labels(outputs), branch)
        if self.names != list(_EVERY):
            return batch
        return batch.mixed_by(BatchParams(*(outputs[name] for name in BatchParams._fields)))

    def _labels(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        images = outputs["images"]
        if "labels" not in outputs:
            return torch.full((len(images),), UNKNOWN_LABEL, device=images.device)
        labels = outputs["labels"]
        if labels.numel() != len(images) or labels.dtype.is_floating_point or labels.dtype == torch.uint8:
            raise ConfigError(
                f"labels must be one class number per image, an integer, got {labels.dtype} of shape "
                f"{tuple(labels.shape)}; {HOW_TO_PARSE}"
            )
        return labels.flatten().long()


def _one_branch(pipeline: Pipeline) -> str:
    """The branch of every batch of a pipeline that does not output it."""
    methods = methods_of(pipeline)
    if methods is None or len(methods) > 1 or "mix" in methods:
        raise ConfigError(
            f"the pipeline does not output which branch a batch took, and it cannot be told otherwise; output {_WANTED}"
        )
    return next(iter(methods), "none")


def _shared_branch(outputs: Mapping[str, torch.Tensor]) -> str:
    codes = outputs["branch"]
    if (codes != codes[0]).any():
        raise ConfigError(
            "a batch holds samples of several branches, as random_mix gives inside of an `if`; call it outside, or "
            "leave branch out of the outputs and use DALI's own iterator"
        )
    # A CPU output, so reading it waits for nothing.
    code = int(codes[0])
    try:
        return branches.name_of(code)
    except KeyError:
        raise ConfigError(f"the fourth output must be the branch that random_mix gives, got {code}") from None


def _check_images(images: torch.Tensor) -> bool:
    """Whether images are CHW; refuse what is neither that nor HWC."""
    shape = tuple(images.shape)
    if len(shape) == 4 and shape[3] in _CHANNELS:
        return False
    if len(shape) == 4 and shape[1] in _CHANNELS:
        _log.warning("the pipeline's images are CHW, so that each batch is copied; output_layout='HWC' saves that")
        return True
    raise ConfigError(
        f"the first output must be images, HWC or CHW of 1, 3 or 4 channels, got a batch of shape {shape}; the outputs "
        f"wanted are {_WANTED}"
    )


def _check_targets(targets: torch.Tensor) -> None:
    if targets.dim() != 2 or not targets.dtype.is_floating_point:
        raise ConfigError(
            f"the second output must be soft targets, float (K,) for each image, got {targets.dtype} in a batch of "
            f"shape {tuple(targets.shape)}; mix.soft_targets or mix.random_mix makes them of labels"
        )
