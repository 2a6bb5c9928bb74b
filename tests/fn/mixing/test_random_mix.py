import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def

from dali_mix import fn as mix
from tests import oracle
from tests.graphs import images_of, run_graph

CHOICES = {"cutmix": 0.4, "mixup": 0.3, "smmix": 0.2}


def mixed_by(**options):
    def graph(images, labels):
        return mix.random_mix(images, labels, num_classes=8, **options)

    return graph


@pytest.mark.parametrize("conditionals", [False, True])
def test_each_batch_goes_through_its_branch(conditionals):
    images = images_of(8, 32, 32)
    seen = set()
    for mixed, targets, labels, branch in run_graph(
        mixed_by(choices=CHOICES, branch_seed=3), images, iterations=40, enable_conditionals=conditionals
    ):
        name = {code: name for name, code in mix.BRANCHES.items()}[int(branch[0])]
        seen.add(name)
        assert (branch == branch[0]).all()
        np.testing.assert_array_equal(labels, np.arange(8))
        untouched = name in ("none", "smmix")
        assert np.array_equal(mixed, images) == untouched
        assert np.array_equal(targets, np.eye(8)) == untouched
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        if name == "cutmix":  # only whole pixels of one image or another
            candidates = (mixed[:, None] == images[None]).all(-1).any(1)
            assert candidates.all()
    assert seen == {"none", *CHOICES}


def test_shares_are_the_choices():
    runs = run_graph(mixed_by(choices=CHOICES), images_of(2, 4, 4), iterations=1500)
    codes = np.array([int(branch[0]) for *_, branch in runs])
    for name, share in {**CHOICES, "none": 0.1}.items():
        # n = 1,500; four standard errors are at most 0.051.
        assert (codes == mix.BRANCHES[name]).mean() == pytest.approx(share, abs=0.051)


def test_ranks_share_the_branch_and_nothing_else():
    def branches_and_images(seed):
        runs = run_graph(mixed_by(choices=CHOICES, branch_seed=11), images_of(2, 4, 4), iterations=1000, seed=seed)
        return [int(run[3][0]) for run in runs], [run[0] for run in runs]

    first, first_images = branches_and_images(seed=1)
    second, second_images = branches_and_images(seed=2)
    assert first == second
    assert not np.array_equal(first_images, second_images)


def test_shares_that_sum_to_one_but_for_rounding_leave_no_batch_out():
    choices = {"cutmix": 0.2, "mixup": 0.7, "smmix": 0.1}
    assert sum(choices.values()) != 1
    runs = run_graph(mixed_by(choices=choices), images_of(2, 4, 4), iterations=200)
    assert {int(run[3][0]) for run in runs} == {1, 2, 3}


@pytest.mark.parametrize("name", ["cutmix", "mixup", "smmix"])
def test_one_choice_alone(name):
    runs = run_graph(mixed_by(choices={name: 1.0}), images_of(4), iterations=10)
    assert {int(run[3][0]) for run in runs} == {mix.BRANCHES[name]}


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"cutmix": 0.8, "mixup": 0.4}, ValueError, "sum to at most 1"),
        ({"fmix": 0.5}, ValueError, "unknown method 'fmix'"),
        ({"cutmix": -0.1}, ValueError, "choices"),
        ([("cutmix", 1)], TypeError, "must map"),
    ],
)
def test_bad_choices(choices, error, message):
    with pytest.raises(error, match=message):
        run_graph(mixed_by(choices=choices), images_of(2))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"normalization": {"mean": 1}}, TypeError, r"must be a mix.Normalization\(mean, std, half\)"),
        ({"normalization": mix.Normalization(0.5, 0.5)}, TypeError, "one number per channel, got 0.5"),
        (
            {"normalization": mix.Normalization([0.0] * 3, [1.0, 0.0, 1.0])},
            ValueError,
            "std must be positive and finite",
        ),
        ({"normalization": mix.Normalization([0.0] * 3, [1.0])}, ValueError, "3 means and 1 standard deviations"),
        ({"num_classes": 1 << 31}, ValueError, "num_classes must be >= 1 and at most"),
        ({"image_size": (8, 0)}, ValueError, "at least 1 pixel"),
        ({"image_size": 8.5}, TypeError, "whole number, or height and width"),
        ({"mirror": 1}, TypeError, "mirror must be a DataNode"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        run_graph(lambda x, y: mix.random_mix(x, y, **({"num_classes": 8} | options)), images_of(2))


@pytest.mark.parametrize("choices", [CHOICES, {"mixup": 1.0}, {"resizemix": 0.5, "cutmix": 0.4}, {}])
def test_how_a_batch_was_mixed_can_be_asked_for(choices):
    """The params tell what the oracle needs to make the targets, and CutMix's images; they change nothing else."""
    images = images_of(8, 32, 32)

    def with_params(image_node, labels):
        mixed = mixed_by(choices=choices, seed=3, branch_seed=3)(image_node, labels)
        return *mixed, *mixed.params

    plain = run_graph(mixed_by(choices=choices, seed=3, branch_seed=3), images, iterations=20)
    for (*outputs, partner, box, lam), expected in zip(
        run_graph(with_params, images, iterations=20), plain, strict=True
    ):
        for one, other in zip(outputs, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        mixed, targets, labels, branch = outputs
        np.testing.assert_allclose(targets, oracle.soft_targets(labels, partner, lam, 8, 0), atol=1e-6)
        if branch[0] in (1, 4):
            np.testing.assert_allclose(lam, oracle.own_share(box, 32, 32), atol=1e-6)
        else:
            assert not box.any()
        if branch[0] == 1:
            np.testing.assert_array_equal(mixed, oracle.cutmix(images, partner, box))


def make_pipeline(image_folder, checkpoint=None):
    @pipeline_def(batch_size=4, num_threads=2, device_id=None, seed=3, enable_checkpointing=True, checkpoint=checkpoint)
    def host():
        jpegs, labels = fn.readers.file(file_root=str(image_folder / "train"), name="reader")
        images = fn.resize(fn.decoders.image(jpegs), size=[32, 32])
        return tuple(mix.random_mix(images, labels, num_classes=10, choices=CHOICES))

    pipeline = host()
    pipeline.build()
    return pipeline


def outputs_of(pipeline, iterations):
    return [[output.as_array() for output in pipeline.run()] for _ in range(iterations)]


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


def test_serialize_and_deserialize_are_exact(image_folder):
    from nvidia.dali.pipeline import Pipeline

    serialized = make_pipeline(image_folder).serialize()
    copy = Pipeline.deserialize(serialized)
    assert_equal_runs(outputs_of(copy, 6), outputs_of(make_pipeline(image_folder), 6))
