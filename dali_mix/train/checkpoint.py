"""Checkpoints and weights on disk."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch

from dali_mix.train.files import replace_file

_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.pth\.tar$")


def save_checkpoint(folder: Path, epoch: int, state: dict[str, Any], *, keep: int, is_best: bool) -> None:
    """Write ``checkpoint-EPOCH.pth.tar`` and remove all but the newest ``keep``.

    A file is complete or absent: it is written beside its place and moved there.

    Args:
        is_best: make it ``model_best.pth.tar`` too, which stays when the checkpoint goes.
        state: plain types and tensors only, so that it loads with ``weights_only=True``; the model's
            state under "state_dict", where timm looks for it.
    """
    path = folder / f"checkpoint-{epoch}.pth.tar"
    replace_file(path, lambda temporary: torch.save(state, temporary))
    if is_best:
        replace_file(folder / "model_best.pth.tar", lambda temporary: shutil.copyfile(path, temporary))
    numbered = {int(match[1]): old for old in folder.iterdir() if (match := _CHECKPOINT.fullmatch(old.name))}
    for number in sorted(numbered)[:-keep]:
        numbered[number].unlink()
