"""ImageNet-style training and validation pipelines.

Training: random-crop decode, resize, flip, then CutMix, Mixup or neither for the whole batch, then
normalise.  Validation: resize, centre crop, normalise, torchvision's result within one grey level on photographs.

    from dali_mix import MixLoader
    from dali_mix.data import scan_image_folder
    from pipelines.imagenet import imagenet_train

    folder = scan_image_folder("imagenet/train")
    loader = MixLoader(imagenet_train(folder, batch_size=256, choices={"cutmix": 0.5, "mixup": 0.5}))
    for images, targets, labels, branch in loader:
        ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from dali_mix import fn as mix
from dali_mix.data import (
    ImageFolder,
    normalize,
    random_resized_crop,
    read_images,
    resize_center_crop,
    scan_image_folder,
    select_backend,
)


def imagenet_train(
    data: ImageFolder | str | Path,
    *,
    batch_size: int,
    img_size: int = 224,
    num_classes: int | None = None,
    choices: Mapping[str, float] = MappingProxyType({"cutmix": 0.5, "mixup": 0.5}),
    cutmix_alpha: float = 1.0,
    mixup_alpha: float = 0.8,
    smoothing: float = 0.1,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    hflip: float = 0.5,
    interpolation: str = "bicubic",
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
    half: bool = False,
    device: str = "gpu",
    device_id: int = 0,
    num_threads: int = 4,
    prefetch_queue_depth: int = 2,
    shard_id: int = 0,
    num_shards: int = 1,
    seed: int = 42,
    branch_seed: int = 42,
) -> Pipeline:
    """The training pipeline of one rank, for :class:`dali_mix.MixLoader` with ``last_batch="drop"``.

    Args:
        data: a folder with one sub-folder per class, or the result of scanning one.
        batch_size: images per batch on this rank.
        img_size: side of the square images in pixels.
        num_classes: K; None takes the number of class folders.
        choices: probability per batch of "cutmix", "mixup" and "smmix"; the rest is left unmixed.
        cutmix_alpha, mixup_alpha: parameters of the Beta distributions.
        smoothing: label smoothing in [0, 1].
        scale, ratio: area and aspect ratio of the random crop.
        hflip: probability of a horizontal flip.
        interpolation: "bicubic", "bilinear", "lanczos" or "nearest".
        mean, std: for images in [0, 1].
        half: float16 images instead of float32.
        device: "gpu" (mixed decoder and GPU operators; DALI's CPU backend where there is no GPU) or "cpu".
        device_id: the GPU.
        num_threads: DALI's CPU threads; 4 to 8 per GPU are enough.
        prefetch_queue_depth: batches prepared ahead.
        shard_id, num_shards: rank and world size.
        seed: for crops, flips and mixing; ``shard_id`` is added, so that ranks differ.
        branch_seed: for the shuffle and the choice of the branch; equal on all ranks.

    Returns:
        A pipeline, not yet built, with the outputs of ``random_mix``: images float (img_size, img_size, 3),
        targets float32 (K,), labels int32 (1,), branch int32 () on the CPU.
    """
    folder = data if isinstance(data, ImageFolder) else scan_image_folder(data)
    backend = select_backend(device, device_id)
    return _train_graph(
        folder,
        decoder=backend.decoder,
        img_size=img_size,
        crop={"scale": scale, "ratio": ratio, "interpolation": interpolation},
        hflip=hflip,
        mixing={
            "num_classes": num_classes or len(folder.classes),
            "choices": choices,
            "cutmix_alpha": cutmix_alpha,
            "mixup_alpha": mixup_alpha,
            "smoothing": smoothing,
            "branch_seed": branch_seed,
        },
        normalization={"mean": mean, "std": std, "half": half},
        reading={"shard_id": shard_id, "num_shards": num_shards, "shuffle_seed": branch_seed},
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=backend.device_id,
        prefetch_queue_depth=prefetch_queue_depth,
        seed=seed + shard_id,
        enable_checkpointing=True,
    )


def imagenet_val(
    data: ImageFolder | str | Path,
    *,
    batch_size: int,
    img_size: int = 224,
    num_classes: int | None = None,
    crop_pct: float = 0.875,
    interpolation: str = "bicubic",
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
    half: bool = False,
    device: str = "gpu",
    device_id: int = 0,
    num_threads: int = 4,
    prefetch_queue_depth: int = 2,
    shard_id: int = 0,
    num_shards: int = 1,
) -> Pipeline:
    """The validation pipeline of one rank, for :class:`dali_mix.MixLoader` with ``last_batch="partial"``.

    Args:
        data: a folder with one sub-folder per class, or the result of scanning one.
        crop_pct: in (0, 1]; the shorter side is resized to ``floor(img_size / crop_pct)``.
        others: see :func:`imagenet_train`.

    Returns:
        A pipeline, not yet built, with the same outputs as ``imagenet_train``; branch is always "none"
        and the targets are not smoothed.
    """
    folder = data if isinstance(data, ImageFolder) else scan_image_folder(data)
    backend = select_backend(device, device_id)
    return _val_graph(
        folder,
        decoder=backend.decoder,
        img_size=img_size,
        crop={"crop_pct": crop_pct, "interpolation": interpolation},
        num_classes=num_classes or len(folder.classes),
        normalization={"mean": mean, "std": std, "half": half},
        reading={"shard_id": shard_id, "num_shards": num_shards},
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=backend.device_id,
        prefetch_queue_depth=prefetch_queue_depth,
        seed=0,
        enable_checkpointing=True,
    )


@pipeline_def
def _train_graph(folder, decoder, img_size, crop, hflip, mixing, normalization, reading):
    jpegs, labels = read_images(folder, training=True, **reading)
    images = random_resized_crop(jpegs, img_size, decoder=decoder, **crop)
    images = fn.flip(images, horizontal=fn.random.coin_flip(probability=hflip, name="hflip"))
    mixed = mix.random_mix(images, labels, **mixing)
    return _outputs(mixed, decoder, normalization)


@pipeline_def
def _val_graph(folder, decoder, img_size, crop, num_classes, normalization, reading):
    jpegs, labels = read_images(folder, training=False, **reading)
    images = resize_center_crop(jpegs, img_size, decoder=decoder, **crop)
    mixed = mix.random_mix(images, labels, num_classes=num_classes, choices={})
    return _outputs(mixed, decoder, normalization)


def _outputs(mixed: mix.MixedBatch, decoder: str, normalization: Mapping) -> tuple[DataNode, ...]:
    images, targets, labels, branch = mixed
    images = normalize(images, **normalization)
    labels = fn.cast(labels, dtype=types.INT64)
    if decoder == "mixed":
        targets, labels = targets.gpu(), labels.gpu()
    return images, targets, labels, branch
