"""Weights of others go in, ours come out as plain timm."""

import logging
import os

import pytest
import timm
import torch
from safetensors.torch import save_file

import dali_mix.models  # noqa: F401
from dali_mix.errors import ConfigError
from dali_mix.smmix import SMMix
from dali_mix.train.weights import load_weights, save_weights

NAME = "deit_tiny_patch16_224"
TINY = {"img_size": 32, "depth": 2, "embed_dim": 16, "num_heads": 2}


def tiny(num_classes=10, **options):
    return timm.create_model(NAME, num_classes=num_classes, **(TINY | options))


@pytest.fixture
def source():
    torch.manual_seed(1)
    return tiny()


@pytest.fixture
def model():
    torch.manual_seed(2)
    return tiny()


def assert_loaded(model, source):
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_ours_load_in_plain_timm(tmp_path, source):
    save_weights(source, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = timm.create_model(NAME, num_classes=10, checkpoint_path=str(tmp_path / "model.safetensors"), **TINY)
    assert_loaded(loaded, source)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "model_ema": {name: value * 0 for name, value in state.items()}},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict": {f"_orig_mod.{name}": value for name, value in state.items()}},
        lambda state: {"state_dict_ema": state},
    ],
)
def test_the_ways_in_which_checkpoints_hold_weights(tmp_path, model, source, wrap):
    torch.save(wrap(source.state_dict()), tmp_path / "file.pth")
    load_weights(model, tmp_path / "file.pth")
    assert_loaded(model, source)


def test_the_smmix_authors_token_head_goes_to_the_stage(tmp_path, model, source, caplog):
    """Their files hold "model", with a token_head beside DeiT's own names (deit.py)."""
    head = {"token_head.weight": torch.ones(10, 16), "token_head.bias": torch.ones(10)}
    torch.save({"model": source.state_dict() | head}, tmp_path / "authors.pth")
    stage = SMMix(model, 10)
    load_weights(model, tmp_path / "authors.pth", stage)
    assert_loaded(model, source)
    assert stage.token_head.weight.eq(1).all()
    caplog.set_level(logging.INFO, "dali_mix")
    load_weights(model, tmp_path / "authors.pth")
    assert "its token head is left out" in caplog.text
    torch.save({"model": source.state_dict() | {"token_head.weight": torch.ones(7, 16)}}, tmp_path / "other.pth")
    load_weights(model, tmp_path / "other.pth", stage)
    assert "its token head is for other classes" in caplog.text


def test_our_checkpoint_brings_its_token_head(tmp_path, model, source):
    state = {"state_dict": source.state_dict(), "token_head": SMMix(source, 10).token_head.state_dict()}
    torch.save(state, tmp_path / "checkpoint.pth.tar")
    stage = SMMix(model, 10)
    load_weights(model, tmp_path / "checkpoint.pth.tar", stage)
    assert torch.equal(stage.token_head.weight, state["token_head"]["weight"])


def test_the_pvt_authors_file(tmp_path):
    options = {"depths": (1, 1, 1, 1), "num_classes": 5, "img_size": 64}
    source, model = (timm.create_model("pvt_tiny", **options) for _ in range(2))
    torch.save(source.state_dict(), tmp_path / "pvt_tiny.pth")
    load_weights(model, tmp_path / "pvt_tiny.pth")
    assert_loaded(model, source)


def test_a_file_for_another_image_size_is_resampled(tmp_path, model):
    save_weights(tiny(img_size=64), tmp_path / "large.safetensors")
    load_weights(model, tmp_path / "large.safetensors")


def test_a_classifier_for_other_classes_is_left_out_and_said(tmp_path, model, caplog):
    other = tiny(num_classes=3)
    save_weights(other, tmp_path / "other.safetensors")
    head = model.head.weight.clone()
    caplog.set_level(logging.INFO, "dali_mix")
    load_weights(model, tmp_path / "other.safetensors")
    assert torch.equal(model.head.weight, head)
    assert torch.equal(model.cls_token, other.cls_token)
    assert "its classifier is for 3 classes and is left out" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"extra": torch.ones(1)}, "unexpected: extra"),
        (lambda state: {name: value for name, value in state.items() if name != "norm.bias"}, "missing: norm.bias"),
        (lambda state: state | {"norm.bias": torch.ones(3)}, "of another shape: norm.bias"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, model, source, change, message):
    save_file(change(dict(source.state_dict())), tmp_path / "file.safetensors")
    with pytest.raises(ConfigError, match=message) as error:
        load_weights(model, tmp_path / "file.safetensors")
    assert "\n" not in str(error.value)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("content", ["code", "number", "junk"])
def test_what_is_no_weights_file_is_refused_and_never_run(tmp_path, model, content):
    path = tmp_path / "file.pth"
    if content == "junk":
        path.write_bytes(b"junk")
    else:
        torch.save({"state_dict": Malicious(tmp_path / "pwned")} if content == "code" else {"a": 1}, path)
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        load_weights(model, path)
    assert not (tmp_path / "pwned").exists()
