import json

import pytest
import timm
import torch

from dali_mix.tools.export import main
from tests.train.conftest import train  # noqa: F401


def test_an_exported_run_is_the_same_model_in_plain_timm(train, tmp_path):  # noqa: F811
    train("--experiment", "run", "--model-ema", "--epochs", 1)
    for flags, name in (([], "model"), (["--ema"], "model_ema")):
        out = tmp_path / f"hub-{name}"
        assert main([str(tmp_path / "run"), str(out), *flags]) == 0
        exported = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
        own = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=10,
            checkpoint_path=str(tmp_path / "run" / f"{name}.safetensors"),
        ).eval()  # fmt: skip
        images = torch.randn(2, 3, 32, 32)
        assert torch.equal(exported(images), own(images))
        config = json.loads((out / "config.json").read_text())
        assert config["label_names"] == (tmp_path / "run" / "classes.txt").read_text().split()
        assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
        assert config["pretrained_cfg"]["crop_pct"] == 1.0


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "does not exist; give the folder of a finished run"),
        ({"model.safetensors": "x"}, "args.yaml cannot be read"),
        ({"model.safetensors": "x", "args.yaml": "a: 1"}, "names no num_classes"),
        ({"model.safetensors": "x", "args.yaml": "a: " + "[" * 5000}, "args.yaml is not YAML"),
        ({"model.safetensors": "x", "args.yaml": "a: !!int ''"}, "args.yaml is not YAML"),
    ],
)
def test_what_cannot_be_exported_is_one_line(tmp_path, capsys, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path), str(tmp_path / "out")])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_folder_in_use_is_left_alone(tmp_path, capsys):
    (tmp_path / "model.safetensors").write_text("x")
    with pytest.raises(SystemExit):
        main([str(tmp_path), str(tmp_path)])
    assert "is in use; give a new folder" in capsys.readouterr().err
