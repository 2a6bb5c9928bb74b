"""What examples/ holds, which knows this package as a stranger does, in the trainer."""

import csv
import runpy
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from dali_mix.methods import registered
from dali_mix.train.checkpoint.store import Position
from tests.train.recovery.runs import assert_same_result, cut_off
from tests.train.updates import CLASSES, batch_of, tiny_cnn

EXAMPLE = Path(__file__).parents[2] / "examples" / "step_method.py"
STRANGERS = ("graph_method.py", "step_method.py", "source.py")


@pytest.fixture
def example(registry):
    runpy.run_path(str(EXAMPLE))
    return registered()[-1]


def test_it_is_one_small_file():
    assert len(EXAMPLE.read_text().splitlines()) <= 40


def test_its_losses_are_what_it_says(example):
    torch.manual_seed(0)
    method = example(tiny_cnn().eval(), CLASSES, options=example.Options(alpha=2.0, weight=3.0))
    batch, lam = batch_of("ict"), 0.3
    result = method(batch, lam)
    images, targets = (lam * values + (1 - lam) * values.flip(0) for values in (batch.images, batch.targets))
    with torch.no_grad():
        logits, unmixed = method.model(images), method.model(batch.images).softmax(1)
    own = -(targets * logits.log_softmax(1)).sum(1).mean()
    taught = (logits.softmax(1) - lam * unmixed - (1 - lam) * unmixed.flip(0)).square().sum(1).mean()
    actual = [result[name].item() for name in ("classification", "interpolation", "loss")]
    assert actual == pytest.approx([own.item(), taught.item(), (own + 3 * taught).item()], rel=1e-5)


def test_a_run_leaves_its_loss_and_its_picture_and_goes_on_exactly(registry, train, tmp_path):
    flags = (
        "--import",
        EXAMPLE,
        "--mix",
        "ict=0.5",
        "cutmix=0.3",
        "--ict-weight",
        2,
        "--model-ema",
        "--checkpoint-steps",
        2,
        "--checkpoint-hist",
        100,
    )
    code, _, err = train(*flags, "--experiment", "run")
    assert code == 0, err
    with (tmp_path / "run" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(float(row["train_interpolation"]) > 0 and row["train_consistency"] == "" for row in rows)
    with Image.open(tmp_path / "run" / "preview.png") as picture:
        assert picture.height == 8 + 2 * 212  # a row of its own below that of CutMix
    cut_off(tmp_path / "run", tmp_path / "cut", Position(1, 3))
    code, _, err = train(*flags, "--experiment", "cut", "--auto-resume")
    assert code == 0, err
    assert "exactly, at epoch 2" in err
    assert_same_result(tmp_path / "cut", tmp_path / "run")
    assert "head.weight" in load_file(tmp_path / "run" / "model.safetensors")


def pack(folder, tar):
    with tarfile.open(tar, "w") as file:
        file.add(folder, arcname="")
    return f"tar:{tar.name}"


def test_all_three_in_a_folder_of_their_own_train_and_go_on_exactly(registry, train, tmp_path, small_images):
    """A graph method, a step method and a source that this tree does not know, by one command."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    files = [shutil.copy(EXAMPLE.with_name(name), folder) for name in STRANGERS]
    assert max(len(Path(file).read_text().splitlines()) for file in files) <= 40
    splits = [pack(small_images / name, folder / f"{name}.tar") for name in ("train", "val")]
    flags = ("--import", *files, "--train-split", splits[0], "--val-split", splits[1], "--checkpoint-steps", 1)
    flags += ("--mix", "halfmix=0.4", "ict=0.5", "--halfmix-left", 0.3, "--model-ema", "--checkpoint-hist", 100)
    code, _, err = train(*flags, "--experiment", "run", data=folder)
    assert code == 0, err
    with (tmp_path / "run" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(float(row["train_interpolation"]) > 0 and row["train_fine_grained"] == "" for row in rows)
    with Image.open(tmp_path / "run" / "preview.png") as picture:
        assert picture.height == 8 + 2 * 212  # a row each
    cut_off(tmp_path / "run", tmp_path / "cut", Position(1, 3))
    code, _, err = train(*flags, "--experiment", "cut", "--auto-resume", data=folder)
    assert code == 0, err
    assert "exactly, at epoch 2" in err
    assert_same_result(tmp_path / "cut", tmp_path / "run")


@pytest.mark.filterwarnings("ignore:Overwriting")  # timm's of a model that another test has registered
def test_a_model_and_its_family_train_from_the_command_line(registry, train, tmp_path):
    flags = ("--import", EXAMPLE.with_name("family.py"), "--model", "plain_vit", "--smmix", "--epochs", 1)
    options = ("--model-kwargs", "patch_size=8", "width=16", "depth=2", "heads=2")
    code, _, err = train(*flags, *options, "--experiment", "run")
    assert code == 0, err
    assert load_file(tmp_path / "run" / "model.safetensors")["blocks.1.attn.qkv.weight"].shape == (48, 16)
