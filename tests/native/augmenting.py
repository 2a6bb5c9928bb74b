"""Steps of the native augmentation: drawn, written by hand, and applied."""

from functools import cache

import numpy as np
from nvidia.dali import fn, pipeline_def, types

GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")
FILTERS = ("nearest", "bilinear", "bicubic")
"""In the order of their numbers, the third of a step."""


def planner(batch, *, seed=5, pipeline=None, **options):
    """A built pipeline of ``augment_plan`` alone."""

    @pipeline_def(batch_size=batch, num_threads=1, device_id=None)
    def host():
        samples = types.Constant(0, device="cpu")
        return fn.dali_mix.augment_plan(samples, seed=seed, **options)

    built = host(**(pipeline or {}))
    built.build()
    return built


def plan(batch, iterations=1, **options):
    """What is drawn for ``batch * iterations`` images: (N, S, 4)."""
    pipeline = planner(batch, **options)
    return np.concatenate([pipeline.run()[0].as_array() for _ in range(iterations)])


def applied(images, steps, *, threads=2, layout="HWC", dtype=types.FLOAT64, **options):
    """The images, each after its steps."""
    steps = [np.atleast_2d(rows) for rows in steps]

    @pipeline_def(batch_size=max(1, len(images)), num_threads=threads, device_id=None)
    def host():
        nodes = fn.external_source(source=lambda: list(images), layout=layout)
        rows = fn.external_source(source=lambda: steps, ndim=2, dtype=dtype)
        return fn.dali_mix.augment(nodes, rows, **options)

    pipeline = host()
    pipeline.build()
    (output,) = pipeline.run()
    return [np.asarray(sample) for sample in output]


@cache
def code(name):
    """The number of an operation, told by what is drawn."""
    chances = {"Flip": {"hflip": 1.0}, "Hue": {"jitter": [0.0, 0.0, 0.0, 0.5]}, "Gaussian": {"blur": 1.0},
               "Erase": {"erasing": 1.0}}  # fmt: skip
    one = {"operations": [name], "probs": [1.0], "magnitudes": [5.0], "draws": 1}
    return plan(1, **chances.get(name, one))[0, 0, 0]


def step(name, argument=0.0, option=0.0, extra=0.0):
    return np.array([code(name), argument, option, extra], np.float64)
