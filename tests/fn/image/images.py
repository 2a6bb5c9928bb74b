"""Images to augment, and what becomes of them."""

import numpy as np
from PIL import Image

from dali_mix import fn as mix
from tests.graphs import images_of, run_graph

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = (124, 116, 104)
"""The mean color in levels."""

RECIPE = "rand-m9-mstd0.5-inc1"
EVERYTHING = mix.Augmentation(
    vflip=0.3, color_jitter=(0.4, 0.4, 0.4, 0.1), color_jitter_prob=0.8, grayscale_prob=0.2, gaussian_blur_prob=0.5,
    aa="3a-mstd0.5", reprob=0.5, remode="pixel", recount=3,
)  # fmt: skip


def smooth_images(batch=4, height=56, width=40):
    """Images with some structure, for filters and warps."""
    coarse = images_of(batch, 7, 5, seed=3)
    return np.stack([np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BICUBIC)) for i in coarse])


def apply(operator, images, *arguments, iterations=1, pipeline=None, **options):
    """Images of all iterations from one of the operators of ``dali_mix.fn``."""

    def graph(nodes, labels):
        return (operator(nodes, *arguments, **options),)

    outputs = run_graph(graph, images, iterations=iterations, **(pipeline or {}))
    return np.concatenate([output[0] for output in outputs])


def augmented(images, augmentation, iterations=1, interpolation="random", **pipeline):
    """``mix.augment`` with ImageNet's colors."""
    colors = {"img_mean": MEAN, "img_std": STD, "interpolation": interpolation}
    return apply(mix.augment, images, augmentation, iterations=iterations, pipeline=pipeline, **colors)
