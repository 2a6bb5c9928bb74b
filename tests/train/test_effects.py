"""What flags come to where nothing but the result of a whole run would show it: the objects that they make."""

import inspect
import math

import pytest
import timm
import torch
from timm.layers import is_fast_norm, set_fast_norm
from torch import nn

from dali_mix import fn as mix
from dali_mix.data import Augmentation, Crop, DecoderSettings, Mixing, scan_image_folder
from dali_mix.train import model as building
from dali_mix.train.data import Data, Loaders
from dali_mix.train.distributed import World
from dali_mix.train.settings import parse_args
from pipelines.imagenet import imagenet_train, imagenet_val
from tests.train.conftest import TINY
from tests.train.updates import build, tiny_cnn

CPU = torch.device("cpu")
CONFIG = {"input_size": (3, 32, 32), "crop_pct": 1.0, "crop_mode": "center", "interpolation": "lanczos",
          "mean": (0.5,) * 3, "std": (0.25,) * 3}  # fmt: skip


def settings(flags):
    return parse_args([*TINY, "--data-dir", "x", "--device", "cpu", *flags.split()])


def optimizer_of(flags):
    return build(flags, model=tiny_cnn()).updater.optimizer


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--opt adamw --opt-eps 1e-7", {"eps": 1e-7}),
        ("--opt adamw --opt-betas 0.8 0.95", {"betas": (0.8, 0.95)}),
        ("--opt lamb --opt-kwargs max_grad_norm=2.0", {"max_grad_norm": 2.0}),
        ("--opt sgd --momentum 0.7", {"momentum": 0.7}),
        ("--opt adamw --weight-decay 0.3", {"weight_decay": 0.3}),
        ("--opt adamw --lr 0.5", {"lr": 0.5}),
    ],
)
def test_what_the_optimizer_gets(flags, expected):
    groups = optimizer_of(flags).param_groups
    assert any(expected.items() <= group.items() for group in groups)


def test_what_clipping_gets():
    updater = build("--clip-grad 0.3 --clip-mode value", model=tiny_cnn()).updater
    assert (updater.clip, updater.clip_mode) == (0.3, "value")


def rates(flags, at):
    """The learning rate at some updates of an epoch of ten."""
    trainer = build(f"--epochs 10 --lr 1 {flags}", batches=10, model=tiny_cnn())
    return [trainer.scheduler._get_lr(update)[0] for update in at]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--sched cosine --min-lr 0.2", 0.2 + 0.4 * (1 + math.cos(math.pi * 0.3))),
        ("--sched cosine --lr-k-decay 2", 0.5 * (1 + math.cos(math.pi * 0.3**2))),
        ("--sched poly --lr-k-decay 2 --decay-rate 0.5", (1 - 0.3**2) ** 0.5),
        ("--sched step --decay-epochs 2 --decay-rate 0.3", 0.3),
        ("--sched multistep --decay-milestones 1 3 --decay-rate 0.3", 0.3**2),
        ("--sched cosine --warmup-epochs 5 --warmup-lr 0.5", 0.5 + 0.5 * 30 / 50),
        (
            "--sched cosine --lr-cycle-limit 5 --lr-cycle-decay 0.25 --epochs 2",
            0.25 * 0.5 * (1 + math.cos(math.pi * 0.5)),
        ),
    ],
)
def test_the_rate_at_three_tenths(flags, expected):
    (rate,) = rates(flags, [30])
    assert rate == pytest.approx(expected, rel=1e-6)


def test_the_decay_begins_after_the_warm_up_or_during_it():
    during, after = (rates(f"--sched cosine --warmup-epochs 5 {prefix}", [50])[0] for prefix in ("", "--warmup-prefix"))
    assert during == pytest.approx(0.5)
    assert after == pytest.approx(1.0)


def test_noise_lies_where_it_is_asked_for():
    calm = rates("--sched cosine", range(100))
    noisy = build("--epochs 10 --lr 1 --sched cosine --lr-noise 0.2 0.5 --lr-noise-pct 0.1 --lr-noise-std 0.5",
                  batches=10, model=tiny_cnn()).scheduler  # fmt: skip
    for update, rate in enumerate(calm):
        noisy.step_update(update)
        found = noisy.optimizer.param_groups[0]["lr"]
        if 20 <= update < 50:
            assert found != rate
            assert found == pytest.approx(rate, rel=0.1)
        else:
            assert found == pytest.approx(rate)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", 0.1 * 32 / 256),
        ("--lr-base 0.2 --lr-base-size 64", 0.2 * 32 / 64),
        ("--grad-accum-steps 4", 0.1 * 128 / 256),
        ("--lr-base-scale sqrt", 0.1 * math.sqrt(32 / 256)),
        ("--opt adamw", 0.1 * math.sqrt(32 / 256)),
    ],
)
def test_the_rate_follows_the_batch(flags, expected):
    own = settings(f"-b 16 {flags}")
    images = building.images_per_update(own, World(0, 2, CPU))
    assert building.learning_rate(own.schedule, own.optimizer.opt, images) == pytest.approx(expected)


