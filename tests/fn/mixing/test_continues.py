"""Runs of earlier versions continue exactly: neither the streams nor the names of operators have changed.

DALI takes a checkpoint only of a graph whose operators have the same names, which count them in the order in which they
are made.  ``checkpoints.npz`` was written by :func:`write` before methods were values, by both implementations.
"""

from pathlib import Path

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def

from dali_mix import fn as mix

FILE = Path(__file__).with_name("checkpoints.npz")
BEFORE, AFTER = 3, 8
CHOICES = {"cutmix": 0.4, "mixup": 0.4, "smmix": 0.1}
GRAPHS = {
    "batch": {"choices": CHOICES, "branch_seed": 7},
    "pairs": {"choices": CHOICES, "mode": "pair", "pairing": "flip", "minmax": (0.2, 0.7), "image_size": (12, 10)},
    "elem": {"choices": {"cutmix": 0.5, "mixup": 0.5}, "mode": "elem", "smoothing": 0.1},
}


def make_pipeline(name, checkpoint=None):
    @pipeline_def(batch_size=6, num_threads=1, device_id=None, seed=3, enable_checkpointing=True, checkpoint=checkpoint)
    def host():
        images = fn.random.uniform(range=[0.0, 255.0], shape=[12, 10, 3], name="images")
        labels = fn.batch_permutation(name="labels")
        return tuple(mix.random_mix(images, labels, num_classes=8, seed=5, **GRAPHS[name]))

    pipeline = host()
    pipeline.build()
    return pipeline


def run(pipeline, iterations):
    """Targets, branches, and the sums of the images, of many batches."""
    batches = [[np.array(output.as_tensor()) for output in pipeline.run()] for _ in range(iterations)]
    images, targets, _, branch = (np.stack(outputs) for outputs in zip(*batches, strict=True))
    return targets, branch, images.sum((2, 3, 4), dtype=np.float64)


def write(path, implementation):
    """The checkpoints of one implementation, and what follows."""
    arrays = {}
    for name in GRAPHS:
        pipeline = make_pipeline(name)
        run(pipeline, BEFORE)
        checkpoint = pipeline.checkpoint()
        arrays |= {f"{implementation}_{name}_checkpoint": np.frombuffer(checkpoint, np.uint8)}
        for key, values in zip(("targets", "branch", "sums"), run(pipeline, AFTER), strict=True):
            arrays[f"{implementation}_{name}_{key}"] = values
    held = dict(np.load(path)) if path.exists() else {}
    np.savez_compressed(path, **held | arrays)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_checkpoint_of_an_earlier_version_continues_exactly(name, implementation):
    saved = {key: values for key, values in np.load(FILE).items() if key.startswith(f"{implementation}_{name}_")}
    checkpoint, targets, branch, sums = saved.values()
    continued = run(make_pipeline(name, checkpoint.tobytes()), AFTER)
    np.testing.assert_array_equal(continued[1], branch)
    np.testing.assert_allclose(continued[0], targets, atol=1e-6)
    np.testing.assert_allclose(continued[2], sums, rtol=1e-5)
