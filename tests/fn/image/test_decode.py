"""Validation images against torchvision on PIL; what the graph asks of DALI's decoders; the limit on the size."""

import logging
from functools import partial

import numpy as np
import pytest
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from dali_mix import MixLoader
from dali_mix.data import (
    Augmentation,
    Crop,
    DecoderSettings,
    Output,
    Reading,
    TolerantLoader,
    decode_images,
    random_resized_crop,
    resize_center_crop,
    scan_image_folder,
)
from dali_mix.errors import ConfigError, DataError
from dali_mix.fn.image import memory
from dali_mix.fn.image.decode import MAX_IMAGE_PIXELS, _limit_size
from pipelines.cifar import cifar_train, cifar_val
from pipelines.imagenet import imagenet_train, imagenet_val
from tests.graphs import images_of

RAW = {"output": Output(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), "device": "cpu", "num_threads": 2}


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
        folder, batch_size=1, img_size=64, choices={}, augmentation=Augmentation(hflip=0.0),
        crop=Crop(scale=(0.25, 0.5), ratio=(0.5, 2.0), interpolation="nearest"), **RAW,
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


def decoder_arguments(decode, decoder, **options):
    """The arguments of the decoder in a graph, as DALI prints them: that graph needs no GPU until it is built."""
    pipeline = Pipeline(batch_size=4, num_threads=2, device_id=None)
    with pipeline:
        jpegs = fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1)
        pipeline.set_outputs(decode(jpegs, decoder=decoder, **options))
    pipeline.serialize()
    (spec,) = (str(op.spec) for op in pipeline._ops if str(op.spec).startswith("OpSpec for decoders__"))
    lines = spec.partition("Arguments:")[2].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines) if value}


def crop_32(jpegs, **options):
    return random_resized_crop(jpegs, 32, **options)


def center_32(jpegs, **options):
    return resize_center_crop(jpegs, 32, **options)


def test_regions_are_decoded_without_fancy_upsampling_and_whole_images_with_it():
    """With it nvJPEG before 13.2 decodes no region, and every training image would fall back to the CPU."""
    crop = decoder_arguments(crop_32, "mixed")
    assert crop["_display_name"] == "image_random_crop"
    assert "jpeg_fancy_upsampling" not in crop
    for decode in (decode_images, center_32):
        whole = decoder_arguments(decode, "mixed")
        assert (whole["_display_name"], whole["jpeg_fancy_upsampling"]) == ("image", "True")
        assert "jpeg_fancy_upsampling" not in decoder_arguments(decode, "cpu")


SETTINGS = DecoderSettings(0.25, 5980, 6430, 1 << 28, 1 << 27)


@pytest.mark.parametrize("decode", [decode_images, crop_32, center_32])
def test_settings_reach_the_mixed_decoder(decode):
    given = decoder_arguments(decode, "mixed", decoder_settings=SETTINGS)
    assert float(given["hw_decoder_load"]) == 0.25
    own = {name: int(given[name]) for name in SETTINGS.given() if name != "hw_decoder_load"}
    assert own == {name: value for name, value in SETTINGS.given().items() if name != "hw_decoder_load"}
    assert not SETTINGS.given().keys() & decoder_arguments(decode, "mixed").keys()  # DALI's defaults
    partly = decoder_arguments(decode, "mixed", decoder_settings=DecoderSettings(hw_decoder_load=0))
    assert SETTINGS.given().keys() & partly.keys() == {"hw_decoder_load"}


@pytest.mark.parametrize("build", [imagenet_train, imagenet_val, cifar_train, cifar_val])
def test_a_pipeline_hands_its_settings_on_and_the_cpu_decoder_says_that_it_has_none(tmp_path, caplog, build):
    settings = DecoderSettings(hw_decoder_load=0.5, host_memory_padding=len(build.__name__) + len(build.__module__))
    (tmp_path / "class").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "class" / "0.jpg")
    folder = scan_image_folder(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            build(folder, batch_size=4, device="cpu", reading=Reading(decoder_settings=settings))
            build(folder, batch_size=4, device="cpu")
    text = "images are decoded on the CPU, where hw_decoder_load, host_memory_padding has no effect"
    assert caplog.messages == [text]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hw_decoder_load": 1.5}, "hw_decoder_load must be a number in [0, 1], got 1.5"),
        ({"hw_decoder_load": float("nan")}, "hw_decoder_load must be a number in [0, 1], got nan"),
        ({"hw_decoder_load": True}, "hw_decoder_load must be a number in [0, 1], got True"),
        ({"hw_decoder_load": "all"}, "hw_decoder_load must be a number in [0, 1], got 'all'"),
        ({"preallocate_width_hint": 65536}, "preallocate_width_hint must be an integer in [0, 65535], got 65536"),
        ({"preallocate_height_hint": -1}, "preallocate_height_hint must be an integer in [0, 65535], got -1"),
        ({"device_memory_padding": 0.5}, "device_memory_padding must be an integer in [0, 1099511627776], got 0.5"),
        (
            {"host_memory_padding": 10**30},
            f"host_memory_padding must be an integer in [0, 1099511627776], got {10**30}",
        ),
    ],
)
def test_settings_that_cannot_work_are_one_line(settings, message):
    with pytest.raises(ConfigError) as error:
        DecoderSettings(**settings)
    assert str(error.value) == message


