"""Distributions of what is drawn.  Every tolerance states its n and the number of standard errors it stands for."""

import numpy as np
import pytest

from dali_mix import fn as mix
from tests.graphs import images_of, run_graph

SIDE = 96
N = 12_800


@pytest.fixture(scope="module")
def boxes():
    """N boxes of alpha 1, one per sample."""

    def graph(images, labels):
        return (mix.draw_cutmix(images, mode="elem").box,)

    return np.concatenate([run[0] for run in run_graph(graph, images_of(256, SIDE, SIDE), iterations=N // 256)])


@pytest.fixture(scope="module")
def real_valued():
    """A million boxes (y1, x1, y2, x2) in shares of the image, straight from the paper's section 3.1."""
    rng = np.random.default_rng(0)
    side = np.sqrt(1 - rng.beta(1, 1, 1_000_000))[:, None]
    center = rng.uniform(size=(1_000_000, 2))
    return np.clip(np.concatenate([center - side / 2, center + side / 2], 1), 0, 1)


def area_of(boxes):
    y1, x1, y2, x2 = boxes.T
    return (y2 - y1) * (x2 - x1)


def test_the_mean_area_is_the_integral(boxes, real_valued):
    """E[area] = 1/2 - 1/5 + 1/48 for alpha 1; the standard deviation is 0.23, so 0.0103 is five standard errors."""
    expected = 1 / 2 - 1 / 5 + 1 / 48
    assert area_of(real_valued).mean() == pytest.approx(expected, abs=0.0012)
    assert area_of(boxes / SIDE).mean() == pytest.approx(expected, abs=0.0103)


def test_the_areas_quantiles(boxes, real_valued):
    """Kolmogorov-Smirnov: 1.95 / sqrt(n) = 0.0172 is exceeded by chance once in a thousand."""
    ours, theirs = np.sort(area_of(boxes / SIDE)), area_of(real_valued)
    for quantile in np.linspace(0.05, 0.95, 19):
        assert np.searchsorted(ours, np.quantile(theirs, quantile)) / N == pytest.approx(quantile, abs=0.0172)


@pytest.mark.parametrize("place", [(0.5, 0.5), (0.01, 0.01), (0.01, 0.99), (0.5, 0.01), (0.25, 0.75)])
def test_how_often_a_pixel_is_covered(boxes, real_valued, place):
    """The center far more often than a corner; five standard errors are at most 0.0221."""

    def coverage(of):
        y1, x1, y2, x2 = of.T
        return ((y1 <= place[0]) & (place[0] < y2) & (x1 <= place[1]) & (place[1] < x2)).mean()

    pixel = (np.floor(np.array(place) * SIDE) + 0.5) / SIDE
    y1, x1, y2, x2 = boxes.T / SIDE
    ours = ((y1 <= pixel[0]) & (pixel[0] < y2) & (x1 <= pixel[1]) & (pixel[1] < x2)).mean()
    assert ours == pytest.approx(coverage(real_valued), abs=0.0221)


def test_every_partner_is_equally_likely():
    """2,000 permutations of 5: each of the other four is expected 500 times; 97 is five standard errors."""

    def graph(images, labels):
        return (mix.draw_mixup(images).partner,)

    partners = np.stack([run[0] for run in run_graph(graph, images_of(5, 4, 4), iterations=2000)])
    for own in range(5):
        counts = np.bincount(partners[:, own], minlength=5)
        assert counts[own] == 0
        np.testing.assert_allclose(np.delete(counts, own), 500, atol=97)


def test_boxes_and_mixup_weights_do_not_correlate():
    """Two operators with one seed draw from streams of their own; five standard errors at n = 3,200 are 0.09."""

    def graph(images, labels):
        cut, blend = (
            mix.draw_cutmix(images, mode="elem", seed=3),
            mix.draw_mixup(images, mode="elem", alpha=1.0, seed=3),
        )
        return cut.lam, blend.lam

    runs = run_graph(graph, images_of(64, SIDE, SIDE), iterations=50)
    cut, blend = (np.concatenate([run[index] for run in runs]) for index in range(2))
    assert abs(np.corrcoef(cut, blend)[0, 1]) < 0.09
