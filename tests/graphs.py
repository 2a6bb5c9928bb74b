"""Run a graph function over given arrays and get NumPy back."""

from collections.abc import Callable, Sequence

import numpy as np
from nvidia.dali import fn, pipeline_def, types

_DALI_TYPES = {"uint8": types.UINT8, "float32": types.FLOAT, "int32": types.INT32, "int64": types.INT64}


def images_of(batch: int, height: int = 12, width: int = 17, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    """Random images (B, H, W, 3), whole numbers in 0..255 whatever the dtype."""
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3)).astype(dtype)


def run_graph(
    graph: Callable,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    iterations: int = 1,
    batch_size: int | None = None,
    seed: int = 7,
    **pipeline_options,
) -> list[list[np.ndarray]]:
    """Outputs of ``graph(images, labels)`` for each iteration, each output stacked to (B, ...)."""
    labels = np.arange(len(images), dtype=np.int32) if labels is None else labels

    @pipeline_def
    def host():
        image_node = fn.external_source(source=lambda: list(images), layout="HWC", dtype=_DALI_TYPES[images.dtype.name])
        label_node = fn.external_source(
            source=lambda: list(labels), ndim=labels.ndim - 1, dtype=_DALI_TYPES[labels.dtype.name]
        )
        return tuple(graph(image_node, label_node))

    options = {"batch_size": batch_size or len(images), "num_threads": 2, "device_id": None, "seed": seed}
    pipeline = host(**(options | pipeline_options))
    pipeline.build()
    return [[_stacked(output) for output in pipeline.run()] for _ in range(iterations)]


def _stacked(output) -> np.ndarray:
    return np.stack([np.asarray(sample) for sample in output.as_cpu()]) if len(output) else np.empty(0)


def repeated(values: Sequence[np.ndarray]) -> np.ndarray:
    """Stack the same output of many iterations: (iterations * B, ...)."""
    return np.concatenate(list(values))
