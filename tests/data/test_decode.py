"""Validation images against torchvision on PIL."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from dali_mix import MixLoader
from dali_mix.data import scan_image_folder
from pipelines.imagenet import imagenet_train, imagenet_val

RAW = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "device": "cpu", "num_threads": 2}


def largest_differences(folder, img_size, crop_pct, interpolation):
    pipeline = imagenet_val(
        folder, batch_size=16, img_size=img_size, crop_pct=crop_pct, interpolation=interpolation, **RAW
    )
    with MixLoader(pipeline, "partial") as loader:
        ours = torch.cat([batch.images for batch in loader]) * 255
    transform = transforms.Compose(
        [
            transforms.Resize(int(img_size / crop_pct), InterpolationMode(interpolation)),
            transforms.CenterCrop(img_size),
            transforms.PILToTensor(),
        ]
    )
    theirs = torch.stack([transform(Image.open(path).convert("RGB")) for path in folder.files])
    return (ours - theirs).abs()


@pytest.mark.parametrize(("img_size", "crop_pct"), [(48, 0.875), (49, 0.9), (64, 1.0)])
def test_bilinear_is_torchvisions_within_two_levels(image_folder, img_size, crop_pct):
    difference = largest_differences(scan_image_folder(image_folder / "val"), img_size, crop_pct, "bilinear")
    # PIL rounds between its two passes, DALI does not; the synthetic images are noisy.
    assert difference.max() < 2.01
    assert difference.mean() < 0.3


def test_bicubic_is_torchvisions_but_for_few_pixels(image_folder):
    difference = largest_differences(scan_image_folder(image_folder / "val"), 48, 0.9, "bicubic")
    assert (difference > 1.01).float().mean() < 0.01


def test_real_photographs(real_images):
    difference = largest_differences(scan_image_folder(real_images), 224, 0.875, "bilinear")
    assert difference.max() < 1.01


def test_exif_orientation_is_ignored_as_pil_does(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / "0.jpg", exif=exif, quality=95)
    assert largest_differences(scan_image_folder(tmp_path), 64, 1.0, "bilinear").max() < 1.01


def test_the_random_crop_covers_scale_and_ratio(tmp_path):
    """On an image whose red and green are its coordinates, the crop's corners can be read off."""
    y, x = np.mgrid[0:256, 0:256]
    image = np.stack([x, y, np.zeros_like(x)], -1).astype(np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(image).save(tmp_path / "a" / "0.png")
    folder = scan_image_folder(tmp_path)
    pipeline = imagenet_train(
        folder, batch_size=1, img_size=64, choices={}, scale=(0.25, 0.5), ratio=(0.5, 2.0), hflip=0.0,
        interpolation="nearest", **RAW,
    )  # fmt: skip
    areas, ratios = [], []
    with MixLoader(pipeline) as loader:
        for _ in range(200):
            (batch,) = loader
            red, green = batch.images[0, 0] * 255, batch.images[0, 1] * 255
            width, height = ((red.max() - red.min()) * 64 / 63).item(), ((green.max() - green.min()) * 64 / 63).item()
            areas.append(width * height / 256**2)
            ratios.append(width / height)
    assert 0.23 < min(areas) < 0.28
    assert 0.46 < max(areas) < 0.53
    assert 0.47 < min(ratios) < 0.65
    assert 1.6 < max(ratios) < 2.15
