import argparse
import inspect
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from dali_mix import fn as mix
from dali_mix.data import Augmentation, DecoderSettings, scan_image_folder, select_backend
from dali_mix.tools.bench import loader, recipe, step_setup
from dali_mix.tools.bench.__main__ import main
from dali_mix.tools.bench.alternatives import ALTERNATIVES
from dali_mix.tools.bench.setting import Setting
from tests.tools.test_bench_loader import TINY
from tests.tools.test_bench_step import TINY_STEP, prepared

AUGMENTED = [name for name, alternative in ALTERNATIVES.items() if alternative.of_recipe]
COLOR = (200, 30, 90)
"""Of every pixel: crops and flips do not show, and everything else does."""


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    """Two classes of eight images of one color."""
    root = tmp_path_factory.mktemp("plain")
    for index in range(16):
        (root / f"{index % 2}").mkdir(exist_ok=True)
        image = Image.fromarray(np.full((64, 64, 3), COLOR, np.uint8))
        image.save(root / f"{index % 2}" / f"{index}.jpg", quality=100, subsampling=0)
    return scan_image_folder(root)


def read(*flags, **alone):
    parser = argparse.ArgumentParser()
    recipe.add_arguments(parser)
    return recipe.read_recipe(parser.parse_args(flags), **alone)


