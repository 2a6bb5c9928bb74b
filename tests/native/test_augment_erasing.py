"""Erased boxes against those of timm's ``RandomErasing``, and the noise that fills them."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types
from timm.data.random_erasing import RandomErasing

from tests.native.augmenting import applied, plan, step
from tests.native.test_augment_plan import assert_same_shares, assert_same_values

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
"""ImageNet's, in levels."""


def erased(height, width, count, *, batch=250, seed=3, recount=1):
    """Which pixels of ``count`` images are erased, (batch, H, W) at a time."""

    @pipeline_def(batch_size=batch, num_threads=2, device_id=None)
    def host():
        black = types.Constant(np.zeros((height, width, 3), np.uint8), layout="HWC", device="cpu")
        steps = fn.dali_mix.augment_plan(black, erasing=1.0, recount=recount, seed=seed)
        return fn.dali_mix.augment(black, steps, remode="const", fill=[1, 1, 1])

    pipeline = host()
    pipeline.build()
    for _ in range(count // batch):
        yield pipeline.run()[0].as_array()[..., 0] != 0


def boxes_of(masks):
    """(n, 4): y1, x1, y2, x2, half-open; all zero where nothing is erased.  Each must be a whole rectangle."""
    found = []
    for mask in masks:
        rows, columns = mask.any(axis=2), mask.any(axis=1)
        ends = [(side.argmax(axis=1), side.shape[1] - side[:, ::-1].argmax(axis=1)) for side in (rows, columns)]
        box = np.stack([ends[0][0], ends[1][0], ends[0][1], ends[1][1]], axis=1) * rows.any(axis=1)[:, None]
        np.testing.assert_array_equal(mask.sum(axis=(1, 2)), (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))
        found.append(box)
    return np.concatenate(found)


class Marked:
    """In the place of an image of timm's: notes what is written."""

    def __init__(self):
        self.boxes = []

    def __setitem__(self, key, value):
        _, rows, columns = key
        self.boxes.append((rows.start, columns.start, rows.stop, columns.stop))


def timms(height, width, count, **options):
    """Boxes of each image by timm's own rule, const so that there is no noise to draw."""
    state = random.getstate()
    random.seed(2)
    eraser = RandomErasing(probability=1.0, mode="const", device="cpu", **options)
    images = [Marked() for _ in range(count)]
    for image in images:
        eraser._erase(image, 1, height, width, None)
    random.setstate(state)
    return [image.boxes for image in images]


@pytest.mark.parametrize(
    ("size", "count"),
    [((32, 32), 20_000), ((224, 224), 3_000), ((20, 60), 20_000), ((3, 40), 20_000), ((2, 2), 5_000)],
)
def test_boxes_are_timms(size, count):
    """Area, aspect, place, and how often there is none: boxes that do not fit are drawn again, up to ten times."""
    mine = boxes_of(erased(*size, count))
    theirs = np.array([boxes[0] if boxes else (0, 0, 0, 0) for boxes in timms(*size, count)])
    # A box without pixels cannot be seen.
    theirs *= ((theirs[:, 2:] > theirs[:, :2]).all(axis=1))[:, None]
    none = [(boxes[:, 2] == 0).sum() for boxes in (mine, theirs)]
    assert_same_shares(*(Counter({"none": number}) for number in none), n=count)
    measures = []
    for boxes in (mine, theirs):
        boxes = boxes[boxes[:, 2] > 0]
        heights, widths = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        assert (heights < size[0]).all()
        assert (widths < size[1]).all()
        free = [boxes[:, i] / np.maximum(1, side - extent) for i, side, extent in
                ((0, size[0], heights), (1, size[1], widths))]  # fmt: skip
        measures.append([heights, widths, heights * widths / math.prod(size), np.log(heights / widths), *free])
    if not len(measures[0][0]):
        assert size == (2, 2)
        return
    for one, other in zip(*measures, strict=True):
        assert_same_values(one, other)
    if max(size) < 100:
        assert_same_shares(*(Counter(zip(*measure[:2], strict=True)) for measure in measures), n=count)


@pytest.mark.parametrize(("size", "recount"), [((32, 32), 3), ((20, 60), 2)])
def test_several_boxes_cover_what_timms_cover(size, recount):
    """n = 20,000: area and rows that are touched, whatever overlaps."""
    theirs = np.zeros((20_000, *size), bool)
    for mask, boxes in zip(theirs, timms(*size, len(theirs), max_count=recount), strict=True):
        for y1, x1, y2, x2 in boxes:
            mask[y1:y2, x1:x2] = True
    mine = np.concatenate(list(erased(*size, len(theirs), recount=recount)))
    for axes in ((1, 2), (1,), (2,)):
        one, other = (masks.any(axis=axes[0]) if len(axes) == 1 else masks for masks in (mine, theirs))
        one, other = (values.sum(axis=tuple(range(1, values.ndim))) for values in (one, other))
        assert_same_values(one, other)
    shares = [masks.mean(axis=0) for masks in (mine, theirs)]
    assert np.abs(shares[0] - shares[1]).max() < 5 * np.sqrt(2 * 0.25 / len(theirs))


def noise(count=40, mean=MEAN, std=STD, remode="pixel", seed=3):
    """Large boxes full of noise, (rows, columns, 3) each."""
    image = np.zeros((96, 90, 3), np.uint8)
    steps = plan(count, erasing=1.0, seed=seed)[:, :1]
    assert len(np.unique(steps, axis=0)) == count
    masks = np.stack(applied([image] * count, steps, remode="const", fill=[1, 1, 1]))[..., 0] != 0
    images = applied([image] * count, steps, remode=remode, mean=mean, std=std)
    boxes = boxes_of([masks])
    return [pixels[y1:y2, x1:x2] for pixels, (y1, x1, y2, x2) in zip(images, boxes, strict=True) if y2]


def level_chances(mean, std):
    """Of a normal distribution, rounded to levels and clipped."""
    ends = [0.5 * math.erfc((mean - level - 0.5) / (std * math.sqrt(2))) for level in range(255)]
    return np.diff([0.0, *ends, 1.0])


@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), ([250.0, 3.0, 128.0], [20.0, 1.5, 400.0])])
def test_noise_is_a_clipped_normal_distribution(mean, std):
    """Each level as often as it should: chi-square of some 250,000 values, five deviations of its own."""
    values = np.concatenate([box.reshape(-1, 3) for box in noise(200, mean, std)])
    assert len(values) > 200_000
    for channel in range(3):
        chances = level_chances(mean[channel], std[channel])
        counts = np.bincount(values[:, channel], minlength=256)
        levels = np.arange(256)
        average, spread = chances @ levels, math.sqrt(chances @ levels**2 - (chances @ levels) ** 2)
        assert abs(values[:, channel].mean() - average) < 5 * spread / math.sqrt(len(values))
        assert abs(values[:, channel].std() - spread) < 5 * spread / math.sqrt(len(values))
        expected = chances * len(values)
        often = expected > 10
        assert counts[~often].sum() <= 3 * expected[~often].sum() + 30
        freedom = often.sum() - 1
        found = ((counts - expected)[often] ** 2 / expected[often]).sum()
        assert found < freedom + 5 * math.sqrt(2 * freedom)
        assert found > freedom - 5 * math.sqrt(2 * freedom)  # not more regular than chance either


