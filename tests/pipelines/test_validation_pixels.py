"""What validation makes of an image, against timm's transforms on PIL images."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from timm.data import create_transform

from dali_mix import MixLoader
from dali_mix.data import Output, TolerantLoader, scan_image_folder
from dali_mix.errors import ConfigError
from pipelines.cifar import cifar_train, cifar_val
from pipelines.imagenet import imagenet_val

SIZES = [(500, 375), (333, 500), (97, 400), (1001, 360), (224, 224), (61, 33)]
MEAN = (0.25, 0.5, 0.75)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Smooth colors in several shapes, and a page of text; PNG, so that no decoder counts."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "smooth" / "c").mkdir(parents=True)
    (folder / "text" / "c").mkdir(parents=True)
    for index, size in enumerate(SIZES):
        bands = [Image.radial_gradient("L"), Image.linear_gradient("L"), Image.linear_gradient("L").rotate(90)]
        Image.merge("RGB", bands).resize(size, Image.Resampling.BICUBIC).save(folder / f"smooth/c/{index}.png")
    page = Image.new("RGB", (500, 375), "white")
    for y in range(10, 360, 22):
        ImageDraw.Draw(page).text((10, y), "white paper and black letters, as in a screenshot " * 2, fill="black")
    page.save(folder / "text/c/x.png")
    return folder


def differences(folder, **options):
    """To timm's pixels, in gray levels."""
    options = {"crop_pct": 0.875, "interpolation": "bicubic"} | options
    color = {"mean": options.pop("mean", (0, 0, 0)), "std": (1, 1, 1)}
    build = imagenet_val(
        folder, batch_size=8, img_size=64, device="cpu", num_threads=1, output=Output(**color), **options
    )
    with MixLoader(build, last_batch="partial") as loader:
        ours = next(iter(loader)).images
    theirs = create_transform((3, 64, 64), **options, **color)
    expected = torch.stack([theirs(Image.open(path)) for path in sorted(folder.glob("*/*.png"))])
    return ((ours - expected) * 255).abs().round()


@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_every_crop_mode_is_timms(pictures, crop_mode, crop_pct):
    found = differences(
        pictures / "smooth", crop_mode=crop_mode, crop_pct=crop_pct, interpolation="bilinear", mean=MEAN
    )
    assert found.max() <= 2  # a row too far would be 4 and more
    assert found.mean() < 0.5


def test_a_crop_mode_that_does_not_exist(pictures):
    with pytest.raises(ConfigError, match="crop_mode must be one of center, squash, border, got 'rrc'"):
        imagenet_val(pictures / "smooth", batch_size=8, crop_mode="rrc", device="cpu").build()


@pytest.mark.parametrize(
    ("interpolation", "largest", "share"), [("bilinear", 1, 0.0), ("bicubic", 20, 0.05), ("lanczos", 40, 0.1)]
)
def test_how_far_a_page_of_text_is_from_pils(pictures, interpolation, largest, share):
    """PIL rounds and clips between its two passes, DALI does not."""
    found = differences(pictures / "text", interpolation=interpolation)
    assert found.max() <= largest
    assert (found > 1).float().mean() <= share
    assert found.mean() < 1


def test_bilinear_is_another_only_at_the_pictures_own_edge(tmp_path):
    """There PIL leaves out what lies outside, and DALI repeats the edge."""
    (tmp_path / "c").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "c" / "x.png")
    assert differences(tmp_path, interpolation="bilinear").max() <= 1
    found = differences(tmp_path, interpolation="bilinear", crop_pct=1.0)
    assert found[..., 1:-1, :].max() <= 1
    assert found[..., [0, -1], :].max() <= 60  # of noise; 15 of photographs


def folder_of(path, *sizes):
    for index, size in enumerate(sizes):
        for name in "ab":
            (path / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, (9, 99, 199)).save(path / name / f"{index:03}.png")
    return path


@pytest.mark.parametrize("build", [cifar_train, cifar_val])
def test_images_of_another_size_are_refused_before_anything_is_read(tmp_path, build):
    folder = folder_of(tmp_path, (32, 32), (32, 32))
    with pytest.raises(ConfigError, match=r"has 32 x 32 pixels, not the 96 x 96 .*--img-size 32"):
        build(folder, batch_size=2, img_size=96, device="cpu")


@pytest.mark.parametrize("build", [cifar_train, cifar_val])
def test_one_image_of_another_size_stops_the_pipeline(tmp_path, build, monkeypatch):
    """16 x 64 has as many pixels; only the first file is looked at before."""
    monkeypatch.setattr("pipelines.cifar._LOOKED_AT", 1)
    folder = folder_of(tmp_path, (32, 32), (64, 16))
    with (
        MixLoader(build(folder, batch_size=4, img_size=32, device="cpu", num_threads=1)) as loader,
        pytest.raises(Exception, match="an image has another size than img_size, and this pipeline does not resize"),
    ):
        next(iter(loader))


@pytest.mark.parametrize(("build", "last_batch"), [(cifar_train, "drop"), (cifar_val, "partial")])
def test_a_file_that_is_no_image_is_replaced_and_not_taken_for_one_of_another_size(tmp_path, build, last_batch):
    folder = scan_image_folder(folder_of(tmp_path, (32, 32), (32, 32), (32, 32)))
    bad = tmp_path / "a" / "001.png"
    bad.write_bytes(b"this is no image, but as long as the header of one")
    graph = partial(build, batch_size=2, img_size=32, device="cpu", num_threads=1)
    with TolerantLoader(graph, folder, last_batch) as loader:
        assert len(list(loader)) == 3
        assert [image.path for image in loader.bad_images] == [str(bad)]
