"""A setting that the chosen pipeline has no parameter for is refused: it would be dropped without a word."""

import inspect

import pytest
import torch

from dali_mix.data import scan_image_folder
from dali_mix.errors import ConfigError
from dali_mix.train.data import Data, Loaders
from dali_mix.train.distributed import World
from dali_mix.train.settings import parse_args
from pipelines.imagenet import imagenet_train, imagenet_val
from tests.train.conftest import FAST

CONFIG = {"input_size": (3, 32, 32), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic",
          "mean": (0.5,) * 3, "std": (0.5,) * 3}  # fmt: skip
CUSTOM = ["--pipeline", "custom"]


def without(build, *lost):
    """A pipeline of a user's that has not those parameters."""

    def custom(*args, **options):
        return build(*args, **options)

    parameters = inspect.signature(build).parameters.values()
    custom.__signature__ = inspect.Signature([each for each in parameters if each.name not in lost])
    return custom


def open_training(image_folder, pipelines, *flags):
    args = parse_args([*FAST, "--data-dir", str(image_folder), *CUSTOM, *flags])
    folder = scan_image_folder(image_folder / "train")
    data = Data(folder, folder, len(folder.classes), ())
    Loaders(args, data, CONFIG, World(0, 1, torch.device("cpu")), {"custom": pipelines}).training().close()


@pytest.mark.parametrize(
    ("lost", "flags"),
    [
        ("choices", "--cutmix 1"),
        ("choices", "--mixup 0.8"),
        ("choices", "--cutmix-minmax 0.2 0.8"),
        ("mixing", "--smoothing 0.2"),
        ("mixing", "--mixup-mode elem --cutmix 1"),
        ("augmentation", "--vflip 0.5"),
        ("augmentation", "--aa 3a"),
        ("crop", "--scale 0.5 1"),
        ("crop", "--no-aug"),
        ("crop", "--train-img-sizes 16 32"),
        ("reading", "--dali-prefetch 3"),
        ("output", "--mean 0.4"),
        ("num_threads", "-j 3"),
    ],
)
def test_what_the_training_pipeline_has_no_parameter_for(image_folder, lost, flags):
    custom = without(imagenet_train, lost), imagenet_val
    name = next(flag for flag in flags.replace("-j", "--workers").split() if flag.startswith("--"))
    with pytest.raises(ConfigError, match=f"^{name} has no effect with --pipeline custom: .* parameter '{lost}'$"):
        open_training(image_folder, custom, *flags.split())


@pytest.mark.parametrize(
    ("lost", "flags"), [("crop_pct", "--crop-pct 0.9"), ("interpolation", "--interpolation nearest")]
)
def test_what_the_validation_pipeline_has_no_parameter_for(image_folder, lost, flags):
    with pytest.raises(ConfigError, match=f"^{flags.split()[0]} has no effect with --pipeline custom: .*'{lost}'$"):
        open_training(image_folder, (imagenet_train, without(imagenet_val, lost)), *flags.split())


def test_what_is_left_at_its_default_is_no_false_alarm(image_folder):
    custom = without(imagenet_train, "choices", "mixing", "augmentation", "crop", "reading", "output")
    open_training(image_folder, (custom, without(imagenet_val, "reading", "output")))