def test_layers_are_decayed_down_to_a_smallest_scale_and_frozen_below_another():
    own = settings("--layer-decay 0.5 --layer-decay-min-scale 0.3 --opt adamw")
    model = timm.create_model("vit_tiny_patch16_224", depth=4, embed_dim=16, num_heads=2, num_classes=2)
    groups = building.create_optimizer(own.optimizer, 0.1, model, (), CPU).param_groups
    assert min(group["lr_scale"] for group in groups) == 0.3
    own = settings("--layer-decay 0.5 --layer-decay-no-opt-scale 0.3 --opt adamw")
    groups = building.create_optimizer(own.optimizer, 0.1, model, (), CPU).param_groups
    assert min(group["lr_scale"] for group in groups) == 0.5
    assert not model.patch_embed.proj.weight.requires_grad


def made(flags):
    return building.create_model(settings(flags).model, 10, CPU)[0]


def test_what_the_model_is_made_with():
    model = made("--drop 0.25 --drop-path 0.5 --gp avg --head-init-bias -2")
    assert (model.head_drop.p, model.blocks[-1].drop_path1.drop_prob, model.global_pool) == (0.25, 0.5, "avg")
    assert set(model.head.bias.tolist()) == {-2.0}
    assert made("--grad-checkpointing").grad_checkpointing
    torch.manual_seed(0)
    plain = made("").head.weight
    torch.manual_seed(0)
    torch.testing.assert_close(made("--head-init-scale 0.1").head.weight, 0.1 * plain)


def test_norms_are_computed_in_the_lower_precision():
    try:
        made("--amp --fast-norm")
        assert is_fast_norm()
    finally:
        set_fast_norm(False)
    made("--amp")
    assert not is_fast_norm()


def test_the_layout_of_the_weights():
    for channels_last in (True, False):
        own = parse_args("--data-dir x --model resnet10t --img-size 32".split()).model
        model, _ = building.create_model(own, 10, CPU, channels_last=channels_last)
        weight = next(m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)).weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last


@pytest.fixture
def taken(image_folder):
    """What the pipelines get of some flags: that of training, and that of validation."""
    folder = scan_image_folder(image_folder / "train")
    data = Data(folder, folder, len(folder.classes), ())

    def run(flags):
        seen = []

        def look(build):
            def watched(*args, **options):
                seen.append(options)
                return build(*args, **options)

            watched.__signature__ = inspect.signature(build)
            return watched

        pipelines = {"imagenet": (look(imagenet_train), look(imagenet_val))}
        loaders = Loaders(settings(f"-b 8 {flags}"), data, CONFIG, World(0, 1, CPU), pipelines)
        loaders.training().close()
        validation = loaders.validation()
        len(validation)
        validation.close()
        return seen

    return run


FLIPS = Augmentation(color_jitter=0.4)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", {"augmentation": FLIPS, "crop": Crop(interpolation="random"), "mixing": Mixing(), "choices": {}}),
        ("--vflip 0.5 --hflip 0.25", {"augmentation": Augmentation(hflip=0.25, vflip=0.5, color_jitter=0.4)}),
        (
            "--color-jitter 0.3 --color-jitter-prob 0.8",
            {"augmentation": Augmentation(color_jitter=0.3, color_jitter_prob=0.8)},
        ),
        (
            "--grayscale-prob 0.2 --gaussian-blur-prob 0.1",
            {"augmentation": Augmentation(color_jitter=0.4, grayscale_prob=0.2, gaussian_blur_prob=0.1)},
        ),
        (
            "--aa 3a --reprob 0.25 --remode const --recount 2",
            {"augmentation": Augmentation(color_jitter=0.4, aa="3a", reprob=0.25, remode="const", recount=2)},
        ),
        ("--scale 0.5 0.9 --ratio 1 2", {"crop": Crop(scale=(0.5, 0.9), ratio=(1.0, 2.0), interpolation="random")}),
        ("--train-interpolation bilinear", {"crop": Crop(interpolation="bilinear")}),
        ("--no-aug", {"crop": Crop(no_aug=True, interpolation="lanczos"), "augmentation": Augmentation(hflip=0.0)}),
        ("--smoothing 0.3 --cutmix 1 --mixup-mode elem", {"mixing": Mixing(mode="elem", smoothing=0.3)}),
        ("--cutmix 0.5 --mixup-prob 0.4", {"choices": {mix.CutMix(alpha=0.5): 0.4}}),
        ("--seed 7 -j 3", {"seed": 7, "num_threads": 3}),
    ],
)
def test_what_the_training_pipeline_gets(taken, flags, expected):
    training = taken(flags)[0]
    assert {name: training[name] for name in expected} == expected


def test_what_both_pipelines_get(taken):
    for options in taken("--dali-prefetch 3 --amp --dali-device gpu --hw-decoder-load 0.5 --device-memory-padding 5"):
        reading, output = options["reading"], options["output"]
        assert reading.prefetch_queue_depth == 3
        assert reading.decoder_settings == DecoderSettings(hw_decoder_load=0.5, device_memory_padding=5)
        assert (output.half, output.mean, output.std) == (True, (0.5,) * 3, (0.25,) * 3)


def test_what_the_validation_pipeline_gets(taken):
    _, validation = taken("-vb 4")
    assert (validation["batch_size"], validation["interpolation"]) == (4, "lanczos")
