import functools

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline

from dali_mix import fn as mix
from dali_mix import native
from dali_mix.errors import ConfigError
from dali_mix.fn.graph import random_op
from tests import oracle
from tests.graphs import images_of, run_graph

MODES = [("batch", "permutation"), ("elem", "permutation"), ("batch", "flip"), ("elem", "flip"), ("pair", "flip")]
HEIGHT, WIDTH = 30, 20
TOLERANCE = {np.uint8: 0.501, np.float32: 2e-3}
"""Of 255: one rounding to a level, or the arithmetic of float32."""


def drawn_by(images, mode, method=None, seed=3):
    """Box, lam and source, as ``random_mix`` draws them with this seed."""
    measure = functools.partial(lambda node: node.shape(dtype=types.INT32)[0:2], images)
    return (method or mix.ResizeMix()).drawn(mix.Drawing(random_op("resizemix", seed), mode, measure))[:3]


def mixed_by(method=None, mode="batch", seed=3, **options):
    def graph(images, labels):
        choices = {method or mix.ResizeMix(): 1.0}
        mixed = mix.random_mix(images, labels, num_classes=16, choices=choices, mode=mode, seed=seed, **options)
        return *mixed, *drawn_by(images, mode, method, seed)

    return graph


def draws_of(count, method=None, mode="elem", size=(HEIGHT, WIDTH)):
    """Boxes (count, 4) and lam (count,)."""
    images = images_of(64, *size)
    runs = run_graph(lambda node, _: drawn_by(node, mode, method), images, iterations=count // 64)
    return (np.concatenate([run[index] for run in runs]) for index in range(2))


def partner_of(targets):
    """Of each image in a batch where image i has label i."""
    other = targets.copy()
    np.fill_diagonal(other, 0)
    return np.where(other.max(1) > 0, other.argmax(1), np.arange(len(other)))


@pytest.mark.parametrize(("mode", "pairing"), MODES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_the_whole_partner_is_pasted_shrunk(mode, pairing, dtype, batch):
    images = images_of(batch, HEIGHT, WIDTH, dtype=dtype)
    seen = set()
    for run in run_graph(mixed_by(mode=mode, pairing=pairing), images, iterations=6):
        mixed, targets, labels, branch, box, lam, source = run
        partner = partner_of(targets)
        seen |= {tuple(row) for row in box}
        if mode == "batch":
            assert (box == box[0]).all()
        if mode == "pair":
            np.testing.assert_array_equal(box, box[partner])
        if pairing == "flip":
            np.testing.assert_array_equal(partner, np.arange(batch)[::-1])
        np.testing.assert_allclose(mixed.astype(float), oracle.resizemix(images, partner, box), atol=TOLERANCE[dtype])
        np.testing.assert_allclose(lam, oracle.own_share(box, HEIGHT, WIDTH), atol=1e-6)
        np.testing.assert_allclose(targets, oracle.soft_targets(labels, partner, lam, 16, 0), atol=1e-6)
        assert mixed.dtype == dtype
        assert (branch == mix.BRANCHES["resizemix"]).all()
        assert (source == [0, 0, HEIGHT, WIDTH]).all()
    draws = {"batch": 1, "pair": batch - batch // 2, "elem": batch}[mode]
    assert len(seen) >= 5 * draws


def test_the_pasted_box_is_torchs_interpolate():
    images = images_of(2, 32, 32, dtype=np.float32)
    half = mix.ResizeMix(smallest=0.5, largest=0.5)
    (mixed, *_, box, _, _), *_ = run_graph(mixed_by(half), images)
    y1, x1, y2, x2 = box[0]
    assert (y2 - y1, x2 - x1) == (16, 16)
    other = torch.from_numpy(images[1]).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(other, (16, 16), mode="bilinear", antialias=False)[0].permute(1, 2, 0)
    np.testing.assert_allclose(mixed[0, y1:y2, x1:x2], expected, atol=2e-3)


@pytest.mark.parametrize("size", [1, 5])
def test_takes_partial_batches(size):
    images = images_of(size, HEIGHT, WIDTH)
    for mixed, targets, *_ in run_graph(mixed_by(), images, batch_size=6, iterations=3):
        assert mixed.shape == images.shape
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


def test_sides_and_places_are_uniform():
    """n = 12,800 of 40 x 60 pixels; five standard errors of a uniform number in [0, 1) are 0.0128.

    Rounding up adds half a pixel on average, which is taken off here.
    """
    boxes, _ = draws_of(12_800, size=(40, 60))
    start, sides = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    assert ((sides >= [4, 6]) & (sides <= [32, 48])).all()
    scale = ((sides - 0.5) / [40, 60] - 0.1) / 0.7
    np.testing.assert_allclose(scale.mean(0), 0.5, atol=0.0128)
    np.testing.assert_allclose(scale.std(0), 12**-0.5, atol=0.0128)
    np.testing.assert_allclose(scale[:, 0], scale[:, 1], atol=1 / 40 / 0.7)  # one scale for both sides
    room = [40, 60] - sides
    place = (start + 0.5) / (room + 1)
    np.testing.assert_allclose(place.mean(0), 0.5, atol=0.0128)
    assert (start >= 0).all()
    assert (start <= room).all()
    assert (start == 0).any(0).all()
    assert (start == room).any(0).all()
    # Five standard errors of a correlation of none.
    assert np.abs(np.corrcoef([*place.T, scale[:, 0]]) - np.eye(3)).max() < 5 / 12_800**0.5


@pytest.mark.parametrize(
    ("smallest", "largest", "size", "sides"),
    [(1.0, 1.0, (7, 5), {(7, 5)}), (0.5, 0.5, (8, 8), {(4, 4)}), (0.01, 0.02, (3, 2), {(1, 1)})],
)
def test_the_limits_can_be_drawn(smallest, largest, size, sides):
    boxes, lam = draws_of(128, mix.ResizeMix(smallest=smallest, largest=largest), size=size)
    assert {(int(y2 - y1), int(x2 - x1)) for y1, x1, y2, x2 in boxes} == sides
    np.testing.assert_allclose(lam, oracle.own_share(boxes, *size), atol=1e-6)
    np.testing.assert_array_equal(np.unique(boxes[:, 0]), np.arange(size[0] - boxes[0, 2] + boxes[0, 0] + 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smallest": 0}, r"resizemix: smallest must be a number in \(0, 1\], got 0"),
        ({"largest": 1.5}, r"resizemix: largest must be a number in \(0, 1\], got 1.5"),
        ({"smallest": 0.9}, "smallest must be at most largest, got 0.9 and 0.8"),
    ],
)
def test_options_that_are_not_legal(options, message):
    with pytest.raises(ConfigError, match=message):
        mix.ResizeMix(**options)


@pytest.mark.parametrize("known", [False, True])
def test_flips_and_normalizes_in_one_pass_as_before_and_behind(known):
    images = images_of(6, HEIGHT, WIDTH, dtype=np.float32)
    mirror = np.array([0, 1, 1, 0, 1, 0], np.int32)
    normalization = mix.Normalization([100.0, 120.0, 140.0], [50.0, 60.0, 70.0])
    options = {"image_size": (HEIGHT, WIDTH)} if known else {}

    def in_one_pass(node, labels):
        coin = fn.external_source(lambda: list(mirror))
        return mixed_by(mirror=coin, normalization=normalization, **options)(node, labels)

    flipped = np.where(mirror[:, None, None, None] == 1, images[:, :, ::-1], images)
    (one, *_), *_ = run_graph(in_one_pass, images)
    (other, *_), *_ = run_graph(mixed_by(), flipped)
    np.testing.assert_allclose(one, (other - normalization.mean) / np.array(normalization.std), atol=1e-4)


def test_both_implementations_draw_alike():
    """The same operators draw, with the same seeds; only the partners differ."""
    boxes = []
    for switch in ("on", "off"):
        with native.using(switch):
            boxes.append([run[4] for run in run_graph(mixed_by(mode="elem"), images_of(5), iterations=5)])
    np.testing.assert_array_equal(*boxes)


def make_pipeline(folder, checkpoint=None):
    @pipeline_def(batch_size=4, num_threads=2, device_id=None, seed=3, enable_checkpointing=True, checkpoint=checkpoint)
    def host():
        jpegs, labels = fn.readers.file(file_root=str(folder / "train"), name="reader", pad_last_batch=True)
        images = fn.resize(fn.decoders.image(jpegs), size=[32, 32])
        choices = {"resizemix": 0.4, mix.CutMix(alpha=0.5): 0.3, "smmix": 0.2}
        return tuple(mix.random_mix(images, labels, num_classes=10, choices=choices, mode="elem"))

    pipeline = host()
    pipeline.build()
    return pipeline


def outputs_of(pipeline, iterations):
    return [[np.array(output.as_tensor()) for output in pipeline.run()] for _ in range(iterations)]


def assert_equal_runs(left, right):
    for one, other in zip(left, right, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_checkpoint_and_restore_are_exact(image_folder):
    pipeline = make_pipeline(image_folder)
    outputs_of(pipeline, 5)
    checkpoint = pipeline.checkpoint()
    expected = outputs_of(pipeline, 12)
    assert_equal_runs(outputs_of(make_pipeline(image_folder, checkpoint), 12), expected)
    assert {1, 4} <= {int(run[3][0]) for run in expected}


def test_serialize_and_deserialize_are_exact(image_folder):
    copy = Pipeline.deserialize(make_pipeline(image_folder).serialize())
    assert_equal_runs(outputs_of(copy, 6), outputs_of(make_pipeline(image_folder), 6))
