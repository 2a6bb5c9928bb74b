"""``fn.dali_mix.plan``: a pure function of its draws, with the distributions that it promises."""

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types

BRANCHES = {
    "methods": ["leave", "cutmix", "mixup"],
    "codes": [0, 1, 2],
    "alphas": [1.0, 1.0, 0.8],
    "ends": [0.2, 0.6, 1.0],
}
ONE = {"methods": ["mixup"], "codes": [2], "ends": [1.0]}


def plan(draws, labels=None, branch=None, batch_size=None, **options):
    """Outputs for one batch, each stacked."""
    draws = np.asarray(draws, np.float64)

    @pipeline_def(batch_size=batch_size or len(draws), num_threads=1, device_id=None)
    def host():
        inputs = [fn.external_source(source=lambda: list(draws), ndim=0, dtype=types.FLOAT64)]
        if labels is not None:
            inputs.append(fn.external_source(source=lambda: list(labels), dtype=types.to_dali_type(labels.dtype.name)))
        choice = {} if branch is None else {"branch_draw": float(branch)}
        if branch is not None:
            drawn = [np.float32(branch)] * len(draws)
            choice = {"branch_draw": fn.external_source(source=lambda: drawn, ndim=0, dtype=types.FLOAT)}
        return tuple(fn.dali_mix.plan(*inputs, image_size=[24, 32], **choice, **options))

    pipeline = host()
    pipeline.build()
    return [output.as_array() for output in pipeline.run()]


def lams(alpha, count=200, batch=256):
    """``count * batch`` weights of Mixup, from a pipeline's own draws."""

    @pipeline_def(batch_size=batch, num_threads=1, device_id=None, seed=4)
    def host():
        draws = fn.random.uniform(range=[0.0, 1.0], dtype=types.FLOAT64)
        return fn.dali_mix.plan(draws, **ONE, alphas=[alpha], image_size=[8, 8], mode="elem")[4]

    pipeline = host()
    pipeline.build()
    return np.concatenate([pipeline.run()[0].as_array() for _ in range(count)]).astype(np.float64)


def test_the_first_draw_decides_all():
    first = plan([0.25, 0.5, 0.75], **BRANCHES, branch=0.3, mode="elem")
    again = plan([0.25, 0.1, 0.9], **BRANCHES, branch=0.3, mode="elem")
    other = plan([0.25 + 2**-40, 0.5, 0.75], **BRANCHES, branch=0.3, mode="elem")
    for one, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, same)
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize(("branch", "code"), [(0.0, 0), (0.1999, 0), (0.2, 1), (0.5999, 1), (0.6, 2), (0.9999999, 2)])
def test_the_branch_is_the_stretch_that_the_draw_falls_into(branch, code):
    _, target, source, weight, lam, codes = plan([0.3] * 4, **BRANCHES, branch=branch)
    assert (codes == code).all()
    np.testing.assert_array_equal(target, source)
    area = (target[:, 2] - target[:, 0]) * (target[:, 3] - target[:, 1]) / (24 * 32)
    np.testing.assert_allclose(lam, 1 - (1 - weight) * area, atol=1e-6)
    if code == 2:
        np.testing.assert_array_equal(target, [[0, 0, 24, 32]] * 4)


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.8, 1.0, 1.5, 8.0])
def test_the_weights_of_mixup_are_beta_distributed(alpha):
    """Kolmogorov-Smirnov for two samples of 51,200 and 200,000: 1.95 sqrt(1/n + 1/m) = 0.0097, once in a thousand."""
    ours, theirs = np.sort(lams(alpha)), np.sort(np.random.default_rng(1).beta(alpha, alpha, 200_000))
    places = np.linspace(0, 1, 999)[1:-1]
    both = [np.searchsorted(values, places) / len(values) for values in (ours, theirs)]
    assert np.abs(both[0] - both[1]).max() < 0.0097


