"""Weights of others go in, ours come out as plain timm."""

import argparse
import json
import logging
import os

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file
from timm.data import resolve_input_data_config
from timm.utils import ModelEmaV3, unwrap_model

import dali_mix.models  # noqa: F401
from dali_mix.errors import ConfigError
from dali_mix.methods import SMMixStep
from dali_mix.smmix import SMMix
from dali_mix.tools.export import main as export
from dali_mix.train.weights import export_to_hub_folder, load_weights, save_weights

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
    method = SMMixStep(model, 10)
    load_weights(model, tmp_path / "authors.pth", [method])
    assert_loaded(model, source)
    assert method.stage.token_head.weight.eq(1).all()
    caplog.set_level(logging.INFO, "dali_mix")
    load_weights(model, tmp_path / "authors.pth")
    assert "its token head is left out" in caplog.text
    torch.save({"model": source.state_dict() | {"token_head.weight": torch.ones(7, 16)}}, tmp_path / "other.pth")
    load_weights(model, tmp_path / "other.pth", [method])
    assert "its token head is for other classes" in caplog.text


def test_our_checkpoint_brings_its_token_head(tmp_path, model, source):
    state = {"state_dict": source.state_dict(), "token_head": SMMix(source, 10).token_head.state_dict()}
    torch.save(state, tmp_path / "checkpoint.pth.tar")
    method = SMMixStep(model, 10)
    load_weights(model, tmp_path / "checkpoint.pth.tar", [method])
    assert torch.equal(method.stage.token_head.weight, state["token_head"]["weight"])


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


def test_code_in_a_file_is_named_and_not_run(tmp_path, model):
    """``os.system`` as an attacker would have it; unpickled in the ordinary way it does write the file."""

    class Shell:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    torch.save({"model": model.state_dict(), "args": Shell()}, tmp_path / "file.pth")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"more than data \((posix|nt)\.system\)") as error:
        load_weights(model, tmp_path / "file.pth")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "pwned").exists()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.load(tmp_path / "file.pth", weights_only=False)
    assert (tmp_path / "pwned").exists()


def test_a_file_that_does_not_exist(tmp_path, model):
    with pytest.raises(ConfigError, match=r"cannot be read as weights: .*No such file"):
        load_weights(model, tmp_path / "none.pth")


def test_flags_beside_the_weights(tmp_path, model, source):
    """timm's trainer, DeiT's and the SMMix authors' save their ``args``."""
    args = argparse.Namespace(lr=1e-3, model=NAME)
    torch.save({"model": source.state_dict(), "args": args, "epoch": 299}, tmp_path / "authors.pth")
    load_weights(model, tmp_path / "authors.pth")
    assert_loaded(model, source)


@pytest.mark.parametrize(("key", "average"), [("state_dict", "state_dict_ema"), ("model", "model_ema")])
def test_the_average_is_loaded_only_if_asked_for(tmp_path, model, source, caplog, key, average):
    caplog.set_level(logging.INFO, "dali_mix")
    averaged = {name: value * 2 for name, value in source.state_dict().items()}
    head = {"token_head.weight": torch.ones(10, 16), "token_head.bias": torch.ones(10)}
    torch.save({key: source.state_dict(), average: averaged | head}, tmp_path / "file.pth")
    load_weights(model, tmp_path / "file.pth")
    assert_loaded(model, source)
    assert f"its weights ({key}) are loaded, not their moving average, which --use-ema takes" in caplog.text
    load_weights(model, tmp_path / "file.pth", use_ema=True)
    assert f"the moving average of its weights ({average}) is loaded" in caplog.text
    assert torch.equal(model.cls_token, source.cls_token * 2)
    assert "its moving average holds the initial weights" in caplog.text
    for name, content in (("plain.pth", {key: source.state_dict(), average: None}), ("bare.pth", source.state_dict())):
        torch.save(content, tmp_path / name)
        with pytest.raises(ConfigError, match="holds no moving average"):
            load_weights(model, tmp_path / name, use_ema=True)


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    "wrap",
    [
        compiled,
        torch.nn.DataParallel,
        lambda model: torch.nn.DataParallel(compiled(model)),
        lambda model: compiled(torch.nn.DataParallel(model)),
        ModelEmaV3,
    ],
)
def test_wrapped_models_are_saved_and_loaded_as_plain_ones(tmp_path, model, source, wrap):
    source.to(memory_format=torch.channels_last)
    save_weights(wrap(source), tmp_path / "file.safetensors")
    assert set(load_file(tmp_path / "file.safetensors")) == set(source.state_dict())
    wrapped = wrap(model)
    load_weights(wrapped, tmp_path / "file.safetensors")
    assert_loaded(unwrap_model(wrapped), source)


def test_tied_weights_are_saved(tmp_path, model, source):
    source.blocks[1].mlp.fc1.weight = source.blocks[0].mlp.fc1.weight
    save_weights(source, tmp_path / "file.safetensors")
    load_weights(model, tmp_path / "file.safetensors")
    assert_loaded(model, source)


