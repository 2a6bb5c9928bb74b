"""Given the same parameters, both implementations make the same batch."""

import numpy as np
import pytest

from dali_mix import fn as mix
from dali_mix import native
from tests.graphs import images_of, run_graph
from tests.native.test_pixels import fed


def mixed_by(mode, apply, images, partner, box, lam):
    def graph(image_node, labels):
        params = mix.MixParams(fed(partner), fed(box), fed(lam))
        return apply(image_node, params), mix.soft_targets(labels, params, num_classes=len(images), smoothing=0.1)

    with native.using(mode):
        return run_graph(graph, images)[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [(1, 1), (6, 31), (40, 24)])
@pytest.mark.parametrize("apply", [mix.apply_cutmix, mix.apply_mixup])
def test_pixels_and_targets_agree(dtype, size, apply):
    """CutMix to the bit; Mixup but for the rounding of one number."""
    rng = np.random.default_rng(size)
    images = images_of(7, *size, dtype=dtype)
    partner = rng.integers(0, 7, 7).astype(np.int32)
    edges = [np.sort(rng.integers(0, side + 1, (7, 2)), -1) for side in size]
    box = np.stack([edges[0][:, 0], edges[1][:, 0], edges[0][:, 1], edges[1][:, 1]], 1).astype(np.int32)
    lam = rng.random(7).astype(np.float32)
    one, other = (mixed_by(mode, apply, images, partner, box, lam) for mode in ("on", "off"))
    difference = np.abs(one[0].astype(float) - other[0].astype(float))
    # Two roundings of one number differ by a level at most, and only where it lies half between two.
    assert difference.max() <= (0 if apply is mix.apply_cutmix else 1 if dtype == np.uint8 else 1e-3)
    assert (difference > 1e-3).mean() < 0.001
    np.testing.assert_allclose(one[1], other[1], atol=1e-6)