def test_noise_does_not_repeat_itself():
    """Neighbors, channels, rows and images: no correlation above five standard errors."""
    boxes = [box.astype(float) for box in noise(120) if min(box.shape[:2]) > 12]
    assert len(boxes) > 60
    for down, across in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (0, 5)):
        one = np.concatenate([box[: len(box) - down, : box.shape[1] - across].reshape(-1, 3) for box in boxes])
        other = np.concatenate([box[down:, across:].reshape(-1, 3) for box in boxes])
        found = np.corrcoef(one.T, other.T)[:3, 3:]  # of channels with others, too
        assert np.abs(found).max() < 5 / math.sqrt(len(one))
    pixels = np.concatenate([box.reshape(-1, 3) for box in boxes])
    assert np.abs(np.corrcoef(pixels.T) - np.eye(3)).max() < 5 / math.sqrt(len(pixels))
    starts = [np.stack([box[:12, :12].ravel() for box in part]) for part in (boxes[:-1], boxes[1:])]
    found = np.corrcoef(starts[0].ravel(), starts[1].ravel())[0, 1]
    assert abs(found) < 5 / math.sqrt(starts[0].size)
    assert len({box[:8, :8].tobytes() for box in boxes}) == len(boxes)


def test_boxes_of_one_image_have_noise_of_their_own():
    """Equal places in two boxes hold other numbers; n = 150 pixels of each of some pairs."""
    images, steps = [np.zeros((64, 64, 3), np.uint8)] * 150, [step("Erase", key, 5, 2) for key in range(150)]
    flat, noisy = (applied(images, steps, remode=remode, mean=MEAN, std=STD) for remode in ("rand", "pixel"))
    pairs = []
    for colors, pixels in zip(flat, noisy, strict=True):
        masks = [(colors == color).all(axis=-1) for color in np.unique(colors.reshape(-1, 3), axis=0) if color.any()]
        whole = all(mask.sum() == mask.any(axis=0).sum() * mask.any(axis=1).sum() >= 150 for mask in masks)
        if len(masks) == 2 and whole:  # told apart by their colors, and apart from one another
            pairs.append([pixels[mask][:150].ravel() for mask in masks])
    assert len(pairs) > 20
    one, other = np.array(pairs, float).transpose(1, 0, 2).reshape(2, -1)
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(len(one))


def test_one_random_color_for_a_box():
    """n = 400 boxes: the mean of their colors within five standard errors."""
    boxes = noise(400, remode="rand")
    assert all((box == box[0, 0]).all() for box in boxes)
    colors = np.stack([box[0, 0] for box in boxes]).astype(float)
    for channel in range(3):
        average = level_chances(MEAN[channel], STD[channel]) @ np.arange(256)
        assert abs(colors[:, channel].mean() - average) < 5 * STD[channel] / math.sqrt(len(boxes))
        assert abs(colors[:, channel].std() / STD[channel] - 1) < 5 / math.sqrt(2 * len(boxes)) + 0.03  # clipped
    assert np.abs(np.corrcoef(colors.T) - np.eye(3)).max() < 5 / math.sqrt(len(boxes))


def test_a_constant_color_and_no_deviation():
    image = np.full((40, 40, 3), 200, np.uint8)
    (filled,) = applied([image], [step("Erase", 1, 2, 1)], remode="const", fill=[7, 8, 9])
    assert {tuple(pixel) for pixel in filled.reshape(-1, 3)} == {(200, 200, 200), (7, 8, 9)}
    (noisy,) = applied([image], [step("Erase", 1, 2, 1)], remode="pixel", mean=[7.4, 8.0, 300.0], std=[0.0, 0, 0])
    assert {tuple(pixel) for pixel in noisy.reshape(-1, 3)} == {(200, 200, 200), (7, 8, 255)}
    assert ((filled != 200) == (noisy != 200)).all()  # the box does not depend on what fills it
