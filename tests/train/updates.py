"""A trainer as the command line builds it, on batches made here: updates without files and without a disk."""

import torch
from torch import nn

from dali_mix.data import Batch
from dali_mix.methods import Plain
from dali_mix.train import model as building
from dali_mix.train.distributed import World
from dali_mix.train.epoch_statistics import EpochStatistics
from dali_mix.train.output import Progress
from dali_mix.train.settings import parse_args
from dali_mix.train.step import TrainStep

CLASSES, SIZE_PX = 10, 32
VIT = "--model vit_tiny_patch16_224 --img-size 32 --model-kwargs patch_size=8 embed_dim=16 depth=2 num_heads=2"


class Ready:
    """A loader whose batches are there."""

    def __init__(self, batches):
        self._batches, self.delivered = batches, 0

    def __len__(self):
        return len(self._batches)

    def __iter__(self):
        for batch in self._batches:
            self.delivered += 1
            yield batch


def batch_of(branch="none", seed=0, size=6, *, finite=True):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, SIZE_PX, SIZE_PX, generator=rng)
    labels = torch.randint(CLASSES, (size,), generator=rng)
    targets = torch.nn.functional.one_hot(labels, CLASSES).float()
    if branch == "mixup":
        images, targets = (0.7 * own + 0.3 * own.flip(0) for own in (images, targets))
    if not finite:
        images[0, 0, 0, 0] = float("nan")
    return Batch(images.contiguous(memory_format=torch.channels_last), targets, labels, branch)


def tiny_cnn():
    """With running statistics, and weights of one, two and four dimensions."""
    return nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, CLASSES))


def parsed(flags, device="cpu"):
    """The settings of a command line, with a rate that stays the same."""
    constant = f"--data-dir . -b 6 --lr 1e-2 --sched step --decay-epochs 1000 --warmup-epochs 0 --device {device}"
    return parse_args([*constant.split(), *flags.split()])


def build(flags, world=None, batches=8, model=None):
    """The trainer of a command line, for another model if one is given."""
    world = world or World(0, 1, torch.device("cpu"))
    settings = parsed(flags, world.device.type)
    torch.manual_seed(1)
    if model is None:
        model, config = building.create_model(settings.model, CLASSES, world.device)
        step = building.create_step(settings, model, CLASSES, [config["input_size"][1:]])
    else:
        step = TrainStep(Plain(model, CLASSES))
    return building.build_trainer(settings, world, step, batches)[0]


def train(trainer, batches, epoch=0):
    """An epoch of these batches; returns what it came to."""
    statistics = EpochStatistics()
    trainer.train_epoch(Ready(batches), epoch, Progress(1, 1, shown=False), statistics)
    return statistics


def state_of(trainer):
    """Copies of all that an update changes but the schedule and the counts: names to tensors and numbers."""
    found = {}

    def walk(name, value):
        if isinstance(value, torch.Tensor):
            found[name] = value.detach().clone()
        elif isinstance(value, dict):
            for key, entry in value.items():
                walk(f"{name}.{key}", entry)
        elif isinstance(value, list | tuple):
            for index, entry in enumerate(value):
                walk(f"{name}.{index}", entry)
        else:
            found[name] = value

    walk("model", trainer.model.state_dict())
    walk("optimizer", trainer.updater.optimizer.state_dict())
    if trainer.ema is not None:
        walk("average", trainer.ema.module.state_dict())
    for method in trainer.step.methods:
        walk(f"method {method.name}", method.get_task_state())
    return found


def bits(tensor):
    """As integers, so that what is not a number equals itself and the two zeros differ."""
    return tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def assert_same_state(actual, expected):
    """To the bit."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, torch.Tensor):
            assert actual[name].dtype == value.dtype, name
            assert torch.equal(bits(actual[name]), bits(value)), name
        else:
            assert actual[name] == value, name
