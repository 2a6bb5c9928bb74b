import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def, types

from dali_mix import fn as mix
from dali_mix.fn.mixing.boxes import box_sides
from dali_mix.fn.mixing.portable.pixels import _without_empty_box
from tests import oracle
from tests.graphs import images_of, run_graph

MODES = [("batch", "permutation"), ("batch", "flip"), ("elem", "permutation"), ("elem", "flip"), ("pair", "flip")]


def draw_and_apply(**options):
    def graph(images, labels):
        params = mix.draw_cutmix(images, **options)
        return mix.apply_cutmix(images, params), *params

    return graph


@pytest.mark.parametrize(("mode", "pairing"), MODES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_pixels_come_from_the_partner_inside_the_box_only(mode, pairing, dtype, batch):
    images = images_of(batch, dtype=dtype)
    for mixed, partner, box, lam in run_graph(draw_and_apply(mode=mode, pairing=pairing), images, iterations=8):
        np.testing.assert_array_equal(mixed, oracle.cutmix(images, partner, box))
        np.testing.assert_allclose(lam, oracle.own_share(box, 12, 17), atol=1e-6)
        assert mixed.dtype == dtype
        assert (partner.dtype, box.dtype, lam.dtype) == (np.int32, np.int32, np.float32)


@pytest.mark.parametrize(("mode", "pairing"), MODES)
def test_who_shares_a_draw(mode, pairing):
    for _, partner, box, _ in run_graph(draw_and_apply(mode=mode, pairing=pairing), images_of(6), iterations=8):
        if mode == "batch":
            assert (box == box[0]).all()
        if mode == "pair":
            np.testing.assert_array_equal(box, box[partner])
        if mode in ("pair", "elem"):
            assert len({tuple(row) for row in box}) > 1
        if pairing == "flip":
            np.testing.assert_array_equal(partner, np.arange(6)[::-1])


def test_nobody_is_their_own_partner_by_permutation():
    for _, partner, _, _ in run_graph(draw_and_apply(), images_of(5), iterations=50):
        assert sorted(partner) == list(range(5))
        assert (partner != np.arange(5)).all()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 64, 100, 257])
def test_flip_pairs_any_full_batch(size):
    (_, partner, _, _), *_ = run_graph(draw_and_apply(pairing="flip"), images_of(size, 4, 4))
    np.testing.assert_array_equal(partner, np.arange(size)[::-1])


def test_flip_refuses_a_partial_batch():
    with pytest.raises(RuntimeError, match=r"needs full batches|does not match the current batch size"):
        run_graph(draw_and_apply(pairing="flip"), images_of(5), batch_size=6)


@pytest.mark.parametrize("mode", ["batch", "elem"])
@pytest.mark.parametrize("size", [1, 5])
def test_permutation_takes_partial_batches(mode, size):
    images = images_of(size)
    for mixed, partner, box, _ in run_graph(draw_and_apply(mode=mode), images, batch_size=6, iterations=4):
        np.testing.assert_array_equal(mixed, oracle.cutmix(images, partner, box))


def test_the_box_is_the_papers():
    """Side ``size * sqrt(1 - lam)`` and uniform center: the area of alpha 1 is 1/2 - 1/5 + 1/48 of the image."""
    draws = run_graph(draw_and_apply(mode="elem"), images_of(256, 64, 64), iterations=50)
    area = 1 - np.concatenate([lam for *_, lam in draws])
    # n = 12,800; the standard deviation of the area is 0.23, so 0.01 is five standard errors.
    assert area.mean() == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.01)


def test_prob_is_the_share_of_mixed_samples():
    draws = run_graph(draw_and_apply(mode="elem", prob=0.3, minmax=(0.5, 0.5)), images_of(32), iterations=100)
    boxes = np.concatenate([box for _, _, box, _ in draws])
    # n = 3,200; five standard errors are 0.04.
    assert boxes.any(1).mean() == pytest.approx(0.3, abs=0.04)


def test_prob_zero_changes_nothing():
    images = images_of(4)
    (mixed, _, box, lam), *_ = run_graph(draw_and_apply(prob=0.0), images)
    np.testing.assert_array_equal(mixed, images)
    assert not box.any()
    assert (lam == 1).all()


