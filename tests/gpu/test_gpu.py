"""What only a GPU can show.  Skipped, with a reason, where there is none."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from nvidia.dali import fn, pipeline_def

from dali_mix import MixLoader
from dali_mix import fn as mix
from dali_mix.data import Augmentation, Output, scan_image_folder
from dali_mix.methods import Plain, SMMixStep
from dali_mix.smmix import max_min_mix
from dali_mix.train.checkpoint.store import CheckpointStore
from dali_mix.train.step import TrainStep
from pipelines.imagenet import imagenet_train, imagenet_val
from tests.graphs import images_of
from tests.sections import sectioned
from tests.train.recovery.runs import assert_same_result, cut_off
from tests.train.test_run import ENTRY

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def folder(image_folder):
    return scan_image_folder(image_folder / "train")


def loader_of(folder, **options):
    options = {"batch_size": 8, "img_size": 64, "num_threads": 2} | options
    return MixLoader(imagenet_train(folder, **sectioned(options)))


def mixed_on(device, operator, dtype=np.uint8):
    """Images, targets and all parameters of three batches, mixed on a device from the same draws."""
    images = images_of(6, 32, 48, dtype)

    @pipeline_def(batch_size=6, num_threads=2, device_id=0, seed=5)
    def host():
        node = fn.external_source(source=lambda: list(images), layout="HWC", dtype=mix_type(dtype))
        labels = fn.external_source(source=lambda: list(np.arange(6, dtype=np.int32)), ndim=0, dtype=mix_type(np.int32))
        if device == "gpu":
            node, labels = node.gpu(), labels.gpu()
        return tuple(operator(node, labels))

    pipeline = host()
    pipeline.build()
    return [[output.as_cpu().as_array() for output in pipeline.run()] for _ in range(3)]


def mix_type(dtype):
    from nvidia.dali.types import DALIDataType

    return {np.uint8: DALIDataType.UINT8, np.float32: DALIDataType.FLOAT, np.int32: DALIDataType.INT32}[dtype]


def cutmix(images, labels):
    params = mix.draw_cutmix(images, mode="elem")
    return mix.apply_cutmix(images, params), mix.soft_targets(labels, params, num_classes=6, smoothing=0.1), *params


def cutmix_with_empty_boxes(images, labels):
    params = mix.draw_cutmix(images, mode="elem", prob=0.5, minmax=(0.0, 0.1))
    return mix.apply_cutmix(images, params), mix.soft_targets(labels, params, num_classes=6), *params


def mixup(images, labels):
    params = mix.draw_mixup(images, mode="elem")
    return mix.apply_mixup(images, params), mix.soft_targets(labels, params, num_classes=6, smoothing=0.1), *params


def random_mix(images, labels):
    return mix.random_mix(images, labels, num_classes=6, choices={"cutmix": 0.5, "mixup": 0.5})


def resizemix(images, labels):
    return mix.random_mix(images, labels, num_classes=6, choices={mix.ResizeMix(): 0.7, "cutmix": 0.3}, mode="elem")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("operator", "tolerance"), [(cutmix, 0), (cutmix_with_empty_boxes, 0), (mixup, 1), (random_mix, 1), (resizemix, 1)]
)
def test_operators_equal_the_cpu_backend(operator, tolerance, dtype):
    """Equal draws; CutMix to the pixel, Mixup within one level of rounding, targets within 1e-6."""
    for cpu, gpu in zip(mixed_on("cpu", operator, dtype), mixed_on("gpu", operator, dtype), strict=True):
        np.testing.assert_allclose(gpu[0].astype(float), cpu[0].astype(float), atol=tolerance)
        for one, other in zip(gpu[1:], cpu[1:], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


def test_labels_on_the_gpu_are_checked_too():
    def graph(images, labels):
        params = mix.draw_mixup(images)
        return (mix.soft_targets(labels, params, num_classes=3),)

    with pytest.raises(RuntimeError, match="soft_targets"):
        mixed_on("gpu", graph)


def test_validation_images_equal_the_cpu_backend(image_folder):
    """nvJPEG is not libjpeg-turbo: mean difference below 1 level, 99 % of the pixels within 4."""
    val = scan_image_folder(image_folder / "val")
    images = []
    for device in ("gpu", "cpu"):
        pipeline = imagenet_val(
            val, batch_size=8, img_size=64, crop_pct=1.0, device=device, output=Output(mean=(0.0,) * 3, std=(1.0,) * 3)
        )
        with MixLoader(pipeline, "partial") as loader:
            images.append(torch.cat([batch.images.cpu() for batch in loader]) * 255)
    difference = (images[0] - images[1]).abs()
    assert difference.mean() < 1
    assert (difference > 4).float().mean() < 0.01


def test_batches_lie_on_the_device_without_a_copy(folder):
    """DALI's memory is not PyTorch's: a batch that was copied would appear in PyTorch's allocator."""
    with loader_of(folder, half=True) as loader:
        before = torch.cuda.memory_allocated()
        batch = next(loader)
        assert torch.cuda.memory_allocated() - before < batch.images.nbytes
    assert {tensor.device for tensor in batch[:3]} == {torch.device("cuda", 0)}
    assert batch.images.dtype == torch.float16
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_a_loop_that_is_left_is_followed_by_the_next_epoch(folder):
    """What runs of the pipeline is built anew; batches that are kept stay as they are."""
    with loader_of(folder) as loader:
        expected = [[batch.labels.tolist() for batch in loader] for _ in range(2)]
    with loader_of(folder) as loader:
        kept = next(iter(loader))
        copy = kept.images.clone()
        assert [batch.labels.tolist() for batch in loader] == expected[1]
        assert kept.labels.tolist() == expected[0][0]
        assert torch.equal(kept.images, copy)


