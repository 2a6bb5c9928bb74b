"""timm's options as one value."""

import pytest
from timm.data.transforms_factory import transforms_imagenet_train

from dali_mix.data import Augmentation
from dali_mix.errors import ConfigError
from tests.fn.image.images import RECIPE


@pytest.mark.parametrize(
    "options",
    [
        {"hflip": 1.5}, {"vflip": -0.1}, {"reprob": float("nan")}, {"grayscale_prob": "much"}, {"hflip": True},
        {"color_jitter": -1}, {"color_jitter": (0.1, 0.2)}, {"color_jitter": (0.4, 0.4, 0.4, 0.6)},
        {"color_jitter_prob": 2}, {"gaussian_blur_prob": None}, {"remode": "white"}, {"recount": 0}, {"recount": 1.5},
        {"recount": 17}, {"aa": "randaug"}, {"aa": "augmix-m5"}, {"aa": None},
    ],
)  # fmt: skip
def test_illegal_values_are_refused_in_one_line(options):
    with pytest.raises(ConfigError) as error:
        Augmentation(**options)
    message = str(error.value)
    assert "\n" not in message
    assert next(iter(options)) in message
    assert "got" in message or "use one of" in message


def test_color_jitter_is_off_beside_auto_augment_but_not_beside_3a():
    assert Augmentation(color_jitter=0.4).jitter == (0.4, 0.4, 0.4, 0.0)
    assert Augmentation(color_jitter=0.4, aa=RECIPE).jitter == ()
    assert Augmentation(color_jitter=(0.1, 0.2, 0.3, 0.4), aa="3a").jitter == (0.1, 0.2, 0.3, 0.4)
    assert Augmentation().jitter == Augmentation(color_jitter=0.4, color_jitter_prob=0).jitter == ()


@pytest.mark.parametrize(
    ("aa", "kept"),
    [("3a", True), ("rand-m9-t3a", True), ("rand-t3aw-inc1", True), ("rand-tweights", False), ("v0", False)],
)
def test_color_jitter_stays_where_timm_keeps_it(aa, kept):
    made = transforms_imagenet_train(32, color_jitter=0.4, auto_augment=aa).transforms
    assert kept == any(type(transform).__name__ == "ColorJitter" for transform in made)
    assert kept == bool(Augmentation(color_jitter=0.4, aa=aa).jitter)


@pytest.mark.parametrize(
    ("options", "only_flips"),
    [({}, True), ({"hflip": 0.0}, True), ({"color_jitter": 0.4, "color_jitter_prob": 0}, True), ({"vflip": 0.1}, False),
     ({"aa": "v0"}, False), ({"color_jitter": 0.4}, False), ({"grayscale_prob": 0.1}, False), ({"reprob": 0.1}, False),
     ({"gaussian_blur_prob": 0.1}, False)],
)  # fmt: skip
def test_flips_left_to_right_are_told_from_the_rest(options, only_flips):
    assert Augmentation(**options).only_flips == only_flips
