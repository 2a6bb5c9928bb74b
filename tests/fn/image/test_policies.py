"""What timm's strings mean, against timm's own objects."""

import math

import numpy as np
import pytest
from timm.data import auto_augment as timm_aa

from dali_mix.errors import ConfigError
from dali_mix.fn.image.policies import parse_auto_augment
from tests.fn.image.images import RECIPE

TRIVIAL = "rand-m10-n1-p1-mstd101-inc1"
"""TrivialAugment, in timm's terms."""


@pytest.mark.parametrize(
    "aa",
    [
        RECIPE, TRIVIAL, "rand-m7-n3-p0.7", "rand", "rand-mstd101-m5", "rand-m6-mmax8", "rand-inc1-mstd1",
        "rand-m14-mmax20", "rand-mmax100-m100-mstd0.5", "rand-m9-tweights-mstd0.5", "rand-t3a-n3-p1", "rand-t3aw-inc1",
        "rand-n14-t3aw", "rand-n15-tweights", "rand-n16-t3a",
    ],
)  # fmt: skip
def test_rand_strings_mean_what_they_mean_to_timm(aa):
    theirs, parsed = timm_aa.rand_augment_transform(aa, {}), parse_auto_augment(aa)
    assert parsed.draws == theirs.num_layers
    assert parsed.sub_policies == tuple(((op.name, op.prob, op.magnitude),) for op in theirs.ops)
    assert {(op.magnitude_std, op.magnitude_max or 10) for op in theirs.ops} == {(parsed.mstd, parsed.mmax)}
    if theirs.choice_weights is None:
        assert parsed.weights == ()
    else:
        np.testing.assert_allclose(parsed.weights, theirs.choice_weights, rtol=1e-12)
        assert math.isclose(math.fsum(parsed.weights), 1, rel_tol=1e-15)


@pytest.mark.parametrize("aa", ["original", "originalr", "v0", "v0r-mstd0.5", "3a"])
def test_policies_are_timms(aa):
    theirs, parsed = timm_aa.auto_augment_transform(aa, {}), parse_auto_augment(aa)
    assert parsed.sub_policies == tuple(tuple((o.name, o.prob, o.magnitude) for o in sub) for sub in theirs.policy)
    assert parsed.mstd == theirs.policy[0][0].magnitude_std
    assert (parsed.draws, parsed.weights, parsed.mmax) == (1, (), 10)


@pytest.mark.parametrize(
    ("aa", "reason"),
    [
        ("ta_wide", "no such policy"), ("augmix-m5", "AugMix needs several chains"), ("randaug", "no such policy"),
        ("rand-m9-w0", "'w0' chose a set of operations in older versions of timm"),
        ("rand-m9.5", "a whole number up to 100"), ("rand-m101", "a whole number up to 100"), ("rand-x3", "'x3'"),
        ("rand-n0", "'n0'"), ("rand-mmax0", "'mmax0'"), ("rand-mmax101", "a whole number up to 100"),
        ("v0-m9", "'m9' is not one of mstdX"), ("v0-tweights", "'tweights' is not one of mstdX"),
        ("rand-m9-m8", "'m' occurs twice"), ("rand-p2", "a number up to 1"), ("rand-", "'' is not one of"),
        ("rand-inc2", "a whole number up to 1"), (None, "no such policy"),
        ("rand-m9-tfoo", "'tfoo' is none of timm's sets of operations, tweights, t3a, t3aw"),
        ("rand-t", "'t' is none of timm's sets"),
        ("rand-tweights-t3a", "'tweights' and 't3a' each choose a set"),
        ("rand-n15-t3aw", "n15 different operations cannot be drawn from the 14 of t3aw"),
        ("rand-n16-tweights", "n16 different operations cannot be drawn from the 15 of tweights"),
    ],
)  # fmt: skip
def test_what_timm_does_not_know_is_refused_in_one_line(aa, reason):
    with pytest.raises(ConfigError) as error:
        parse_auto_augment(aa)
    assert f"aa={aa!r}: " in str(error.value)
    assert reason in str(error.value)
    assert "; use one of" in str(error.value)
    assert "\n" not in str(error.value)
