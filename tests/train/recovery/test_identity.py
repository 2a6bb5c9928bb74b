"""What differs between a checkpoint's run and this one, and what can be done about it."""

import pytest

from dali_mix.train.checkpoint.identity import differences

MIXING, AUGMENTATION = "mixing operators", "augmentation operators"


@pytest.mark.parametrize(
    ("saved", "own", "told"),
    [
        # A run from before augmentation had native operators.
        ({MIXING: "native"}, {AUGMENTATION: None, MIXING: "native"}, []),
        ({MIXING: "portable"}, {AUGMENTATION: "portable", MIXING: "portable"}, []),
        (
            {MIXING: "native"},
            {AUGMENTATION: "native", MIXING: "native"},
            ["augmentation operators was 'portable', is 'native' (saved before there was a choice)"],
        ),
        # What neither switch takes: "on" would make both native.
        (
            {MIXING: "native"},
            {AUGMENTATION: "portable", MIXING: "portable"},
            ["mixing operators was 'native', is 'portable' (saved before there was a choice)"],
        ),
        (
            {MIXING: "native"},
            {AUGMENTATION: None, MIXING: "portable"},
            ["mixing operators was 'native', is 'portable' (--native on takes the saved ones)"],
        ),
        (
            {MIXING: "portable"},
            {AUGMENTATION: "native", MIXING: "native"},
            [
                "augmentation operators was 'portable', is 'native' (--native off takes the saved ones)",
                "mixing operators was 'portable', is 'native' (--native off takes the saved ones)",
            ],
        ),
        # Runs of today.
        ({AUGMENTATION: "native", MIXING: "native"}, {AUGMENTATION: "native", MIXING: "native"}, []),
        (
            {AUGMENTATION: "native", MIXING: "native"},
            {AUGMENTATION: "portable", MIXING: "portable"},
            [
                "augmentation operators was 'native', is 'portable' (--native on takes the saved ones)",
                "mixing operators was 'native', is 'portable' (--native on takes the saved ones)",
            ],
        ),
    ],
)
def test_the_operators(saved, own, told):
    assert differences(saved, own) == told
