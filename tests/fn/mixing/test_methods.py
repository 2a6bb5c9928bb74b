"""Methods as values: what may be one, what random_mix takes, and a stranger's beside ours."""

import importlib.util
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from nvidia.dali import fn, pipeline_def
from nvidia.dali.pipeline import Pipeline

from dali_mix import MixLoader, branches
from dali_mix import fn as mix
from dali_mix.errors import ConfigError
from dali_mix.options import probability
from tests import oracle
from tests.graphs import images_of, run_graph

EXAMPLE = Path(__file__).parents[3] / "examples/graph_method.py"
MODES = [("batch", "permutation"), ("elem", "permutation"), ("batch", "flip"), ("elem", "flip"), ("pair", "flip")]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HalfMix = load(EXAMPLE).HalfMix


@mix.register
@dataclass(frozen=True)
class StackMix(mix.GraphMethod):
    """The upper half of the image above the lower half of the partner, by an ``apply`` of its own."""

    name = "stackmix"

    def draw(self, batch):
        return mix.Draw(batch.whole, 0.5 + 0.0 * batch.uniform("unused", [1])[0])

    def apply(self, images, partner, draw):
        upper = fn.slice(images, rel_start=[0.0], rel_shape=[0.5], axes=[0])
        lower = fn.slice(fn.permute_batch(images, indices=partner), rel_start=[0.5], rel_shape=[0.5], axes=[0])
        return fn.cat(upper, lower, axis=0)


@mix.register
@dataclass(frozen=True)
class FadeMix(mix.GraphMethod):
    """The whole image, or the partner shrunk to a quarter, blended by a weight that is drawn."""

    name = "fademix"
    quarter: float = mix.option(0.0, probability, "A share of 1 blends a quarter only.")

    def draw(self, batch):
        weight = batch.uniform("weight", [1], 0.2, 0.7)[0]
        if not self.quarter:
            return mix.Draw(None, weight, weight=weight)
        box = batch.whole // 2
        lam = 1.0 - (1.0 - batch.own_share(box)) * (1.0 - weight)
        return mix.Draw(box, lam, source=batch.whole, weight=weight)


@mix.register
@dataclass(frozen=True)
class LabelMix(mix.CutMix):
    """Boxes as CutMix draws them, for a training step that makes labels of its own."""

    name = "labelmix"


def mixed_by(choices, **options):
    def graph(images, labels):
        return tuple(mix.random_mix(images, labels, num_classes=16, choices=choices, seed=3, branch_seed=5, **options))

    return graph


def partner_of(targets):
    other = targets.copy()
    np.fill_diagonal(other, 0)
    return np.where(other.max(1) > 0, other.argmax(1), np.arange(len(other)))