def test_batches_are_ready_on_the_stream_that_asks(folder):
    options = {"choices": {"cutmix": 1.0}, "batch_size": 32, "img_size": 224}
    with loader_of(folder, **options) as loader:
        expected = []
        for _ in range(5):
            expected += [batch.images.double().sum().item() for batch in loader]
    side = torch.cuda.Stream()
    with loader_of(folder, **options) as loader, torch.cuda.stream(side):
        sums = []
        for _ in range(5):
            sums += [batch.images.double().sum() for batch in loader]  # no synchronization in between
        side.synchronize()
    np.testing.assert_allclose([value.item() for value in sums], expected, rtol=1e-9)


def test_max_min_mix_equals_the_cpu():
    images, attention = torch.randn(6, 3, 64, 64), torch.rand(6, 8, 8)
    for square in range(1, 9):
        mixed, mask, _ = max_min_mix(images.cuda(), attention.cuda(), square)
        expected, expected_mask, _ = max_min_mix(images, attention, square)
        assert torch.equal(mixed.cpu(), expected)
        assert torch.equal(mask.cpu(), expected_mask)


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("branch", ["cutmix", "smmix"])
def test_a_step(folder, branch, amp):
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, depth=2, num_classes=10).cuda()
    step = TrainStep(Plain(model, 10), [SMMixStep(model, 10)]).cuda().train()
    with loader_of(folder, choices={branch: 1.0}) as loader:
        batch = next(loader)
    assert batch.branch == branch
    with torch.autocast("cuda", torch.bfloat16, enabled=amp):
        losses = step(batch, 3)
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"])
    assert ("fine_grained" in losses) == (branch == "smmix")
    assert all(parameter.grad is not None for parameter in step.parameters())


