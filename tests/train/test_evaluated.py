"""What is evaluated is what was asked for: the file's own classifier, in the order of its classes."""

import re
import shutil

import pytest
import safetensors.torch
import torch

from dali_mix.errors import ConfigError
from dali_mix.train import main
from dali_mix.train.class_names import check_class_names
from dali_mix.train.weights import read_weights
from tests.train.conftest import FAST
from train_imagenet import PIPELINES

EVALUATE = ["--eval-only", "--initial-checkpoint"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, image_folder):
    """A run of one epoch on ten classes, with its average."""
    output = tmp_path_factory.mktemp("evaluated")
    flags = [*FAST, "--epochs", "1", "--model-ema", "--experiment", "run", "--output", str(output)]
    assert main(PIPELINES, [*flags, "--data-dir", str(image_folder)]) == 0
    return output / "run"


@pytest.fixture
def few(image_folder, tmp_path):
    """Three of the ten classes."""
    for folder in sorted((image_folder / "val").iterdir())[2:5]:
        shutil.copytree(folder, tmp_path / "few" / "val" / folder.name)
    return tmp_path / "few"


@pytest.mark.parametrize("flag", ["--initial-checkpoint", "--pretrained-path"])
def test_a_random_classifier_is_not_evaluated(train, run, few, flag):
    code, out, err = train("--eval-only", flag, run / "model.safetensors", data=few)
    assert (code, out) == (2, "")
    assert "has a classifier for 10 classes, the model 3; give its classes.txt with --class-map" in err.splitlines()[-1]
    code, out, err = train("--eval-only", flag, run / "model.safetensors", "--class-map", run / "classes.txt", data=few)
    assert code == 0, err
    assert "9" in out.split()


def test_nor_is_one_that_timm_has_dropped(train, few):
    code, out, err = train("--eval-only", "--pretrained", data=few)
    assert (code, out) == (2, "")
    assert "weights of vit_tiny_patch16_224 are for 1000 classes, the data have 3" in err.splitlines()[-1]


def test_weights_without_a_classifier_are_not_evaluated(train, run, tmp_path):
    state = safetensors.torch.load_file(run / "model.safetensors")
    body = {name: value for name, value in state.items() if not name.startswith("head.")}
    safetensors.torch.save_file(body, tmp_path / "body.safetensors")
    code, _, err = train(*EVALUATE, tmp_path / "body.safetensors")
    assert code == 2
    assert "has no classifier" in err.splitlines()[-1]


def test_the_average_beside_the_weights(train, run, tmp_path):
    plain, average = (safetensors.torch.load_file(run / f"{name}.safetensors") for name in ("model", "model_ema"))
    torch.save({"state_dict": plain, "state_dict_ema": average}, tmp_path / "last.pth.tar")
    losses = {}
    for name, flags in {
        "model": [run / "model.safetensors"],
        "model_ema": [run / "model_ema.safetensors"],
        "file": [tmp_path / "last.pth.tar"],
        "its average": [tmp_path / "last.pth.tar", "--use-ema"],
    }.items():
        code, out, err = train(*EVALUATE, *flags)
        assert code == 0, err
        losses[name] = re.search(r"loss +(\S+)", out)[1]
    assert losses["file"] == losses["model"]
    assert losses["its average"] == losses["model_ema"]
    code, _, err = train(*EVALUATE, run / "model.safetensors", "--use-ema")
    assert code == 2
    assert "holds no moving average" in err


def renamed(run, tmp_path, order):
    """The run's weights in a folder of its own, which says that the classes were in another order."""
    names = (run / "classes.txt").read_text().splitlines()
    folder = tmp_path / "moved"
    folder.mkdir()
    safetensors.torch.save_file(safetensors.torch.load_file(run / "model.safetensors"), folder / "model.safetensors")
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in order(names)))
    return folder, names


def test_classes_in_another_order(train, run, tmp_path):
    folder, names = renamed(run, tmp_path, lambda names: names[::-1])
    code, out, err = train(*EVALUATE, folder / "model.safetensors")
    assert (code, out) == (2, "")
    assert f"its class 0 is {names[-1]!r}" in err.splitlines()[-1]
    assert "--class-map FILE" in err
    code, _, err = train(*EVALUATE, folder / "model.safetensors", "--class-map", folder / "classes.txt")
    assert code == 0, err
    code, _, err = train("--initial-checkpoint", folder / "model.safetensors", "--bench-steps", 1)
    assert code == 0, err
    assert "its class 0 is" in err


def test_where_the_names_are_known(run, tmp_path):
    """Noted in a run's weights, beside them, above a checkpoint, and in a hub's config."""
    names = (run / "classes.txt").read_text().splitlines()
    other = ["another", *names[1:]]
    shutil.copy(run / "model.safetensors", tmp_path / "moved.safetensors")
    (tmp_path / "hub").mkdir()
    shutil.copy(run / "model.safetensors", tmp_path / "hub" / "weights.bin")
    (tmp_path / "hub" / "config.json").write_text('{"label_names": ["' + '", "'.join(names) + '"]}')
    (tmp_path / "edited").mkdir()
    shutil.copy(run / "model.safetensors", tmp_path / "edited" / "weights.bin")
    (tmp_path / "edited" / "classes.txt").write_bytes("\r\n".join(["\ufeff" + names[0], *names[1:]]).encode())
    checkpoint = run / "checkpoints" / "checkpoint-1-0"
    for path in (
        tmp_path / "moved.safetensors",
        run / "model.safetensors",
        checkpoint,
        tmp_path / "hub" / "weights.bin",
        tmp_path / "edited" / "weights.bin",
    ):
        check_class_names(path, names, refuse=True)
        with pytest.raises(ConfigError, match="that of the data is 'another'"):
            check_class_names(path, other, refuse=True)
        check_class_names(path, other[:3], refuse=True)  # which the classifier tells


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_a_damaged_checkpoint_gives_no_weights(run, tmp_path, name):
    checkpoint = shutil.copytree(run / "checkpoints" / "checkpoint-1-0", tmp_path / "checkpoint-1-0")
    read_weights(checkpoint / name)
    content = bytearray((checkpoint / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (checkpoint / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"model\.safetensors is not what was written"):
        read_weights(checkpoint / name)
