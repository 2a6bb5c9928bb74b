"""What the native operators refuse in words, refused here by an operator that stops the pipeline.

DALI's graph has no operator that says why, but its traceback shows the names of these functions;
``dali_mix.loading.dali_errors`` knows what they mean.  Each returns 0 where all is well, to be added to what is
checked.
"""

from __future__ import annotations

import numpy as np
from nvidia.dali import fn, types

from dali_mix.fn.graph import Node

_MOST_CHANNELS = 4
_FRACTION, _INTEGER, _INT8 = 300.25, 300.0, 127.0
"""A number that no integer type holds, and what becomes of it in those that are no bytes."""


def labels_must_be_integers(labels: Node, like: Node) -> Node:
    """int32 (1,): stops at floats, and at bytes, which are text.

    Args:
        labels: of any type, CPU.
        like: a number for each sample, CPU: a constant would have the size of the whole batch inside an ``if``.
    """
    probe = fn.cast(fn.cast_like(fn.reshape(like, shape=[1]) * 0.0 + _FRACTION, labels), dtype=types.FLOAT)
    wrong = fn.cast(probe != _INTEGER, dtype=types.INT32) * fn.cast(probe != _INT8, dtype=types.INT32)
    return fn.slice(wrong, start=wrong, shape=[1], axes=[0], out_of_bounds_policy="error") * 0


def labels_must_be_one_number_each(labels: Node) -> Node:
    """The labels as (1,): stops at one-hot rows and other lists."""
    return fn.reshape(labels, shape=[1])


def images_must_be_hwc(images: Node) -> Node:
    """int32 (1,): stops at images of other than three dimensions, and at CHW without a layout."""
    shape = images.shape(dtype=types.INT32)
    dimensions = shape.shape(dtype=types.INT32)
    # Stops, too, where there is no third dimension.
    channels = fn.slice(shape, start=[2], shape=[1], axes=[0], out_of_bounds_policy="error")
    channels_first = (channels > _MOST_CHANNELS) * (shape[0:1] <= _MOST_CHANNELS)
    wrong = fn.cast(channels_first, dtype=types.INT32) + fn.cast(dimensions != 3, dtype=types.INT32)
    return fn.slice(shape * 0, start=wrong * 4, shape=[1], axes=[0], out_of_bounds_policy="error")


def image_size(images: Node) -> Node:
    """int32 (2,) = H, W of HWC images, in pixels; stops at others."""
    return images.shape(dtype=types.INT32)[:2] + images_must_be_hwc(images)


def images_must_have_the_image_size(images: Node, size_px: tuple[int, int]) -> Node:
    """int32 (): stops at images of another height or width."""
    shape = images.shape(dtype=types.INT32)
    wrong = fn.cast(shape[0:2] != types.Constant(np.array(size_px, np.int32)), dtype=types.INT32)
    return fn.slice(
        shape * 0, start=fn.reductions.max(wrong, keep_dims=True) * 4, shape=[1], axes=[0], out_of_bounds_policy="error"
    )[0]