AUGMENTATIONS = {
    "rand-m9-mstd0.5-inc1": Augmentation(aa="rand-m9-mstd0.5-inc1"),
    "3a": Augmentation(aa="3a", color_jitter=0.3),
    "color": Augmentation(color_jitter=(0.4, 0.4, 0.4, 0.1), grayscale_prob=0.3, gaussian_blur_prob=0.5, vflip=0.5),
    "erasing": Augmentation(reprob=1.0, remode="const", recount=2),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_equals_the_cpu_backend(folder, name):
    """The draws are made on the CPU, so they are the same; what is left is the decoder's and the filters' rounding."""
    sides = []
    for device in ("cpu", "gpu"):
        options = {
            "device": device,
            "augmentation": AUGMENTATIONS[name],
            "choices": {},
            "mean": (0,) * 3,
            "std": (1,) * 3,
        }
        with loader_of(folder, **options) as loader:
            sides.append(torch.cat([batch.images.cpu() for batch in loader]) * 255)
    difference = (sides[0] - sides[1]).abs()
    assert difference.median() <= 2
    assert difference.mean() < 6


def test_pixel_noise_is_normal(folder):
    with loader_of(folder, augmentation=Augmentation(reprob=1.0), choices={}) as loader:
        images = torch.cat([batch.images for batch in loader])
    assert torch.isfinite(images).all()


RUN = [
    *"--model vit_tiny_patch16_224 --img-size 32 --model-kwargs patch_size=8 embed_dim=16 depth=2 num_heads=2".split(),
    *"-b 10 -j 2 --epochs 2 --opt adamw --lr 1e-3 --warmup-epochs 1 --crop-pct 1.0 --smmix --mixup 0.8".split(),
]


def run(image_folder, output, *flags):
    return subprocess.run(
        [sys.executable, str(ENTRY), *RUN, *flags, "--data-dir", str(image_folder), "--output", str(output)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    "flags",
    [
        "--amp --model-ema --clip-grad 1 --grad-accum-steps 2 --aa rand-m9-mstd0.5-inc1 --reprob 0.25",
        "--amp --amp-dtype float16 --clip-grad 1 --grad-checkpointing",
        "--torchcompile --amp",
        "--model-ema --model-ema-force-cpu --synchronize-step --dali-device cpu",
    ],
)
def test_a_run_with(image_folder, tmp_path, flags):
    result = run(image_folder, tmp_path, *flags.split())
    assert result.returncode == 0, result.stderr


def test_the_same_flags_give_the_same_bits(image_folder, tmp_path):
    for name in ("first", "second"):
        result = run(image_folder, tmp_path, "--deterministic", "--experiment", name)
        assert result.returncode == 0, result.stderr
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


@pytest.mark.parametrize("precision", [(), ("--amp",), ("--amp", "--amp-dtype", "float16")])
def test_a_run_that_is_continued_gives_the_same_bits(image_folder, tmp_path, precision):
    flags = ["--deterministic", "--smmix", "--mixup", "0.8", "--drop", "0.1", "--model-ema", "--checkpoint-steps", "1"]
    flags += ["--checkpoint-hist", "100", *precision]
    result = run(image_folder, tmp_path, *flags, "--experiment", "whole")
    assert result.returncode == 0, result.stderr
    position = sorted(CheckpointStore(tmp_path / "whole" / "checkpoints").all())[2]
    cut_off(tmp_path / "whole", tmp_path / "run", position)
    result = run(image_folder, tmp_path, *flags, "--experiment", "run", "--auto-resume")
    assert result.returncode == 0, result.stderr
    assert f"checkpoint-{position.epoch}-{position.batch} exactly" in result.stderr
    assert_same_result(tmp_path / "run", tmp_path / "whole")


def test_a_bad_file_is_replaced_on_the_gpu_too(image_folder, tmp_path):
    data = shutil.copytree(image_folder, tmp_path / "data")
    bad = next((data / "train").glob("*/*.jpg"))
    bad.write_bytes(bad.read_bytes()[:300])
    result = run(data, tmp_path, "--experiment", "run")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count(f"{bad} is replaced") == 1


def test_the_demo(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ENTRY), "--demo", "--epochs", "2", "--amp"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "CPU backend" not in result.stderr
    assert (tmp_path / "output" / "demo" / "preview.png").exists()
