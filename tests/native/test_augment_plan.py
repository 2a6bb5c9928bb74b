"""What ``augment_plan`` draws, against timm's own draws: n = 20,000 images of each.

Tolerances are five standard errors of the difference of two such samples, and for whole distributions the distance of
Kolmogorov and Smirnov that is exceeded once in a million times.  With the seeds fixed, nothing is left to chance.
"""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from timm.data import auto_augment as timm_aa
from timm.data.auto_augment import AugmentOp

from dali_mix.fn.image.native import _drawing_of
from dali_mix.fn.image.policies import parse_auto_augment
from tests.native.augmenting import FILTERS, GEOMETRIC, code, plan, planner

N = 20_000
POLICIES = [
    "rand-m9-mstd0.5-inc1", "rand-m9-n3-p0.7", "rand-mstd101-m10-n1-p1-inc1", "rand-m9-tweights-n4", "rand-t3a",
    "rand-m14-mmax20-mstd2-n1", "original", "v0r-mstd0.5", "3a",
]  # fmt: skip


@pytest.fixture(autouse=True)
def seeded():
    """timm draws from global generators."""
    states = random.getstate(), np.random.get_state()
    random.seed(1)
    np.random.seed(1)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])


def recorder(name):
    """In the place of an operation of timm's: notes itself as a step of ours."""

    def record(steps, argument=0.0, **options):
        kind = 0
        if name in GEOMETRIC:
            kind = {0: 0, 2: 1, 3: 2}[int(timm_aa._interpolation(options))]  # PIL's numbers to ours
        if name == "Desaturate":
            argument = min(1.0, max(0.0, 1.0 - argument))  # as the function that this replaces
        if name == "GaussianBlurRand":
            argument = random.uniform(0.1, 2.0 * argument)
        steps.append((code(name), argument, kind))
        return steps

    return record


def timms(aa):
    """What timm does to N images, as lists of steps."""
    make = timm_aa.rand_augment_transform if aa.startswith("rand") else timm_aa.auto_augment_transform
    transform = make(aa, {})
    groups = [transform.ops] if aa.startswith("rand") else transform.policy
    for operation in {id(op): op for group in groups for op in group}.values():
        operation.aug_fn = recorder(operation.name)
    return [transform([]) for _ in range(N)]


