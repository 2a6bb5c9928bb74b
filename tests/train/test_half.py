"""With ``--amp`` the images come from the pipeline in half precision."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import dali_mix.models  # noqa: F401  registers them with timm
from dali_mix.data import MixLoader
from dali_mix.smmix import SMMix
from dali_mix.train import main
from pipelines.cifar import cifar_train, cifar_val
from tests.train.conftest import FAST

SMALL = "--epochs 1 --mixup 0.8".split()


@pytest.fixture
def types(monkeypatch):
    """The types of the images that were loaded, and by which kind of loader: "drop" trains, "partial" validates."""
    seen = {}

    def load(self, original=MixLoader._advance):
        batch = original(self)
        if batch is not None:
            seen.setdefault(batch.images.dtype, set()).add(self._last_batch)
        return batch

    monkeypatch.setattr(MixLoader, "_advance", load)
    return seen


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", torch.float32),
        ("--amp", torch.float16),
        ("--amp --amp-dtype float16 --native off", torch.float16),
        ("--amp --amp-dtype bfloat16 --smmix --channels-last", torch.float16),
    ],
)
def test_training_and_validation_ask_for_what_autocast_computes_in(train, types, flags, expected):
    code, _, err = train(*SMALL, *flags.split())
    assert code == 0, err
    assert types == {expected: {"drop", "partial"}}


def test_the_cifar_pipeline_is_asked_too(train, types, small_images):
    defaults = [flag for flag in FAST if flag not in ("--crop-pct", "1.0")]
    code, _, err = train(*SMALL, "--amp", "--pipeline", "cifar", data=small_images, defaults=defaults)
    assert code == 0, err
    assert types == {torch.float16: {"drop", "partial"}}


def test_a_pipeline_that_has_no_such_parameter_is_not_asked(types, small_images, tmp_path, capfd):
    def plain_train(data, *, batch_size, device, choices, num_threads):
        return cifar_train(data, batch_size=batch_size, device=device, choices=choices, num_threads=num_threads)

    def plain_val(data, *, batch_size, device, num_threads):
        return cifar_val(data, batch_size=batch_size, device=device, num_threads=num_threads)

    defaults = [flag for flag in FAST if flag not in ("--crop-pct", "1.0")]
    argv = [*defaults, *SMALL, "--amp", "--pipeline", "plain", "--data-dir", str(small_images)]
    code = main({"plain": (plain_train, plain_val)}, [*argv, "--output", str(tmp_path)])
    assert code == 0, capfd.readouterr().err
    assert types == {torch.float32: {"drop", "partial"}}


def test_the_preview_shows_the_same_images(train, tmp_path):
    for name, flags in (("float32", ()), ("half", ("--amp",))):
        assert train(*SMALL, "--cutmix", 1, *flags, "--experiment", name)[0] == 0
    shown = [np.asarray(Image.open(tmp_path / name / "preview.png")).astype(int) for name in ("float32", "half")]
    # A level of 255 is more than eight steps of float16 apart from the next.
    assert np.abs(shown[0] - shown[1]).max() <= 2
    assert (shown[0] != shown[1]).mean() < 0.05


def test_a_bad_file_is_replaced_in_half_precision(train, types, image_folder, tmp_path):
    data = tmp_path / "data"
    for path in image_folder.glob("*/*/*.jpg"):
        copy = data / path.relative_to(image_folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.symlink_to(path)
    bad = next(data.glob("train/*/*.jpg"))
    bad.unlink()
    bad.write_bytes(b"no image")
    code, _, err = train(*SMALL, "--amp", "--max-bad-fraction", 1, data=data)
    assert code == 0, err
    assert types == {torch.float16: {"drop", "partial"}}


MODELS = {
    "a convolution that embeds patches": ("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 32, "depth": 2}),
    "a linear layer that embeds patches": (
        "naflexvit_base_patch16_gap",
        {"patch_size": 8, "embed_dim": 32, "depth": 2},
    ),
    "ResNet": ("resnet10t", {}),
    "PVT": ("pvt_v2_b0", {"depths": (1, 1, 1, 1)}),
    "CaiT": ("cait_xxs24_224", {"depth": 2, "embed_dim": 32}),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", MODELS)
def test_autocast_takes_half_images_as_it_takes_others(family, dtype):
    name, options = MODELS[family]
    size = {} if "embed_dim" not in options or "naflex" in name else {"img_size": 32}
    heads = {"num_heads": 2} if "embed_dim" in options else {}
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10, **options, **size, **heads).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", dtype):
        logits, of_half = model(images).float(), model(images.half()).float()
        of_rounded = model(images.half().float()).float()
    # Nothing but the rounding of the images themselves may differ.
    torch.testing.assert_close(of_half, of_rounded, rtol=0, atol=0)
    torch.testing.assert_close(of_half, logits, rtol=0.02, atol=0.02 * float(logits.abs().max()))


def test_smmix_makes_the_same_of_half_images():
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=10
    )
    stage = SMMix(model, 10).train()
    images, labels = torch.randn(6, 3, 32, 32).half(), torch.arange(6)
    with torch.autocast("cpu", torch.bfloat16):
        half, single = stage(images, labels, 2), stage(images.float(), labels, 2)
    assert half.images.dtype == torch.float16
    torch.testing.assert_close(half.images.float(), single.images, rtol=0, atol=0)
    torch.testing.assert_close(half.loss, single.loss, rtol=0, atol=0)
