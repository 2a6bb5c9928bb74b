import subprocess
import sys

import numpy as np
import pytest
import torch
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from dali_mix import ConfigError, MixLoader
from dali_mix.data import Crop, Output, scan_image_folder
from pipelines import imagenet
from pipelines.cifar import cifar_train, cifar_val
from pipelines.resnet50_cutmix import resnet50_train

RAW = {"output": Output(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), "device": "cpu"}


@pytest.fixture
def small_images(tmp_path):
    """Eight PNGs of 32 px in two classes, without black pixels."""
    rng = np.random.default_rng(0)
    for index in range(8):
        path = tmp_path / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(1, 256, (32, 32, 3), np.uint8)).save(path)
    return tmp_path


def test_cifar_training_images_are_shifted_originals(small_images):
    folder = scan_image_folder(small_images)
    originals = np.stack([np.asarray(Image.open(path)) for path in folder.files])
    padded = np.pad(originals, ((0, 0), (4, 4), (4, 4), (0, 0)))
    offsets = set()
    with MixLoader(cifar_train(folder, batch_size=8, choices={}, **RAW)) as loader:
        for _ in range(30):
            (batch,) = loader
            for image in (batch.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy():
                found = [
                    (y, x)
                    for y in range(9)
                    for x in range(9)
                    for candidate in padded[:, y : y + 32, x : x + 32]
                    if np.array_equal(candidate, image) or np.array_equal(candidate[:, ::-1], image)
                ]
                assert len(found) == 1
                offsets.update(found)
    # 240 draws of 81 offsets leave one unseen with 4 % each; all rows and columns do turn up.
    assert {y for y, _ in offsets} == {x for _, x in offsets} == set(range(9))


def test_cifar_validation_images_are_the_originals(small_images):
    folder = scan_image_folder(small_images)
    with MixLoader(cifar_val(folder, batch_size=5, **RAW), "partial") as loader:
        images = torch.cat([batch.images for batch in loader]) * 255
    originals = np.stack([np.asarray(Image.open(path)) for path in folder.files])
    np.testing.assert_allclose(images.permute(0, 2, 3, 1).numpy(), originals, atol=1e-3)


def test_the_resnet50_pipeline_mixes(image_folder):
    pipeline = resnet50_train(
        str(image_folder / "train"), crop=32, num_classes=10, device="cpu", batch_size=8, num_threads=2, device_id=None
    )
    pipeline.build()
    images, targets = (torch.from_numpy(output.as_array()) for output in pipeline.run())
    assert images.shape == (8, 3, 32, 32)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


def test_sizes_that_change_need_random_crops(image_folder):
    with pytest.raises(ConfigError, match="an img_size that changes needs random crops"):
        imagenet.imagenet_train(
            image_folder / "train", batch_size=4, img_size=lambda epoch, batch: 32, crop=Crop(no_aug=True), **RAW
        )


@pytest.mark.parametrize("flags", [(), ("--val",)])
def test_a_serialized_graph_runs_on_images_fed_from_outside(tmp_path, image_folder, flags):
    """The command, then what Triton's DALI backend does with its file."""
    path = tmp_path / "graph.dali"
    command = [sys.executable, "-m", "pipelines.imagenet", "--serialize", str(path), "-b", "4", "--img-size", "32"]
    result = subprocess.run([*command, "--device", "cpu", *flags], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    pipeline = Pipeline.deserialize(filename=str(path))
    files = scan_image_folder(image_folder / "val").files[:4]
    pipeline.feed_input("jpegs", [np.fromfile(file, np.uint8) for file in files])
    pipeline.feed_input("labels", [np.array(label, np.int32) for label in range(4)])
    images, targets, labels, branch = (output.as_array() for output in pipeline.run())
    assert images.shape == (4, 32, 32, 3)
    assert targets.shape == (4, 1000)
    assert labels.tolist() == [0, 1, 2, 3]
    assert branch[0] == 0 or not flags


def test_a_graph_that_cannot_be_written_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        imagenet.main(["--serialize", str(tmp_path / "no" / "graph.dali"), "--device", "cpu"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_training_pipeline_refuses_what_it_cannot_do(image_folder):
    options = {"batch_size": 4, "device": "cpu"}
    with pytest.raises(ConfigError, match=r"scale must satisfy 0 < MIN <= MAX <= 1, got 0\.5 0\.1"):
        Crop(scale=(0.5, 0.1))
    with pytest.raises(ConfigError, match="random, got 'box'"):
        imagenet.imagenet_train(image_folder / "train", crop=Crop(interpolation="box"), **options)
