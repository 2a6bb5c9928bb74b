"""``dali-mix export RUN OUT``: a run's weights as a folder that timm and the Hugging Face hub take.

``timm.create_model("local-dir:OUT", pretrained=True)`` loads it, for PVT v1 and PyramidNet after ``import
dali_mix.models``; ``huggingface_hub.upload_folder`` publishes it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import nn

from dali_mix.errors import ConfigError
from dali_mix.text import show
from dali_mix.train.class_names import read_class_names
from dali_mix.train.model import create_model
from dali_mix.train.settings.files import read_config
from dali_mix.train.settings.sections import Settings
from dali_mix.train.weights import export_to_hub_folder, load_weights, require_new_folder


def export(run: Path, out: Path, ema: bool = False) -> Path:
    """Write ``model.safetensors`` and ``config.json`` as timm's ``save_for_hf`` does.

    Args:
        run: folder of a finished run.
        out: new or empty folder.
        ema: the moving average instead of the plain weights.

    Raises:
        ConfigError: if the run lacks what is needed, or ``out`` holds something.
    """
    weights = run / ("model_ema.safetensors" if ema else "model.safetensors")
    if not weights.is_file():
        raise ConfigError(f"{weights} does not exist; give the folder of a finished run{' with --model-ema' * ema}")
    require_new_folder(out)  # before the work is done, not after
    settings, num_classes = _settings(run)
    own, bn_eps = settings.model, settings.batch_norm.bn_eps
    model, config = create_model(
        own, num_classes, torch.device("cpu"), batch_norm=settings.batch_norm, channels_last=False
    )
    if bn_eps is not None and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
        # It is neither in the weights nor in timm's config: the exported model would answer differently.
        raise ConfigError(f"{run} was trained with --bn-eps {bn_eps:g}, which timm's config cannot hold")
    load_weights(model, weights, whole=True)
    export_to_hub_folder(model, out, model_name=own.model, classes=read_class_names(run), config=config)
    return out


def _settings(run: Path) -> tuple[Settings, int]:
    """Read the settings of a run that make its model, and its number of classes."""
    content = read_config(run / "args.yaml", flag="")
    if not isinstance(content.get("num_classes"), int):
        raise ConfigError(f"{run / 'args.yaml'} is not that of a run: it names no num_classes")
    if not isinstance(content.get("model"), str) or not isinstance(content.get("model_kwargs", {}), dict):
        raise ConfigError(f"{run / 'args.yaml'} is not that of a run: it needs a model, and model_kwargs by name")
    # The weights come from the run, so those it started with are not needed, nor need they still be there.
    return Settings.of(content | {"pretrained": False, "pretrained_path": None}), content["num_classes"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0, or 2 with one line for what cannot work."""
    parser = argparse.ArgumentParser(
        prog="dali-mix export",
        description="Write a run's weights as a folder that timm and the Hugging Face hub take.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="Folder of a finished run.")
    parser.add_argument("out", type=Path, metavar="OUT", help="Folder to write.")
    parser.add_argument("--ema", action="store_true", help="Write the moving average of the weights.")
    args = parser.parse_args(argv)
    try:
        out = export(args.run, args.out, args.ema)
    except (ConfigError, OSError) as error:
        parser.exit(2, show(f"{parser.prog}: error: {error}") + "\n")
    print(f"{out}: load with timm.create_model('local-dir:{out}', pretrained=True), timm {timm.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
