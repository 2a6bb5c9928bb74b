"""Any size, batch, mode and dtype: what is mixed is what the oracle mixes from the drawn parameters."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dali_mix import fn as mix
from tests import oracle
from tests.graphs import images_of, run_graph

MODES = [("batch", "permutation"), ("elem", "permutation"), ("batch", "flip"), ("elem", "flip"), ("pair", "flip")]
SETTINGS = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def cases(draw):
    size = {"batch": draw(st.integers(1, 9)), "height": draw(st.integers(1, 40)), "width": draw(st.integers(1, 40))}
    mode, pairing = draw(st.sampled_from(MODES))
    options = {"mode": mode, "pairing": pairing, "alpha": draw(st.sampled_from([0.1, 1.0, 5.0]))}
    options |= {"prob": draw(st.sampled_from([0.0, 0.5, 1.0])), "seed": draw(st.integers(0, 2**40))}
    return size, draw(st.sampled_from([np.uint8, np.float32])), options


@given(cases(), st.sampled_from([None, (0.0, 1.0), (0.3, 0.6), (1.0, 1.0)]), st.floats(0, 1))
@SETTINGS
def test_cutmix(case, minmax, smoothing):
    size, dtype, options = case
    images = images_of(**size, dtype=dtype)
    labels = np.arange(len(images), dtype=np.int32)

    def graph(image_node, label_node):
        params = mix.draw_cutmix(image_node, minmax=minmax, **options)
        targets = mix.soft_targets(label_node, params, num_classes=9, smoothing=smoothing)
        return mix.apply_cutmix(image_node, params), targets, *params

    for mixed, targets, partner, box, lam in run_graph(graph, images, labels, iterations=2):
        np.testing.assert_array_equal(mixed, oracle.cutmix(images, partner, box))
        np.testing.assert_allclose(lam, oracle.own_share(box, *images.shape[1:3]), atol=1e-6)
        np.testing.assert_allclose(targets, oracle.soft_targets(labels, partner, lam, 9, smoothing), atol=1e-6)
        assert (box[:, :2] <= box[:, 2:]).all()
        assert (box >= 0).all()
        assert (box[:, 2:] <= images.shape[1:3]).all()


@given(cases())
@SETTINGS
def test_mixup(case):
    size, dtype, options = case
    images = images_of(**size, dtype=dtype)

    def graph(image_node, label_node):
        params = mix.draw_mixup(image_node, **options)
        return mix.apply_mixup(image_node, params), *params

    for mixed, partner, _, lam in run_graph(graph, images, iterations=2):
        tolerance = 0.501 if dtype == np.uint8 else 1e-3
        np.testing.assert_allclose(mixed.astype(float), oracle.mixup(images, partner, lam), atol=tolerance)
        assert mixed.dtype == dtype
        assert ((lam >= 0) & (lam <= 1)).all()
