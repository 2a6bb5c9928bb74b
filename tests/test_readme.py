"""The README's code runs as it stands, but for sizes and the device."""

import re
from pathlib import Path

import pytest
import timm
import torch

from dali_mix import MixLoader

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language):
    (code,) = re.findall(rf"```{language}\n(.*?)```", README, re.S)
    return code


def adapted(code, replacements):
    for old, new in replacements.items():
        assert old in code
        code = code.replace(old, new)
    return code


def test_no_placeholder_and_no_dead_link():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert len(pages) > 1
    for page in pages:
        text = page.read_text()
        assert not re.findall(r"\{[A-Z_]+\}", text)
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_smmix_loop_trains(image_folder):
    code = adapted(
        block("python"),
        {
            "imagenet/train": str(image_folder / "train"),
            "batch_size=256": 'batch_size=16, img_size=64, device="cpu"',
            '"deit_small_patch16_224",': '"deit_tiny_patch16_224", img_size=64, depth=1, num_classes=10,',
            "num_classes=1000": "num_classes=10",
            ".cuda()": "",
            '"cuda", torch.bfloat16': '"cpu", torch.bfloat16',
        },
    )
    scope = {}
    exec(code, scope)
    assert torch.isfinite(scope["loss"])
    assert scope["branch"] == "smmix"
    assert set(scope["model"].state_dict()) == set(timm.create_model("deit_tiny_patch16_224", depth=1).state_dict())


def test_the_drop_in_diff_makes_a_pipeline(image_folder):
    lines = block("diff").splitlines()
    code = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    code = adapted(
        code,
        {
            '"mixed"': '"cpu"',
            "targets.gpu()": "targets",
            "num_classes=1000": "num_classes=10",
            "size=[224, 224]": "size=[32, 32]",
        },
    )
    scope = {"MEAN": [128.0] * 3, "STD": [64.0] * 3}
    exec("from nvidia.dali import fn, pipeline_def\n" + code, scope)
    pipeline = scope["train"](str(image_folder / "train"), batch_size=4, num_threads=2, device_id=None)
    with MixLoader(pipeline) as loader:
        batch = next(iter(loader))
    assert batch.images.shape == (4, 3, 32, 32)
    assert batch.targets.sum(1).tolist() == pytest.approx([1.0] * 4)
    assert batch.branch == "cutmix"
