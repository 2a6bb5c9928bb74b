import numpy as np
import pytest

from dali_mix import fn as mix
from dali_mix.fn.mixing.portable.pixels import fixed_point_weights
from tests import oracle
from tests.graphs import images_of, run_graph


def draw_and_apply(**options):
    def graph(images, labels):
        params = mix.draw_mixup(images, **options)
        return mix.apply_mixup(images, params), *params

    return graph


@pytest.mark.parametrize(("mode", "pairing"), [("batch", "permutation"), ("elem", "permutation"), ("pair", "flip")])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.uint8, 0.5 + 1e-3), (np.float32, 1e-3)])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_blends_own_and_partner(mode, pairing, dtype, tolerance, batch):
    images = images_of(batch, dtype=dtype)
    for mixed, partner, box, lam in run_graph(draw_and_apply(mode=mode, pairing=pairing), images, iterations=8):
        np.testing.assert_allclose(mixed.astype(float), oracle.mixup(images, partner, lam), atol=tolerance)
        assert mixed.dtype == dtype
        assert not box.any()


@pytest.mark.parametrize("size", [1, 5])
def test_takes_partial_batches(size):
    images = images_of(size)
    for mixed, partner, _, lam in run_graph(draw_and_apply(), images, batch_size=6, iterations=4):
        np.testing.assert_allclose(mixed.astype(float), oracle.mixup(images, partner, lam), atol=0.501)


def test_prob_zero_changes_nothing():
    images = images_of(4)
    (mixed, _, _, lam), *_ = run_graph(draw_and_apply(prob=0.0), images)
    np.testing.assert_array_equal(mixed, images)
    assert (lam == 1).all()


def test_alpha_is_the_betas():
    """The variance of Beta(a, a) is 1 / (4 (2a + 1)); a = 0.8 gives 0.0962."""
    draws = run_graph(draw_and_apply(mode="elem", alpha=0.8), images_of(64, 4, 4), iterations=100)
    lam = np.concatenate([run[3] for run in draws])
    # n = 6,400; both tolerances are five standard errors.
    assert lam.mean() == pytest.approx(0.5, abs=0.02)
    assert lam.var() == pytest.approx(1 / (4 * 2.6), abs=0.005)


def test_pixels_are_not_blended_in_64_bits():
    """Weights of another type than uint32 would widen every pixel, which costs half as much again."""

    def graph(images, labels):
        return fixed_point_weights(mix.draw_mixup(images, mode="elem").lam)

    ((own, other),) = run_graph(graph, images_of(8))
    assert own.dtype == other.dtype == np.uint32
    assert (own + other == 1 << 24).all()
