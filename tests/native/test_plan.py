"""``fn.dali_mix.plan``: what it draws follows from seed and batch, with the distributions that it promises."""

from collections import Counter

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


def plan(batch, labels=None, iterations=1, batch_size=None, **options):
    """Outputs of each iteration, each stacked."""
    samples = np.zeros(batch, np.int32) if labels is None else labels
    options = {"seed": 7} | options

    @pipeline_def(batch_size=batch_size or batch, num_threads=1, device_id=None)
    def host():
        dtype = types.to_dali_type(samples.dtype.name)
        node = fn.external_source(source=lambda: list(samples), ndim=samples.ndim - 1, dtype=dtype)
        return tuple(fn.dali_mix.plan(node, image_size=[24, 32], **options))

    pipeline = host()
    pipeline.build()
    runs = [[output.as_array() for output in pipeline.run()] for _ in range(iterations)]
    return runs if iterations > 1 else runs[0]


def lams(alpha, count=200, batch=256):
    """``count * batch`` weights of Mixup."""
    runs = plan(batch, iterations=count, **ONE, alphas=[alpha], mode="elem")
    return np.concatenate([run[4] for run in runs]).astype(np.float64)


def test_seed_and_number_of_the_batch_decide_all():
    first, again, other = (plan(6, iterations=5, seed=seed, **BRANCHES, mode="elem") for seed in (3, 3, 4))
    for one, same in zip(first, again, strict=True):
        for a, b in zip(one, same, strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal([run[0] for run in first], [run[0] for run in other])
    assert len({run[0].tobytes() for run in plan(64, iterations=50, **ONE, alphas=[1.0])}) == 50


def test_the_branch_depends_on_its_seed_alone():
    """Not on the other seed, nor on the size of this batch or of those before."""
    runs = [
        [int(run[5][0]) for run in plan(batch, iterations=60, seed=seed, branch_seed=5, batch_size=9, **BRANCHES)]
        for batch, seed in ((9, 1), (9, 2), (4, 1), (1, 8))
    ]
    assert runs[0] == runs[1] == runs[2] == runs[3]
    assert set(runs[0]) == {0, 1, 2}
    assert runs[0] != [int(run[5][0]) for run in plan(9, iterations=60, seed=1, branch_seed=6, **BRANCHES)]


def test_branches_come_by_their_shares():
    """n = 4,000: four standard errors are at most 0.031."""
    codes = np.array([run[5][0] for run in plan(1, iterations=4000, **BRANCHES)])
    for code, share in enumerate([0.2, 0.4, 0.4]):
        assert (codes == code).mean() == pytest.approx(share, abs=0.031)


def test_what_the_numbers_mean():
    for run in plan(4, iterations=30, **BRANCHES):
        _, target, source, weight, lam, codes = run
        assert (codes == codes[0]).all()
        np.testing.assert_array_equal(target, source)
        area = (target[:, 2] - target[:, 0]) * (target[:, 3] - target[:, 1]) / (24 * 32)
        np.testing.assert_allclose(lam, 1 - (1 - weight) * area, atol=1e-6)
        if codes[0] == 2:
            np.testing.assert_array_equal(target, [[0, 0, 24, 32]] * 4)


def test_a_checkpoint_holds_the_state_and_the_seeds():
    def pipeline_of(seed, checkpoint=None):
        @pipeline_def(batch_size=5, num_threads=1, device_id=None, enable_checkpointing=True, checkpoint=checkpoint)
        def host():
            node = fn.random.uniform(name="node")
            return tuple(fn.dali_mix.plan(node, image_size=[24, 32], name="plan", seed=seed, **BRANCHES))

        pipeline = host()
        pipeline.build()
        return pipeline

    pipeline = pipeline_of(1)
    for _ in range(4):
        pipeline.run()
    checkpoint = pipeline.checkpoint()
    restored = pipeline_of(2, checkpoint)
    for _ in range(6):
        for one, other in zip(pipeline.run(), restored.run(), strict=True):
            np.testing.assert_array_equal(one.as_array(), other.as_array())


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
    counts = Counter(tuple(run[0].tolist()) for run in plan(4, iterations=9000, **ONE, alphas=[1.0]))
    assert len(counts) == 9
    assert max(abs(count - 1000) for count in counts.values()) < 150


@pytest.mark.parametrize("size", [1, 2, 3, 257])
def test_partners_of_any_batch(size):
    partner = plan(size, **ONE, alphas=[1.0])[0]
    assert sorted(partner) == list(range(size))
    assert size == 1 or (partner != np.arange(size)).all()


def test_soft_targets_come_with_it():
    labels = np.array([[3], [0], [7]], np.int64)
    *_, lam, _, targets = plan(3, labels, **ONE, alphas=[1.0], num_classes=8, smoothing=0.1, pairing="flip")
    on, off = 1 - 0.1 + 0.1 / 8, 0.1 / 8
    assert targets[1].max() == np.float32(on)  # the middle one is its own partner
    assert targets[0, 3] == pytest.approx(off + (on - off) * lam[0])
    assert targets[0, 7] == pytest.approx(off + (on - off) * (1 - lam[0]))
    np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


def test_a_row_of_one_class_has_two_values():
    """Also smoothed: no third one from rounding."""
    labels = np.arange(9, dtype=np.int32)
    leave = {"methods": ["leave"], "codes": [0], "ends": [1.0], "alphas": [1.0]}
    targets = plan(9, labels, **leave, num_classes=9, smoothing=0.1)[6]
    assert {tuple(np.unique(row)) for row in targets} == {(np.float32(0.1 / 9), np.float32(1 - 0.1 + 0.1 / 9))}


def test_inside_an_if_each_side_mixes_among_its_samples():
    @pipeline_def(batch_size=8, num_threads=1, device_id=None, enable_conditionals=True, seed=3)
    def host():
        side = fn.external_source(source=lambda: [np.array(i < 5) for i in range(8)], ndim=0, dtype=types.BOOL)
        samples = fn.random.uniform(range=[0.0, 1.0])
        if side:
            partner = fn.dali_mix.plan(samples, **ONE, alphas=[1.0], image_size=[8, 8])[0]
        else:
            partner = fn.dali_mix.plan(samples, **ONE, alphas=[1.0], image_size=[8, 8])[0]
        return partner

    pipeline = host()
    pipeline.build()
    partner = pipeline.run()[0].as_array()
    assert sorted(partner[:5]) == list(range(5))
    assert sorted(partner[5:]) == list(range(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ONE | {"alphas": [1.0, 2.0]}, "lists of one length"),
        (ONE | {"alphas": [0.0]}, "alphas must be > 0 and finite"),
        (ONE | {"alphas": [1.0], "methods": ["fmix"]}, 'unknown method "fmix"'),
        (ONE | {"alphas": [1.0], "minmax": [0.5]}, "minmax must be two numbers"),
        (ONE | {"alphas": [1.0], "pairing": "flip"}, "needs full batches: the batch has 4 of 6"),
        (ONE | {"alphas": [1.0], "mode": "pair"}, "needs full batches"),
    ],
)
def test_what_cannot_be_is_named(options, message):
    with pytest.raises(RuntimeError, match=message):
        plan(4, **options, batch_size=6)


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
        plan(2, labels, **ONE, alphas=[1.0], num_classes=9)