def ppm(width, height):
    return b"P6 %d %d 255\n" % (width, height) + bytes(64)


def limited(data):
    """The number of bytes that pass, beside an image of four pixels."""
    pipeline = Pipeline(batch_size=2, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        pipeline.set_outputs(_limit_size(fn.external_source(name="jpegs", dtype=types.UINT8, ndim=1), "cpu"))
    pipeline.build()
    pipeline.feed_input("jpegs", [np.frombuffer(data, np.uint8), np.frombuffer(ppm(2, 2), np.uint8)])
    return pipeline.run()[0].shape()[0][0]


@pytest.mark.parametrize("size", [(1, 1), (MAX_IMAGE_PIXELS, 1), (10, MAX_IMAGE_PIXELS // 10)])
def test_images_up_to_the_limit_pass(size, implementation):
    assert limited(ppm(*size)) == len(ppm(*size))


@pytest.mark.parametrize("size", [(MAX_IMAGE_PIXELS + 1, 1), (1 << 16, 1 << 16), (1 << 15, (1 << 17) + 1)])
def test_one_pixel_more_and_products_beyond_32_bits_do_not(size, implementation):
    message = "has more than 178956970 pixels" if implementation == "native" else "must occupy the same size in bytes"
    with pytest.raises(RuntimeError, match=message):
        limited(ppm(*size))


@pytest.mark.parametrize("implementation", ["native"], indirect=True)
def test_a_batch_that_does_not_fit_into_memory_is_one_line_before_any_is_taken(tmp_path, monkeypatch, implementation):
    """Where each image is legal; what is said names the largest, and is not that a file is bad."""
    (tmp_path / "a").mkdir()
    for name, side in (("small", 20), ("large", 40), ("middle", 30)):
        Image.new("RGB", (side, side + 1)).save(tmp_path / "a" / f"{name}.png")
    folder = scan_image_folder(tmp_path)
    monkeypatch.setattr("dali_mix.fn.image.memory.host_memory", lambda: 6 * (20 * 21 + 40 * 41 + 30 * 31))
    with MixLoader(imagenet_val(folder, batch_size=3, img_size=16, **RAW), "partial") as loader:
        assert len(next(loader).images) == 3
    monkeypatch.setattr("dali_mix.fn.image.memory.host_memory", lambda: 6 * (20 * 21 + 40 * 41 + 30 * 31) - 6)
    reported = []
    build = partial(imagenet_val, batch_size=3, img_size=16, **RAW)
    with TolerantLoader(build, folder, "partial", stand_in="left_out", on_bad_image=reported.append) as loader:
        with pytest.raises(DataError) as error:
            next(loader)
        large, middle, small = (f"{tmp_path}/a/{name}.png" for name in ("large", "middle", "small"))
        assert str(error.value) == (
            "DALI could not deliver batch 1: the 3 images of a batch do not fit into memory together: 0 megapixels, "
            f"the limit is 0; use a smaller batch, or make the largest images smaller: {large} (40 x 41), "
            f"{middle} (30 x 31), {small} (20 x 21)"
        )
        assert reported == []
    # Of a random crop, on average half of the image is decoded.
    crops = imagenet_train(folder, batch_size=3, img_size=16, crop=Crop(scale=(0.5, 0.5)), **RAW)
    with MixLoader(crops) as loader:
        assert len(next(loader).images) == 3


@pytest.mark.parametrize("implementation", ["native"], indirect=True)
def test_a_file_of_too_many_bytes_does_not_pass(monkeypatch, implementation):
    monkeypatch.setattr("dali_mix.fn.image.decode.MAX_FILE_BYTES", len(ppm(2, 2)))
    assert limited(ppm(2, 2))
    with pytest.raises(RuntimeError, match=f"a file has more than {len(ppm(2, 2))} bytes"):
        limited(ppm(2, 2) + b"\0")


def test_the_memory_is_that_of_the_control_group_and_shared_by_the_ranks(tmp_path, monkeypatch):
    (tmp_path / "cgroup").write_text("4:memory:/job\n1:cpu:/job\n0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    (tmp_path / "a" / "memory.max").write_text("600000\n")
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "cgroup")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert memory.max_batch_pixels(None) == 100_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert memory.max_batch_pixels(None, share=0.5) == 50_000
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("1200\n")
    assert memory.host_memory() == 1200
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "none")
    assert memory.host_memory() > 1 << 28


def test_files_longer_than_float32_counts_pass(implementation):
    assert limited(ppm(1, 1) + bytes((1 << 24) + 3)) == len(ppm(1, 1)) + (1 << 24) + 3


def test_both_filters_are_drawn(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(images_of(1, 16, 16)[0]).save(tmp_path / "a" / "0.png")

    def seen(interpolation, batches):
        pipeline = imagenet_train(
            tmp_path, batch_size=1, img_size=24, choices={}, augmentation=Augmentation(hflip=0.0),
            crop=Crop(scale=(1.0, 1.0), ratio=(1.0, 1.0), interpolation=interpolation), **RAW,
        )  # fmt: skip
        with MixLoader(pipeline) as loader:
            return [batch.images.numpy().tobytes() for _ in range(batches) for batch in loader]

    drawn = seen("random", 60)
    assert set(drawn) == {*seen("bilinear", 1), *seen("bicubic", 1)}
    assert 15 < drawn.count(drawn[0]) < 45