def test_a_large_alpha_gives_halves():
    assert np.abs(lams(1e6, count=4) - 0.5).max() < 0.005


def test_all_derangements_are_equally_likely():
    """9 derangements of 4 samples, 9,000 batches: 1,000 each, five standard errors are 150."""
    keys = np.random.default_rng(2).random(9000)
    counts = {}

    @pipeline_def(batch_size=4, num_threads=1, device_id=None)
    def host():
        draws = fn.external_source(source=([key] * 4 for key in keys), ndim=0, dtype=types.FLOAT64)
        return fn.dali_mix.plan(draws, **ONE, alphas=[1.0], image_size=[8, 8])[0]

    pipeline = host()
    pipeline.build()
    for _ in keys:
        order = tuple(pipeline.run()[0].as_array().tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 9
    assert max(abs(count - 1000) for count in counts.values()) < 150


@pytest.mark.parametrize("size", [1, 2, 3, 257])
def test_partners_of_any_batch(size):
    partner = plan([0.7] * size, **ONE, alphas=[1.0])[0]
    assert sorted(partner) == list(range(size))
    assert size == 1 or (partner != np.arange(size)).all()


def test_soft_targets_come_with_it():
    labels = np.array([[3], [0], [7]], np.int64)
    *_, lam, _, targets = plan([0.3] * 3, labels, **ONE, alphas=[1.0], num_classes=8, smoothing=0.1, pairing="flip")
    on, off = 1 - 0.1 + 0.1 / 8, 0.1 / 8
    assert targets[1].max() == np.float32(on)  # the middle one is its own partner
    assert targets[0, 3] == pytest.approx(off + (on - off) * lam[0])
    assert targets[0, 7] == pytest.approx(off + (on - off) * (1 - lam[0]))
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


def test_inside_an_if_each_side_mixes_among_its_samples():
    @pipeline_def(batch_size=8, num_threads=1, device_id=None, enable_conditionals=True, seed=3)
    def host():
        side = fn.external_source(source=lambda: [np.array(i < 5) for i in range(8)], ndim=0, dtype=types.BOOL)
        draws = fn.random.uniform(range=[0.0, 1.0], dtype=types.FLOAT64)
        if side:
            partner = fn.dali_mix.plan(draws, **ONE, alphas=[1.0], image_size=[8, 8])[0]
        else:
            partner = fn.dali_mix.plan(draws, **ONE, alphas=[1.0], image_size=[8, 8])[0]
        return partner

    pipeline = host()
    pipeline.build()
    partner = pipeline.run()[0].as_array()
    assert sorted(partner[:5]) == list(range(5))
    assert sorted(partner[5:]) == list(range(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BRANCHES, "more than one method needs branch_draw"),
        (ONE | {"alphas": [1.0, 2.0]}, "lists of one length"),
        (ONE | {"alphas": [1.0], "methods": ["fmix"]}, 'unknown method "fmix"'),
        (ONE | {"alphas": [1.0], "minmax": [0.5]}, "minmax must be two numbers"),
        (ONE | {"alphas": [1.0], "pairing": "flip"}, "needs full batches: the batch has 4 of 6"),
        (ONE | {"alphas": [1.0], "mode": "pair"}, "needs full batches"),
    ],
)
def test_what_cannot_be_is_named(options, message):
    with pytest.raises(RuntimeError, match=message):
        plan([0.3] * 4, **options, batch_size=6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([[3], [9]], np.int32), r"soft_targets: label 9 of sample 1 lies outside \[0, 9\)"),
        (np.array([-1, 3], np.int64), "label -1 of sample 0"),
        (np.array([1.0, 3.0], np.float32), "labels must be integers"),
        (np.eye(9, dtype=np.int32)[:2], r"one class number per sample, got shape \(9\)"),
    ],
)
def test_labels_that_are_none(labels, message):
    with pytest.raises(RuntimeError, match=message):
        plan([0.3] * 2, labels, **ONE, alphas=[1.0], num_classes=9)
