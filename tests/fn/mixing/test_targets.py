import numpy as np
import pytest

from dali_mix import fn as mix
from tests import oracle
from tests.graphs import images_of, run_graph


def targets_of(num_classes, smoothing):
    def graph(images, labels):
        params = mix.draw_mixup(images, mode="elem")
        return mix.soft_targets(labels, params, num_classes=num_classes, smoothing=smoothing), *params

    return graph


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(6,), (6, 1)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_weights_own_and_partner(smoothing, shape, dtype):
    labels = np.array([3, 0, 9, 3, 5, 1], dtype).reshape(shape)
    for targets, partner, _, lam in run_graph(targets_of(10, smoothing), images_of(6), labels, iterations=4):
        np.testing.assert_allclose(targets, oracle.soft_targets(labels, partner, lam, 10, smoothing), atol=1e-6)
        assert targets.dtype == np.float32


@pytest.mark.parametrize("label", [-1, 10, 3000])
def test_a_label_outside_the_classes_raises(label):
    with pytest.raises(RuntimeError, match="soft_targets"):
        run_graph(targets_of(10, 0.0), images_of(2), np.array([0, label], np.int32))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 0.0), ValueError, "num_classes must be >= 1"),
        ((10, 1.1), ValueError, "smoothing"),
        ((2.0, 0), TypeError, "integer"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        run_graph(targets_of(*arguments), images_of(2))


@pytest.mark.parametrize("operator", [mix.cutmix, mix.mixup])
def test_one_liners_return_images_and_targets(operator):
    images = images_of(4)
    (mixed, targets), *_ = run_graph(lambda x, y: operator(x, y, num_classes=4, smoothing=0.1), images)
    assert mixed.shape == images.shape
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