def expected_of(name, images, targets):
    """What a stranger's method makes of images, given its targets; and their weights."""
    partner, (height, width) = partner_of(targets), images.shape[1:3]
    own = np.where(partner == np.arange(len(partner)), 1, targets.diagonal()).astype(np.float64)
    other = images[partner].astype(np.float64)
    if name == "stackmix":
        return [np.concatenate([images[:, : height // 2], other[:, height // 2 :]], 1)]
    if name == "halfmix":
        left, right = images.astype(np.float64), images.astype(np.float64)
        left[:, :, : width // 2] = other[:, :, : width // 2]
        right[:, :, width // 2 : width // 2 * 2] = other[:, :, width // 2 : width // 2 * 2]
        return [left, right]
    return [oracle.mixup(images, partner, own)]


@pytest.mark.parametrize(("mode", "pairing"), MODES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_strangers_methods_stand_beside_ours(mode, pairing, dtype):
    choices = {mix.CutMix(alpha=0.5): 0.2, HalfMix(): 0.2, StackMix(): 0.2, FadeMix(): 0.2, "smmix": 0.1}
    images, seen = images_of(8, 12, 18, dtype=dtype), set()
    for mixed, targets, _, branch in run_graph(mixed_by(choices, mode=mode, pairing=pairing), images, iterations=40):
        name = branches.name_of(int(branch[0]))
        seen.add(name)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        if name in ("none", "smmix"):
            np.testing.assert_array_equal(mixed, images)
        if name in ("halfmix", "stackmix", "fademix"):
            versions = np.stack(expected_of(name, images, targets))
            distance = np.abs(versions - mixed.astype(float)).max((2, 3, 4)).min(0)
            assert distance.max() < (0.51 if dtype == np.uint8 else 1e-2)
            if name != "fademix":
                np.testing.assert_allclose(targets.diagonal(), 0.5, atol=1e-6)
        if name == "cutmix":
            assert (mixed[:, None] == images[None]).all(-1).any(1).all()
    assert seen == {"none", "cutmix", "halfmix", "stackmix", "fademix", "smmix"}


@pytest.mark.parametrize("method", [HalfMix(), StackMix(), FadeMix(), FadeMix(quarter=1.0), mix.ResizeMix()])
@pytest.mark.parametrize("known", [False, True])
def test_each_alone_flips_and_normalizes_as_before_and_behind(method, known):
    images, mirror = images_of(6, 12, 18, dtype=np.float32), np.array([0, 1, 1, 0, 1, 0], np.int32)
    normalization = mix.Normalization([100.0, 120.0, 140.0], [50.0, 60.0, 70.0])
    options = {"image_size": (12, 18)} if known else {}

    def in_one_pass(node, labels):
        coin = fn.external_source(lambda: list(mirror))
        return mixed_by({method: 1.0}, mirror=coin, normalization=normalization, **options)(node, labels)

    flipped = np.where(mirror[:, None, None, None] == 1, images[:, :, ::-1], images)
    (one, targets, _, branch), *_ = run_graph(in_one_pass, images)
    (other, expected, *_), *_ = run_graph(mixed_by({method: 1.0}), flipped)
    np.testing.assert_allclose(one, (other - normalization.mean) / np.array(normalization.std), atol=1e-4)
    np.testing.assert_array_equal(targets, expected)
    assert (branch == method.code).all()


@pytest.mark.parametrize("conditionals", [False, True])
@pytest.mark.parametrize("size", [1, 5])
def test_takes_partial_batches(size, conditionals):
    choices = {HalfMix(): 0.3, StackMix(): 0.3, "resizemix": 0.4}
    images = images_of(size, 12, 18)
    graph = mixed_by(choices, mode="elem")
    for mixed, targets, *_ in run_graph(graph, images, batch_size=6, iterations=8, enable_conditionals=conditionals):
        assert mixed.shape == images.shape
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)


def test_other_methods_leave_the_streams_of_ours_alone():
    """What CutMix draws in its batches does not depend on who else may come; nor do resumed runs."""
    images = images_of(8, 12, 18)
    beside = [{"cutmix": 0.5, other: 0.5} for other in ("smmix", "resizemix", HalfMix())]
    runs = [run_graph(mixed_by(choices), images, iterations=20) for choices in beside]
    for one, *others in zip(*runs, strict=True):
        if one[3][0] == 1:
            for other in others:
                for a, b in zip(one, other, strict=True):
                    np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("minmax", [None, (0.5, 0.5), (0.25, 0.25)])
def test_a_method_derived_from_cutmix_draws_boxes_of_its_own(minmax):
    choices = {mix.CutMix(minmax=(0.25, 0.25)): 0.4, LabelMix(minmax=minmax): 0.4, "mixup": 0.2}
    areas = {"cutmix": set(), "labelmix": set(), "mixup": set()}
    for _, targets, _, branch in run_graph(mixed_by(choices), images_of(8, 16, 16), iterations=30):
        areas[branches.name_of(int(branch[0]))].add(round(1 - float(targets.diagonal()[0]), 6))
    assert areas["cutmix"] == {1 / 16}
    assert areas["labelmix"] == {minmax[0] ** 2} if minmax else len(areas["labelmix"]) > 5


def make_pipeline(folder, checkpoint=None):
    @pipeline_def(batch_size=4, num_threads=2, device_id=None, seed=3, enable_checkpointing=True, checkpoint=checkpoint)
    def host():
        jpegs, labels = fn.readers.file(file_root=str(folder / "train"), name="reader", pad_last_batch=True)
        images = fn.resize(fn.decoders.image(jpegs), size=[32, 32])
        choices = {HalfMix(): 0.3, StackMix(): 0.3, mix.CutMix(): 0.3}
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
    copy = Pipeline.deserialize(make_pipeline(image_folder).serialize())
    assert_equal_runs(outputs_of(copy, 6), outputs_of(make_pipeline(image_folder), 6))


def test_a_loader_names_a_strangers_branch(image_folder):
    with MixLoader(make_pipeline(image_folder)) as loader:
        seen = {batch.branch for batch in loader}
    assert "halfmix" in seen
    assert seen <= {"none", "cutmix", "halfmix", "stackmix"}


def test_the_example_runs():
    result = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "halfmix [0.5 0.5" in result.stdout
    assert len(EXAMPLE.read_text().splitlines()) <= 40


def test_a_value_says_more_than_a_name_and_a_name_means_the_defaults():
    images = images_of(8, 32, 32)
    run = {
        choice: run_graph(mixed_by({choice: 1.0}), images)
        for choice in ("cutmix", mix.CutMix(), mix.CutMix(minmax=(0.25, 0.25)), "mixup", mix.Mixup(alpha=0.8))
    }
    assert_equal_runs(run["cutmix"], run[mix.CutMix()])
    assert_equal_runs(run["mixup"], run[mix.Mixup()])
    np.testing.assert_allclose(run[mix.CutMix(minmax=(0.25, 0.25))][0][1].diagonal(), 1 - 1 / 16, atol=1e-6)
    # Lists are taken where two numbers are, and a method stays a key.
    assert mix.CutMix(minmax=[0.25, 0.25]) == mix.CutMix(minmax=(0.25, 0.25))
    assert replace(mix.ResizeMix(), largest=0.5) != mix.ResizeMix()


@pytest.mark.parametrize(
    ("choices", "options", "error", "message"),
    [
        ({"fmix": 0.5}, {}, ValueError, "unknown method 'fmix'; legal are cutmix, mixup, smmix, resizemix"),
        ({"none": 0.5}, {}, ValueError, "unknown method 'none'"),
        ({mix.CutMix(): 0.3, mix.CutMix(alpha=2.0): 0.3}, {}, ValueError, "'cutmix' is given twice"),
        ({mix.CutMix(): 0.3, "cutmix": 0.3}, {}, ValueError, "'cutmix' is given twice"),
        ({mix.CutMix: 0.3}, {}, TypeError, r"a name or a value, as CutMix\(\), got <class"),
        ({mix.CutMix(): 0.5}, {"cutmix_alpha": 0.3}, ValueError, r"cutmix_alpha and minmax have no effect on a value"),
        ({mix.CutMix(): 0.5}, {"minmax": (0.1, 0.2)}, ValueError, r"give them to CutMix\(\.\.\.\)"),
        ({mix.Mixup(): 0.5}, {"mixup_alpha": 0.3}, ValueError, r"mixup_alpha has no effect on a value"),
        ({mix.CutMix(): 0.8, "mixup": 0.4}, {}, ValueError, "sum to at most 1"),
        ({HalfMix(): "much"}, {}, TypeError, r"choices\['halfmix'\] must be a number"),
    ],
)
def test_choices_that_are_not_legal(choices, options, error, message):
    with pytest.raises(error, match=message):
        run_graph(mixed_by(choices, **options), images_of(2))


def made(base=mix.GraphMethod, frozen=True, **fields):
    fields = {"name": "novel", "draw": lambda self, batch: None} | fields
    kind = type("Novel", (base,), {name: value for name, value in fields.items() if value is not None})
    return dataclass(frozen=True)(kind) if frozen else kind


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        (lambda: made(base=object), TypeError, "takes a GraphMethod: 'Novel' is none"),
        (lambda: made(frozen=False), TypeError, "must be a frozen dataclass"),
        (lambda: made(name=None), TypeError, "has no name"),
        (lambda: made(share=0.5, __annotations__={"share": "float"}), TypeError, r"share, which is no option"),
        (lambda: made(name="Novel"), ConfigError, "an identifier in lower case"),
        (lambda: made(name="cutmix"), ConfigError, "'cutmix' is taken"),
        (lambda: made(name="mix"), ConfigError, "'mix' is taken"),
        (lambda: made(code=2), ConfigError, "number 2 is mixup's"),
        (lambda: made(name="smmix"), ConfigError, "smmix has the number 3"),
    ],
)
def test_what_is_no_method_is_not_registered(method, error, message):
    before = dict(mix.BRANCHES)
    with pytest.raises(error, match=message):
        mix.register(method())
    assert dict(mix.BRANCHES) == before


@pytest.mark.parametrize("drawn", [None, mix.Draw(None, 1)])
def test_what_is_no_draw_is_told(drawn):
    with pytest.raises(TypeError, match=r"Novel\.draw must (return a mix\.Draw|give a box, or a weight)"):
        made(draw=lambda self, batch: drawn)().drawn(None)


def test_a_method_that_is_not_registered_is_told():
    with pytest.raises(TypeError, match=r"Novel is not registered; put @mix\.register above the class"):
        run_graph(mixed_by({made()(): 0.5}), images_of(2))


def test_codes_are_never_reused():
    assert {name: mix.BRANCHES[name] for name in ("none", "cutmix", "mixup", "smmix", "resizemix")} == {
        "none": 0, "cutmix": 1, "mixup": 2, "smmix": 3, "resizemix": 4
    }  # fmt: skip
    assert mix.register(HalfMix).code == HalfMix.code == mix.BRANCHES["halfmix"] >= 1 << 30