def delivered(name, folder, *flags, batches=4, **alone):
    """Batches of images in [0, 1], channels first, and targets, soft or not."""
    setting = Setting(
        folder=folder,
        backend=select_backend("cpu"),
        batch_size=8,
        img_size=32,
        interpolation="bilinear",
        workers=1,
        decoder_settings=DecoderSettings(),
        recipe=read(*flags, **({"smoothing": 0.0} | alone)),
    )
    with ALTERNATIVES[name].open(setting) as opened:
        taken = [(images.clone(), targets.clone()) for images, targets in itertools.islice(opened, batches)]
    images, targets = zip(*taken, strict=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    return torch.cat(images).float() * std + mean, targets


def changed(images):
    """Of each image, the share of pixels that have not its color."""
    color = torch.tensor(COLOR)[:, None, None] / 255
    return ((images - color).abs().amax(1) > 0.05).float().mean((1, 2))


def mixed(targets):
    """Whether rows hold two classes."""
    return targets.ndim == 2 and bool((targets.amax(1) < 1).any())


def test_a_recipe_is_the_trainers_and_flags_come_after_it():
    asked = read("--recipe", "deit_small", "--reprob", "0.5", "--remode", "const")
    expected = Augmentation(color_jitter=0.4, aa="rand-m9-mstd0.5-inc1", reprob=0.5, remode="const")
    assert asked.augmentation == expected
    assert asked.choices == {"cutmix": 0.5, "mixup": 0.5}
    assert asked.settings.crop.interpolation == "bicubic"
    assert asked.rand_augment == (2, 9)
    assert read() is None


def test_flags_stand_alone():
    asked = read("--aa", "3a", "--color-jitter", "0.3", "--recount", "2", "--reprob", "1", cutmix=1.0)
    assert asked.augmentation == Augmentation(aa="3a", color_jitter=0.3, reprob=1.0, recount=2)
    assert asked.choices == {"cutmix": 1.0}
    assert asked.rand_augment is None
    assert asked.features == {"--aa 3a"}


@pytest.mark.parametrize("aa", ["rand-m9-t3a", "rand-tweights-n3"])
def test_other_sets_of_operations_are_no_other_loaders(aa):
    assert read("--aa", aa).features == {"--aa rand-t..."}
    lacking = {name for name, alternative in ALTERNATIVES.items() if "--aa rand-t..." in alternative.lacks}
    assert lacking == {"nvidia_recipe", "torchvision_recipe"}


@pytest.mark.parametrize(
    ("aa", "expected"), [("rand-m7-n3-mstd1", (3, 7)), ("rand-mmax10", (2, 10)), ("rand-n1-m30", (1, 10))]
)
def test_the_number_of_operations_and_their_magnitude_are_those_of_the_string(aa, expected):
    assert read("--aa", aa).rand_augment == expected


def test_what_smmix_would_mix_is_left_to_the_step_by_the_rivals_too():
    mixup = read("--recipe", "smmix_deit_small").timm_mixup()
    assert (mixup["prob"], mixup["mixup_alpha"], mixup["cutmix_alpha"]) == (0.5, 0.8, 0.0)


@pytest.mark.parametrize("name", AUGMENTED)
def test_an_image_of_one_color_shows_the_augmentation(plain_folder, name):
    """32 images; an operation of RandAugment changes most of them, and those that shear or shift leave a border."""
    images, targets = delivered(name, plain_folder, "--aa", "rand-m10-n2-p1")
    assert images.shape == (32, 3, 32, 32)
    share = (changed(images) > 0.02).float().mean()
    assert share == 0 if name == "flip" else share > 0.5
    assert not any(map(mixed, targets))  # nothing was asked for


@pytest.mark.parametrize("name", [name for name in AUGMENTED if name != "flip"])
@pytest.mark.parametrize(("mode", "flat"), [("const", True), ("pixel", False)])
def test_a_box_is_erased_in_every_image(plain_folder, name, mode, flat):
    """From 2 % of the area to a third; timm's and torchvision's may find no box in an image, one of a hundred."""
    flags = ["--reprob", "1", "--remode", mode, "--color-jitter", "0"]
    images, _ = delivered(name, plain_folder, *flags)
    share = changed(images)
    assert (share > 0.015).float().mean() > 0.9
    assert share.amax() < 0.4
    box = (images - torch.tensor(COLOR)[:, None, None] / 255).abs().amax(1) > 0.05
    spread = torch.stack([image[:, erased].std() for image, erased in zip(images, box, strict=True) if erased.any()])
    # The mean color, three values close to each other, or noise; DALI's operator knows none.
    assert (spread.median() < 0.1) == (flat or name == "nvidia_recipe")


@pytest.mark.parametrize("name", [name for name in AUGMENTED if name != "flip"])
def test_colors_change_with_the_jitter(plain_folder, name):
    images, _ = delivered(name, plain_folder, "--color-jitter", "0.5")
    means = images.mean((2, 3))
    assert means.std(0).amax() > 0.05
    assert (images.amax((2, 3)) - images.amin((2, 3))).amax() < 0.02  # each image is of one color still


@pytest.mark.parametrize("name", AUGMENTED)
def test_batches_are_mixed_as_the_recipe_says(plain_folder, name):
    """CutMix of half the batches; that its box is empty or all partners are of one class is rare in a batch of 8."""
    _, targets = delivered(name, plain_folder, "--aa", "rand-m1-n1-p0", batches=20, cutmix=1.0, mixup_prob=0.5)
    assert 3 <= sum(map(mixed, targets)) <= 17  # binomial, n = 20, p = 0.5: outside once in 2,500


def test_a_recipes_loader_is_compared_with_flips_and_decoding(tmp_path, image_folder, capsys):
    path = tmp_path / "figures.json"
    flags = "--recipe deit_small --only decode flip recipe nvidia_recipe --baseline flip decode --images 16".split()
    assert main(["loader", "--data-dir", str(image_folder / "train"), *TINY, *flags, "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert list(record["results"]) == ["decode", "flip", "recipe", "nvidia_recipe"]
    assert record["results"]["flip"]["cpu_ratio"]["median"] == 1
    assert record["results"]["decode"]["ratio decode"]["median"] == 1
    assert record["settings"]["interpolation"] == "bicubic"
    out = capsys.readouterr().out
    assert "cpu / decode" in out
    asked = "augmentation: recipe deit_small, aa rand-m9-mstd0.5-inc1, reprob 0.25; "
    assert f"{asked}mixed per batch: cutmix 0.5, mixup 0.5" in out


def test_the_default_rows_are_the_recipes_and_its_rivals(monkeypatch, image_folder):
    parser = argparse.ArgumentParser()
    loader.add_arguments(parser)
    figures = {"per_s": {"median": 1}, "cpu_s_per_1000": {"median": 1}}

    def measure(work, baselines, args):
        return {"baselines": baselines, "results": dict.fromkeys(work, figures), "lines": []}

    def names(*flags):
        result = loader.run(parser.parse_args(["--data-dir", str(image_folder / "train"), *TINY, *flags]))
        return list(result["results"]), result["baselines"], result["lines"]

    monkeypatch.setattr(loader, "_measure", measure)
    everything = ["flip", "recipe", "decode", "nvidia_recipe", "timm_recipe", "torchvision_recipe"]
    assert names("--recipe", "deit_small")[:2] == (everything, ["flip"])
    kept, base, lines = names("--aa", "3a")
    assert (kept, base) == (["flip", "recipe", "decode", "timm_recipe"], ["flip"])
    assert "nvidia_recipe is left out: it has no equal of --aa 3a" in lines
    assert names("--sweep", "--sweep-threads", "1", "--reprob", "0.25")[2][-1].startswith("best: recipe with -j 1")
    assert not set(names("--only", "all")[0]).intersection(AUGMENTED)
    assert set(names("--only", "all", "--reprob", "0.25")[0]) == set(ALTERNATIVES)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--recipe deit_smal", "--recipe deit_smal is unknown; did you mean"),
        ("--recipe cutmix_cifar100_pyramidnet200", "--pipeline cifar"),
        ("--aa augmix", "AugMix needs several chains"),
        ("--reprob 2", "'2' is not a number in [0, 1]"),
        ("--reprob -1", "'-1' is not a number in [0, 1]"),
        ("--reprob 0.5 --remode noise", "invalid choice: 'noise'"),
        ("--remode const", "--remode has no effect without --reprob"),
        ("--recipe deit_small --color-jitter 0.4", "--color-jitter has no effect beside --aa rand-m9-mstd0.5-inc1"),
        ("--only none recipe", "recipe needs an augmentation: give --recipe NAME"),
        ("--aa 3a --only none timm", "no effect on none, timm"),
        ("--aa 3a --only nvidia_recipe", "nothing is left to time: nvidia_recipe is left out: it has no"),
        ("--aa 3a --only recipe nvidia_recipe --baseline nvidia_recipe", "--baseline nvidia_recipe is not timed"),
    ],
)
def test_an_augmentation_that_cannot_be_measured_is_one_line(image_folder, flags, message, capsys):
    assert main(["loader", "--data-dir", str(image_folder / "train"), *TINY, *flags.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_image_that_cannot_be_loaded_is_one_line(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    for index in range(2):
        (tmp_path / "a" / f"{index}.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    command = ["loader", "--data-dir", str(tmp_path), *TINY, "-b", "2", "--reprob", "0.25", "--only", "recipe"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert error.count("\n") == 1


def test_files_of_the_step_are_augmented_as_the_recipe_says(monkeypatch, image_folder):
    seen = []

    def look(*args, augmentation, **settings):
        seen.append((augmentation, settings["crop"].interpolation, settings["choices"]))
        return train(*args, augmentation=augmentation, **settings)

    train, val = recipe.pipelines()["imagenet"]
    look.__signature__ = inspect.signature(train)
    monkeypatch.setattr(step_setup, "pipelines", lambda: {"imagenet": (look, val)})
    setup = prepared("--data-dir", str(image_folder / "train"), "--recipe", "deit_small", "--reprob", "0.5")
    assert (setup.settings.schedule.lr, setup.settings.model.model) == (5e-4, "vit_tiny_patch16_224")
    for opened in step_setup.open_loaders(setup, ["mixup"]).values():
        opened.close()
    expected = Augmentation(color_jitter=0.4, aa="rand-m9-mstd0.5-inc1", reprob=0.5)
    assert seen == [(expected, "bicubic", {mix.Mixup(alpha=0.8): 1.0})]


def test_without_flags_the_step_augments_by_the_trainers_defaults():
    setup = prepared()
    assert setup.settings.augmentation == Augmentation(color_jitter=0.4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [("--aa 3a", "no effect without --data-dir"), ("--data-dir {folder} --aa 4a", "no such policy")],
)
def test_a_step_that_cannot_be_augmented_so_is_one_line(image_folder, flags, message, capsys):
    assert main([*TINY_STEP, *flags.format(folder=image_folder / "train").split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", AUGMENTED)
def test_an_augmented_alternative_delivers_on_the_gpu(image_folder, name):
    folder = loader._whole_batches(scan_image_folder(image_folder / "train"), 16, 8)
    setting = Setting(
        folder, select_backend("gpu"), 8, 32, "bilinear", 2, DecoderSettings(), recipe=read("--recipe", "deit_small")
    )
    with ALTERNATIVES[name].open(setting) as batches:
        for images, targets in itertools.islice(batches, 3):
            assert images.shape == (8, 3, 32, 32)
            assert {images.device.type, targets.device.type} == {"cuda"}


def test_timms_loader_survives_posterizing_to_no_bits(image_folder, tmp_path):
    """Pillow 13 raises; with noise on magnitude 9 a recipe comes there after some thousand images."""
    figures = tmp_path / "figures.json"
    flags = ["--aa", "rand-m10-n8-p1-inc1", "--only", "timm_recipe", "--rounds", "1", "--batches", "4"]
    where = ["--data-dir", str(image_folder / "train"), "--device", "cpu", "--img-size", "32", "-b", "4", "-j", "1"]
    assert main(["loader", *where, *flags, "--json", str(figures)]) == 0
    assert json.loads(figures.read_text())["results"]["timm_recipe"]["per_s"]["median"] > 0