def ours(aa, batch=500, **options):
    """The same of ours."""
    rows = plan(batch, N // batch, **_drawing_of(parse_auto_augment(aa)), **options)
    return [[tuple(row[:3]) for row in steps if row[0]] for steps in rows]


def assert_same_shares(one, other, n=N):
    """Of each key of two counters over n draws each."""
    for key in one.keys() | other.keys():
        share = (one[key] + other[key]) / (2 * n)
        assert abs(one[key] - other[key]) <= 5 * np.sqrt(2 * n * share * (1 - share)) + 1, (key, one[key], other[key])


def distance(one, other):
    """Of Kolmogorov and Smirnov, and what it may be: 2.69 is of one in a million."""
    one, other = np.sort(one), np.sort(other)
    places = np.union1d(one, other)
    shares = [np.searchsorted(values, places, side="right") / len(values) for values in (one, other)]
    return np.abs(shares[0] - shares[1]).max(), 2.69 * np.sqrt(1 / len(one) + 1 / len(other))


def assert_same_values(one, other):
    """Distribution, mean, deviation and range of two samples."""
    # Ours of policies are float32 where they come from Python: what timm has exactly is a little off here.
    one, other = np.round(one, 5), np.round(other, 5)
    found, allowed = distance(one, other)
    assert found <= allowed
    both = np.concatenate([one, other])
    pairs = np.sqrt(1 / len(one) + 1 / len(other))
    assert abs(one.mean() - other.mean()) <= 5 * both.std() * pairs + 1e-5
    assert abs(one.var() - other.var()) <= 5 * ((both - both.mean()) ** 2).std() * pairs + 1e-5
    width = max(np.ptp(other), 1e-4)
    few = 25 / min(len(one), len(other))  # of the draws may lie further out
    for sample, limits in ((one, other), (other, one)):
        assert (sample < limits.min() - 1e-5).mean() <= few
        assert (sample > limits.max() + 1e-5).mean() <= few
        assert limits.min() - width < sample.min() <= sample.max() < limits.max() + width


@pytest.mark.parametrize("aa", POLICIES)
def test_operations_arguments_and_signs_are_timms(aa):
    mine, theirs = ours(aa), timms(aa)
    assert_same_shares(*(Counter(len(steps) for steps in sample) for sample in (mine, theirs)))
    depth = max(map(len, theirs))
    for place in range(depth):
        assert_same_shares(*(Counter(steps[place][0] for steps in sample if len(steps) > place)
                             for sample in (mine, theirs)))  # fmt: skip
    assert_same_shares(*(Counter(pair for steps in sample for pair in pairwise(step[0] for step in steps))
                         for sample in (mine, theirs)), n=N * max(1, depth - 1))  # fmt: skip
    arguments = [{}, {}]
    for by_operation, sample in zip(arguments, (mine, theirs), strict=True):
        for steps in sample:
            for operation, argument, kind in steps:
                by_operation.setdefault((operation, kind), []).append(argument)
    assert arguments[0].keys() == arguments[1].keys()
    assert_same_shares(*(Counter({key: len(found) for key, found in one.items()}) for one in arguments), n=N * depth)
    for key, found in arguments[0].items():
        assert_same_values(np.array(found), np.array(arguments[1][key]))


def test_signs_and_filters_are_independent():
    """Four equally likely pairs; n = 20,000: five standard errors are 306."""
    (steps,) = zip(*ours("rand-m9-n1-p1"), strict=True)
    geometric = {code(name) for name in GEOMETRIC}
    pairs = Counter((argument < 0, kind) for operation, argument, kind in steps if operation in geometric)
    assert len(pairs) == 4
    total = pairs.total()
    assert abs(total - N / 3) < 334
    assert max(abs(count - total / 4) for count in pairs.values()) < 5 * np.sqrt(total * 3 / 16)


@pytest.mark.parametrize(
    ("interpolation", "kinds"), [*[(name, {i}) for i, name in enumerate(FILTERS)], ("random", {1, 2})]
)
def test_the_filter_is_the_one_that_is_asked_for(interpolation, kinds):
    rows = plan(50, operations=list(GEOMETRIC), probs=[1.0] * 5, magnitudes=[9.0] * 5, draws=2,
                interpolation=interpolation)  # fmt: skip
    assert {row[2] for steps in rows for row in steps if row[0]} == kinds


def test_two_operations_of_an_image_are_independent():
    """Of RandAugment without weights: 225 pairs, 89 of each; five standard errors are 47."""
    rows = plan(500, N // 500, **_drawing_of(parse_auto_augment("rand-m9-p1-inc1")))
    counts = Counter(map(tuple, rows[:, :2, 0]))
    assert len(counts) == 225
    assert max(abs(count - N / 225) for count in counts.values()) < 47


def test_two_arguments_of_an_image_are_independent():
    """Sizes, signs and filters of two rotations: n = 20,000, five standard errors are 0.036."""
    rows = plan(500, N // 500, operations=["Rotate"], probs=[1.0], magnitudes=[9.0], draws=2, mstd=np.inf)[:, :2]
    columns = [column for i in (0, 1) for column in (np.abs(rows[:, i, 1]), np.sign(rows[:, i, 1]), rows[:, i, 2])]
    assert np.abs(np.corrcoef(columns) - np.eye(6)).max() < 0.036


def test_an_operation_of_a_weighted_set_is_drawn_once():
    rows = plan(500, **_drawing_of(parse_auto_augment("rand-m9-tweights-n15-p1")))[:, :15, 0]
    assert {len(set(steps)) for steps in rows} == {15}


# Color jitter, and what is drawn once for an image


JITTER = {"Brightness": 0.4, "Contrast": 0.3, "Color": 1.7, "Hue": 0.1}
"""In the order of the argument; factors are never negative."""


def test_factors_of_the_jitter_are_torchvisions():
    """n = 20,000; uniform from max(0, 1 - x) to 1 + x, hue in 255ths."""
    rows = plan(500, N // 500, jitter=list(JITTER.values()))
    for name, strength in JITTER.items():
        drawn = rows[rows[:, :, 0] == code(name)][:, 1]
        assert len(drawn) == N
        if name == "Hue":
            shifts = (drawn.astype(int) + 128) % 256 - 128
            expected = np.trunc(np.linspace(-strength, strength, N) * 255)
            assert set(shifts) == set(expected.astype(int))
            np.testing.assert_array_equal(drawn, drawn.astype(np.uint8))
            found, allowed = distance(shifts, expected)
        else:
            low, high = max(0.0, 1 - strength), 1 + strength
            assert low - 1e-6 < drawn.min() < low + 1e-3 * (high - low)
            assert high - 1e-3 * (high - low) < drawn.max() < high + 1e-6
            found, allowed = distance(drawn, np.linspace(low, high, N))
        assert found <= allowed


def test_the_orders_of_the_jitter_are_equally_likely():
    """24 orders of 20,000: 833 each, five standard errors are 141; the factors are independent of one another."""
    rows = plan(500, N // 500, jitter=list(JITTER.values()))
    first = np.argmax(rows[:, :, 0] != 0, axis=1)
    assert (first == first[0]).all()
    rows = rows[:, first[0] : first[0] + 4]
    orders = Counter(map(tuple, rows[:, :, 0]))
    assert len(orders) == 24
    assert max(abs(count - N / 24) for count in orders.values()) < 141
    factors = np.stack([rows[rows[:, :, 0] == code(name)][:, 1] for name in ("Brightness", "Contrast", "Color")])
    assert np.abs(np.corrcoef(factors) - np.eye(3)).max() < 5 / np.sqrt(N)


def test_a_jitter_leaves_out_what_has_no_strength():
    rows = plan(100, jitter=[0.0, 0.5, 0.0, 0.0])
    assert set(np.unique(rows[:, :, 0])) == {0, code("Contrast")}


CHANCES = {"hflip": 0.5, "vflip": 0.2, "jitter_prob": 0.8, "grayscale": 0.1, "blur": 0.3, "erasing": 0.25}


def happened(rows, which):
    """Whether each of CHANCES did."""
    if which in ("hflip", "vflip"):
        return ((rows[:, :, 0] == code("Flip")) & (rows[:, :, 1 if which == "hflip" else 2] != 0)).any(axis=1)
    if which == "grayscale":
        return ((rows[:, :, 0] == code("Color")) & (rows[:, :, 1] == 0)).any(axis=1)
    names = {"jitter_prob": "Hue", "blur": "Gaussian", "erasing": "Erase"}
    return (rows[:, :, 0] == code(names[which])).any(axis=1)


def test_chances_are_kept_and_independent():
    """n = 20,000; five standard errors are at most 0.018, 0.036 of a correlation."""
    rows = plan(500, N // 500, jitter=[0.0, 0.0, 0.0, 0.5], recount=3, **CHANCES)
    outcomes = np.stack([happened(rows, which) for which in CHANCES])
    np.testing.assert_allclose(outcomes.mean(axis=1), list(CHANCES.values()), atol=0.018)
    assert np.abs(np.corrcoef(outcomes) - np.eye(len(CHANCES))).max() < 0.036
    # In timm's order.
    places = [np.argmax(rows[:, :, 0] == code(name), axis=1) for name in ("Flip", "Hue", "Color", "Gaussian", "Erase")]
    for (i, one), (j, other) in pairwise(
        zip(("hflip", "jitter_prob", "grayscale", "blur", "erasing"), places, strict=True)
    ):
        both = happened(rows, i) & happened(rows, j)
        assert both.any()
        assert (one[both] < other[both]).all()
    sigmas = rows[rows[:, :, 0] == code("Gaussian")][:, 1]
    found, allowed = distance(sigmas, np.linspace(0.1, 2.0, N))
    assert found <= allowed
    counts = Counter(rows[rows[:, :, 0] == code("Erase")][:, 3])
    assert set(counts) == {1, 2, 3}
    assert max(abs(count / counts.total() - 1 / 3) for count in counts.values()) < 5 * np.sqrt(2 / 9 / counts.total())


@pytest.mark.parametrize("which", CHANCES)
def test_chances_of_nothing_and_of_certainty(which):
    options = {name: 0.0 for name in CHANCES} | {"jitter": [0.0, 0.0, 0.0, 0.5]}
    assert not plan(200, **options)[:, :, 0].any()
    assert happened(plan(200, **(options | {which: 1.0})), which).all()


# Seeds and checkpoints


RECIPE = _drawing_of(parse_auto_augment("rand-m9-mstd0.5-inc1")) | {"hflip": 0.5, "erasing": 0.25, "jitter": [0.4] * 4}


def test_seed_and_number_of_the_batch_decide_all():
    first, again, other = (plan(16, 20, seed=seed, **RECIPE) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert len({steps.tobytes() for steps in first}) > 300  # two without steps are alike
    assert not np.array_equal(plan(16, seed=3 + 2**32, **RECIPE), first[:16])  # all bits of the seed count


def test_a_seed_of_its_own_for_each_operator():
    """What two operators draw is the same with one seed only."""

    @pipeline_def(batch_size=16, num_threads=1, device_id=None, seed=4)
    def host(seed):
        samples = types.Constant(0, device="cpu")
        return tuple(fn.dali_mix.augment_plan(samples, name=name, **seed, **RECIPE) for name in ("one", "other"))

    for seed in ({}, {"seed": 3}):
        pipeline = host(seed)
        pipeline.build()
        one, other = (rows.as_array() for rows in pipeline.run())
        assert np.array_equal(one, other) == bool(seed)


def test_an_image_depends_on_its_place_and_the_number_of_the_batch_alone():
    """Not on how many others there are, nor on the sizes of the batches before."""
    sizes = iter([8, 3, 2, 1, 8, 5])

    @pipeline_def(batch_size=8, num_threads=1, device_id=None)
    def host():
        samples = fn.external_source(source=lambda: [np.zeros((), np.int32)] * next(sizes), ndim=0, dtype=types.INT32)
        return fn.dali_mix.augment_plan(samples, seed=5, **RECIPE)

    pipeline = host(prefetch_queue_depth=1, exec_async=False, exec_pipelined=False)
    pipeline.build()
    full = plan(8, 6, **RECIPE).reshape(6, 8, -1)
    for batch, size in enumerate((8, 3, 2, 1, 8, 5)):
        (rows,) = pipeline.run()
        assert len(rows) == size
        for place in range(size):
            np.testing.assert_array_equal(rows.at(place).ravel(), full[batch, place])


def test_a_checkpoint_in_the_middle_is_exact():
    def pipeline_of(seed, checkpoint=None):
        options = {"enable_checkpointing": True, "checkpoint": checkpoint}
        return planner(7, seed=seed, pipeline=options, name="plan", **RECIPE)

    pipeline = pipeline_of(1)
    before = [pipeline.run()[0].as_array() for _ in range(5)]
    restored = pipeline_of(2, pipeline.checkpoint())
    after = [pipeline.run()[0].as_array() for _ in range(5)]
    assert not any(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    for rows in after:
        np.testing.assert_array_equal(restored.run()[0].as_array(), rows)


def test_timms_rules_are_still_these():
    """That the recorders above stand in for: an operation calls its function with one argument, or none."""
    operation = AugmentOp("Rotate", prob=1.0, magnitude=5)
    operation.aug_fn = recorder("Rotate")
    ((rotate, degrees, kind),) = operation([])
    assert (rotate, abs(degrees), kind in (1, 2)) == (code("Rotate"), 15, True)
