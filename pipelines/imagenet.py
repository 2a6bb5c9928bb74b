"""ImageNet-style training and validation pipelines.

Training: random-crop decode, resize, augment each image, then CutMix, Mixup or neither for the whole batch, then
normalize.  Validation: resize, crop, normalize, as torchvision does on PIL images, to the pixel in place but not in
value: PIL rounds and clips between its two passes, DALI does not.  On photographs the mean difference is at most 0.2
gray levels.  With "bilinear" none is larger than one level, but at the picture's own edge, where the crop reaches it
(crop_pct 1.0): there PIL leaves out what lies outside and DALI repeats the edge, up to 15.  With "bicubic" they are up
to 18, and on black letters on white up to 20, 2 % of the values by more than one; with "lanczos" up to 31 and 37, and
5 %.  With "nearest" up to 0.3 % of the values come from the neighbor pixel.

    from dali_mix import MixLoader
    from dali_mix.data import scan_image_folder
    from pipelines.imagenet import imagenet_train

    folder = scan_image_folder("imagenet/train")
    loader = MixLoader(imagenet_train(folder, batch_size=256, choices={"cutmix": 0.5, "mixup": 0.5}))
    for images, targets, labels, branch in loader:
        ...

What all pipelines here and in ``pipelines.cifar`` take:

    data: a source (``dali_mix.sources``), or what ``open_source`` takes: a folder with one sub-folder per class, or
        "list:train.csv"; None, where allowed, makes a graph that is fed from outside, through the inputs "jpegs" and
        "labels".  Of a ``GraphReader(source)`` the graph can be serialized.
    batch_size: images per batch on this rank.
    img_size: side of the square images in pixels.
    num_classes: K; None takes the number of class folders.
    output: mean, standard deviation and type of the images.
    reading: which part of the images, in which order, on which GPU, how far ahead.
    device: "gpu" (mixed decoder and GPU operators; DALI's CPU backend where there is no GPU) or "cpu".
    num_threads: DALI's CPU threads, the decoder's too; 4 to 8 per GPU are enough.

What training pipelines take besides:

    choices: probability per batch of each method, by its name ("cutmix", "mixup", "resizemix", "smmix") or as a value,
        such as ``CutMix(alpha=0.5)``; the rest is left unmixed.
    mixing: label smoothing, and how a batch is mixed.
    seed: for crops, augmentation and mixing; ``shard_id`` is added, so that ranks differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nvidia.dali import pipeline_def
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline

from dali_mix import fn as mix
from dali_mix.data import (
    Augmentation,
    Crop,
    Mixing,
    Output,
    Reading,
    augment,
    batch_outputs,
    draw_hflip,
    feed_images,
    normalization,
    random_resized_crop,
    read_images,
    resize_center_crop,
    scheduled_size,
    select_backend,
)
from dali_mix.errors import ConfigError
from dali_mix.sources import Source, open_source
from dali_mix.sources.reading import GraphReader

_CROP, _AUGMENTATION, _MIXING, _OUTPUT, _READING = Crop(), Augmentation(), Mixing(), Output(), Reading()


def imagenet_train(
    data: Source | str | Path | None,
    *,
    batch_size: int,
    img_size: int | Callable[[int, int], int] = 224,
    num_classes: int | None = None,
    choices: Mapping[Any, float] = MappingProxyType({"cutmix": 0.5, "mixup": 0.5}),
    crop: Crop = _CROP,
    augmentation: Augmentation = _AUGMENTATION,
    mixing: Mixing = _MIXING,
    output: Output = _OUTPUT,
    reading: Reading = _READING,
    device: str = "gpu",
    num_threads: int = 4,
    seed: int = 42,
) -> Pipeline:
    """The training pipeline of one rank, for :class:`dali_mix.MixLoader` with ``last_batch="drop"``.

    Args:
        img_size: side in pixels, or a function of epoch and batch, both counted from 0, for sizes that change.
        crop: what is cut out of each image.
        augmentation: what happens to it then.
        others: see the top of this file.

    Returns:
        A pipeline, not yet built, with the outputs of ``batch_outputs``: images, targets, labels, branch.
    """
    data = _opened(data)
    source, num_classes = _source(data, num_classes, training=True, **reading.shard(), shuffle_seed=reading.branch_seed)
    backend = select_backend(device, reading.device_id)
    return _train_graph(
        source,
        img_size=_size(img_size, data, batch_size),
        crop=crop,
        decoding={"decoder": backend.decoder, "decoder_settings": reading.decoder_settings},
        augmentation=augmentation,
        mixing=mixing.arguments()
        | {"num_classes": num_classes, "choices": choices, "branch_seed": reading.branch_seed},
        output=output,
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=backend.device_id,
        prefetch_queue_depth=reading.prefetch_queue_depth,
        seed=seed + reading.shard_id,
        enable_checkpointing=True,
    )


def imagenet_val(
    data: Source | str | Path | None,
    *,
    batch_size: int,
    img_size: int = 224,
    num_classes: int | None = None,
    crop_pct: float = 0.875,
    crop_mode: str = "center",
    interpolation: str = "bicubic",
    output: Output = _OUTPUT,
    reading: Reading = _READING,
    device: str = "gpu",
    num_threads: int = 4,
) -> Pipeline:
    """The validation pipeline of one rank, for :class:`dali_mix.MixLoader` with ``last_batch="partial"``.

    Args:
        crop_pct: in (0, 1]; the shorter side is resized to ``floor(img_size / crop_pct)``.
        crop_mode: timm's "center", "squash" (both sides, without regard to the aspect ratio) or "border" (the longer
            side; what is left is filled with the mean).
        interpolation: "bicubic", "bilinear", "lanczos" or "nearest".
        others: see the top of this file.

    Returns:
        A pipeline, not yet built, with the same outputs as ``imagenet_train``; branch is always "none"
        and the targets are not smoothed.
    """
    source, num_classes = _source(_opened(data), num_classes, training=False, **reading.shard())
    backend = select_backend(device, reading.device_id)
    return _val_graph(
        source,
        img_size=img_size,
        crop={"crop_pct": crop_pct, "crop_mode": crop_mode, "mean": output.mean, "interpolation": interpolation}
        | {"decoder": backend.decoder, "decoder_settings": reading.decoder_settings},
        num_classes=num_classes,
        output=output,
        batch_size=batch_size,
        num_threads=num_threads,
        device_id=backend.device_id,
        prefetch_queue_depth=reading.prefetch_queue_depth,
        seed=0,
        enable_checkpointing=True,
    )


def _source(
    data: Source | None, num_classes: int | None, **reading: Any
) -> tuple[Callable[[], tuple[DataNode, DataNode]], int]:
    """What puts encoded images and labels into the graph, and the number of classes."""
    if data is None:
        if num_classes is None:
            raise ConfigError("without a folder the number of classes is unknown: give num_classes")
        return feed_images, num_classes
    if num_classes is not None and num_classes < len(data.classes):
        raise ConfigError(
            f"num_classes is {num_classes}, and {data.name} has {len(data.classes)} classes; give their number or more"
        )
    return partial(read_images, data, **reading), num_classes or len(data.classes)


def _opened(data: Source | str | Path | None) -> Source | None:
    """The images, listed if only their place is given."""
    return data if data is None or isinstance(data, Source) else open_source(data)


def _size(
    img_size: int | Callable[[int, int], int], data: Source | None, batch_size: int
) -> Callable[[], int | DataNode]:
    """What gives the graph its image size."""
    if not callable(img_size):
        return lambda: img_size
    if data is None or isinstance(data, GraphReader):
        raise ConfigError("an img_size that changes needs images to read: without them there are no epochs")
    return partial(scheduled_size, img_size, batch_size=batch_size)


@pipeline_def
def _train_graph(source, img_size, crop, decoding, augmentation, mixing, output):
    jpegs, labels = source()
    size = img_size()
    images = cut(jpegs, size, crop, **decoding)
    mirror = draw_hflip(augmentation)
    if mirror is None:
        colors = {"img_mean": output.mean, "img_std": output.std}
        images = augment(images, augmentation, **colors, interpolation=crop.interpolation)
    # In one pass over the batch: flip, mix, normalize.
    leaving: dict[str, Any] = {"mirror": mirror, "normalization": normalization(**output.arguments())}
    known = size if isinstance(size, int) else None
    return batch_outputs(mix.random_mix(images, labels, **mixing, image_size=known, **leaving))


@pipeline_def
def _val_graph(source, img_size, crop, num_classes, output):
    jpegs, labels = source()
    images = resize_center_crop(jpegs, img_size, **crop)
    mixing = {"num_classes": num_classes, "choices": {}}
    leaving = normalization(**output.arguments())
    return batch_outputs(mix.random_mix(images, labels, **mixing, normalization=leaving))


def cut(jpegs: DataNode, size: int | DataNode, crop: Crop, **decoding: Any) -> DataNode:
    """Decode the random crop, or the center."""
    if crop.no_aug:
        if not isinstance(size, int):
            raise ConfigError("an img_size that changes needs random crops; give one size, or a crop without no_aug")
        return resize_center_crop(jpegs, size, crop_pct=1.0, interpolation=crop.interpolation, **decoding)
    return random_resized_crop(
        jpegs, size, scale=crop.scale, ratio=crop.ratio, interpolation=crop.interpolation, **decoding
    )


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipelines.imagenet --serialize FILE``: write a graph for Triton's DALI backend or another process."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.imagenet", description="Write a graph for Triton's DALI backend or another process."
    )
    add = parser.add_argument
    add("--serialize", type=Path, required=True, metavar="FILE", help="Where to write the serialized graph.")
    add("--val", action="store_true", help="Write the validation graph instead of the training graph.")
    add("--data-dir", type=Path, metavar="DIR", help="Image folder to read, by default inputs 'jpegs' and 'labels'.")
    add("-b", "--batch-size", type=int, default=128, metavar="N", help="Largest batch.")
    add("--img-size", type=int, default=224, metavar="PX", help="Side of the images.")
    add(
        "--num-classes",
        type=int,
        metavar="K",
        help="Number of classes, by default the class folders of --data-dir, else 1000.",
    )
    add("--device", choices=("gpu", "cpu"), default="gpu", help="Backend; cpu where there is no GPU.")
    args = parser.parse_args(argv)
    build = imagenet_val if args.val else imagenet_train
    try:
        pipeline = build(
            GraphReader(open_source(args.data_dir)) if args.data_dir else None,
            batch_size=args.batch_size,
            img_size=args.img_size,
            num_classes=args.num_classes or (None if args.data_dir else 1000),
            device=args.device,
        )
        graph = pipeline.serialize()
        args.serialize.write_bytes(graph)
    except (ConfigError, ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print(f"{args.serialize}: {len(graph)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