def test_a_pvt_file_of_another_size_is_resampled_by_the_model(tmp_path):
    options = {"depths": (1, 1, 1, 1), "num_classes": 5}
    source, model, wanted = (timm.create_model("pvt_tiny", img_size=size, **options) for size in (64, 96, 96))
    torch.save({"state_dict": source.state_dict()}, tmp_path / "pvt_tiny.pth")
    wanted.load_state_dict(source.state_dict())
    load_weights(model, tmp_path / "pvt_tiny.pth")
    assert_loaded(model, wanted)
    torch.save(source.state_dict() | {"norm.bias": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match=r"of another shape: norm\.bias$"):
        load_weights(model, tmp_path / "other.pth")
    assert_loaded(model, wanted)


def test_a_model_without_classes_takes_no_classifier(tmp_path, source):
    save_weights(source, tmp_path / "file.safetensors")
    model = tiny(num_classes=0)
    load_weights(model, tmp_path / "file.safetensors")
    assert_loaded(model, source)


def test_a_distilled_model_has_two_classifiers(tmp_path, caplog):
    source, model = (timm.create_model("deit_tiny_distilled_patch16_224", num_classes=k, **TINY) for k in (3, 10))
    save_weights(source, tmp_path / "file.safetensors")
    caplog.set_level(logging.INFO, "dali_mix")
    load_weights(model, tmp_path / "file.safetensors")
    assert torch.equal(model.dist_token, source.dist_token)
    assert len(caplog.records) == 1


def test_names_of_a_models_first_authors(tmp_path):
    """timm renames them: ConvNeXt's "downsample_layers.0.0" is its "stem.0"."""
    source, model = (timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)) for _ in range(2))
    state = {name: value for name, value in source.state_dict().items() if not name.startswith(("stem.", "head."))}
    state |= {f"downsample_layers.0.{name[5:]}": v for name, v in source.state_dict().items() if name[:5] == "stem."}
    state |= {name.replace("head.fc.", "head."): v for name, v in source.state_dict().items() if "head.fc." in name}
    state |= {name.replace("head.norm.", "norm."): v for name, v in source.state_dict().items() if "head.norm" in name}
    torch.save({"model": state}, tmp_path / "authors.pth")
    load_weights(model, tmp_path / "authors.pth")
    assert_loaded(model, source)


@pytest.mark.parametrize("classes", [None, [f"class {k}" for k in range(10)]])
def test_a_hub_folder_gives_the_same_model(tmp_path, source, classes):
    source.to(memory_format=torch.channels_last).eval()
    (tmp_path / "hub.tmp").mkdir()
    config = resolve_input_data_config(source, {"crop_pct": 1.0, "mean": (0.1, 0.2, 0.3)})
    folder = tmp_path / "hub"
    export_to_hub_folder(torch.compile(source), folder, model_name=NAME, classes=classes, config=config)
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub", "hub.tmp"]  # nothing is removed or left over
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), source(images))
    assert model.pretrained_cfg["mean"] == [0.1, 0.2, 0.3]
    assert json.loads((folder / "config.json").read_text()).get("label_names") == classes
    with pytest.raises(ConfigError, match="is in use"):
        export_to_hub_folder(source, folder, model_name=NAME, classes=None, config=config)
    with pytest.raises(ConfigError, match="1 names of classes, the model has 10"):
        export_to_hub_folder(source, tmp_path / "new", model_name=NAME, classes=["a"], config=config)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        export_to_hub_folder(source, tmp_path / "file" / "new", model_name=NAME, classes=None, config=config)


def test_a_run_on_lost_pretrained_weights_is_exported(tmp_path, source):
    """The weights are the run's own; it needs neither what it began with, nor names of classes."""
    run = tmp_path / "run"
    run.mkdir()
    save_weights(source, run / "model.safetensors")
    settings = {"model": NAME, "model_kwargs": TINY, "num_classes": 10, "pretrained_path": "/gone.pth", "bn_eps": 0.5}
    (run / "args.yaml").write_text(yaml.safe_dump(settings))
    assert export([str(run), str(tmp_path / "out")]) == 0
    images = torch.randn(2, 3, 32, 32)
    exported = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    assert torch.equal(exported(images), source.eval()(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "resnet18", "bn_eps": 0.5}, "was trained with --bn-eps 0.5"),
        ({"model": None}, "needs a model"),
        ({"model": NAME, "model_kwargs": 3}, "model_kwargs by name"),
    ],
)
def test_a_run_that_cannot_be_exported(tmp_path, capsys, settings, message):
    (tmp_path / "model.safetensors").write_text("x")
    (tmp_path / "args.yaml").write_text(yaml.safe_dump({"num_classes": 10} | settings))
    with pytest.raises(SystemExit) as exit_:
        export([str(tmp_path), str(tmp_path / "out")])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
