"""The smallest change that brings CutMix into a DALI ResNet-50 pipeline.

The pipeline has the steps of the one in DALI's documentation (its PyTorch ResNet-50 example): file reader, random-crop
decoder, resize, coin for the mirror, ``crop_mirror_normalize``.  What CutMix adds is marked with ``# +``, what it
changes with ``# ~``: import, one line before the normalization, and the targets among the outputs.  The mirror moves
before the mixing, so that it turns one image and not the mixture.
"""

from __future__ import annotations

from nvidia.dali import fn, pipeline_def, types

from dali_mix import fn as mix  # +


@pipeline_def
def resnet50_train(data_dir, crop=224, num_classes=1000, device="gpu", shard_id=0, num_shards=1):
    """Images float32 (3, crop, crop) and targets float32 (num_classes,).

    Args:
        data_dir: a folder with one sub-folder per class.
        crop: side of the output in pixels.
        num_classes: K.
        device: "gpu" or "cpu", as in DALI's example.
        shard_id, num_shards: rank and world size.
    """
    jpegs, labels = fn.readers.file(
        file_root=data_dir,
        shard_id=shard_id,
        num_shards=num_shards,
        random_shuffle=True,
        pad_last_batch=True,
        name="Reader",
    )
    images = fn.decoders.image_random_crop(
        jpegs,
        device="mixed" if device == "gpu" else "cpu",
        output_type=types.RGB,
        random_aspect_ratio=[0.8, 1.25],
        random_area=[0.1, 1.0],
        num_attempts=100,
    )
    images = fn.resize(images, resize_x=crop, resize_y=crop, interp_type=types.INTERP_TRIANGULAR)  # type: ignore[assignment]
    images = fn.flip(images, horizontal=fn.random.coin_flip(probability=0.5))  # ~ was mirror= of the next-but-one line
    images, targets = mix.cutmix(images, labels, num_classes=num_classes)  # +
    images = fn.crop_mirror_normalize(
        images,
        dtype=types.FLOAT,
        output_layout="CHW",
        crop=(crop, crop),
        mean=[0.485 * 255, 0.456 * 255, 0.406 * 255],
        std=[0.229 * 255, 0.224 * 255, 0.225 * 255],
    )
    if device == "gpu":
        targets = targets.gpu()  # ~ was labels
    return images, targets  # ~ was labels