def test_minmax_bounds_both_sides_and_reaches_every_edge():
    draws = run_graph(draw_and_apply(mode="elem", minmax=(0.25, 0.75)), images_of(32, 12, 20), iterations=100)
    y1, x1, y2, x2 = np.concatenate([box for _, _, box, _ in draws]).T
    assert set(y2 - y1) == set(range(3, 10))
    assert set(x2 - x1) == set(range(5, 16))
    assert (y1.min(), x1.min(), y2.max(), x2.max()) == (0, 0, 12, 20)


@pytest.mark.parametrize("conditionals", [False, True])
def test_works_in_any_host_pipeline(conditionals):
    images = images_of(4)
    (mixed, partner, box, _), *_ = run_graph(draw_and_apply(), images, enable_conditionals=conditionals)
    np.testing.assert_array_equal(mixed, oracle.cutmix(images, partner, box))


def test_one_seed_gives_one_sequence_of_uncorrelated_draws():
    def sequence(seed):
        return run_graph(draw_and_apply(mode="elem", seed=seed), images_of(16, 224, 224), iterations=20, seed=1)

    first, again, other = sequence(5), sequence(5), sequence(6)
    np.testing.assert_array_equal([run[2] for run in first], [run[2] for run in again])
    assert not np.array_equal([run[2] for run in first], [run[2] for run in other])
    boxes = np.concatenate([run[2] for run in first]).astype(float)
    size, center = boxes[:, 2] - boxes[:, 0], boxes[:, 2] + boxes[:, 0]
    assert abs(np.corrcoef(size, center)[0, 1]) < 0.25  # n = 320; one shared stream gives 0.8 and more


def test_used_twice_in_one_pipeline():
    def graph(images, labels):
        once = mix.apply_cutmix(images, mix.draw_cutmix(images))
        return (mix.apply_cutmix(once, mix.draw_cutmix(once)),)

    assert run_graph(graph, images_of(4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": 0}, ValueError, "alpha must be > 0"),
        ({"alpha": 1e-50}, ValueError, "alpha must be > 0"),
        ({"alpha": 1e39}, ValueError, "alpha must be > 0 and finite"),
        ({"alpha": "1"}, TypeError, "alpha must be a number"),
        ({"prob": 1.5}, ValueError, r"prob must lie in \[0, 1\]"),
        ({"mode": "each"}, ValueError, "mode must be one of batch, pair, elem"),
        ({"pairing": "roll"}, ValueError, "pairing must be one of permutation, flip"),
        ({"mode": "pair"}, ValueError, "needs pairing='flip'"),
        ({"minmax": (0.8, 0.2)}, ValueError, "min <= max"),
        ({"minmax": 0.5}, TypeError, "two numbers"),
        ({"seed": -1}, ValueError, "seed must be >= 0"),
    ],
)
def test_bad_arguments_are_refused_while_the_graph_is_built(options, error, message):
    with pytest.raises(error, match=message):
        run_graph(draw_and_apply(**options), images_of(2))


def test_tensors_are_refused():
    with pytest.raises(TypeError, match="must be a DataNode"):
        mix.draw_cutmix(np.zeros((4, 4, 3)))


def test_an_empty_box_moves_behind_the_image_for_the_gpu():
    """The arithmetic of the GPU path, which the CPU can compute: empty in either direction, or not at all."""
    boxes = np.array([[2, 3, 2, 9], [4, 5, 8, 5], [0, 0, 0, 0], [1, 2, 5, 7]], np.int32)

    @pipeline_def(batch_size=4, num_threads=1, device_id=None)
    def host():
        box = fn.external_source(source=lambda: list(boxes), ndim=1, dtype=types.INT32)
        size = types.Constant(np.array([12, 17], np.int32))
        return _without_empty_box(size, box[0:2], box_sides(box))

    pipeline = host()
    pipeline.build()
    start, sides = (output.as_array() for output in pipeline.run())
    assert start.tolist() == [[12, 17]] * 3 + [[1, 2]]
    assert sides.tolist() == [[0, 0]] * 3 + [[4, 5]]
