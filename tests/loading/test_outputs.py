"""What a pipeline outputs and what becomes of it in a batch."""

import pytest
import torch
from nvidia.dali import fn, pipeline_def, types

from dali_mix import ConfigError, DataError, MixLoader
from dali_mix import fn as mix
from dali_mix.data import TolerantLoader, scan_image_folder
from dali_mix.fn.outputs import batch_outputs
from pipelines.imagenet import imagenet_train

SIZE = (9, 12)


@pytest.fixture(scope="module")
def folder(image_folder):
    return scan_image_folder(image_folder / "train")


@pipeline_def(batch_size=4, num_threads=1, device_id=None, seed=3)
def host(folder, outputs):
    jpegs, labels = fn.readers.file(
        files=list(folder.files[:8]), labels=list(folder.labels[:8]), pad_last_batch=True, name="mine"
    )
    return outputs(fn.resize(fn.decoders.image(jpegs), size=SIZE), labels)


def first(folder, outputs):
    with MixLoader(host(folder, outputs)) as loader:
        return next(iter(loader))


def chw(images):
    return fn.crop_mirror_normalize(images, dtype=types.FLOAT, output_layout="CHW")


def hwc(images):
    return fn.crop_mirror_normalize(images, dtype=types.FLOAT, output_layout="HWC")


def readme(images, labels):
    images, targets = mix.cutmix(images, labels, num_classes=10, seed=1)
    return hwc(images), targets


def test_the_readmes_cutmix_goes_into_the_loader(folder):
    batch = first(folder, readme)
    assert batch.branch == "cutmix"
    assert batch.labels.tolist() == [-1] * 4
    assert batch.images.shape == (4, 3, *SIZE)
    assert batch.targets.sum(1).tolist() == pytest.approx([1] * 4)

    def with_labels(images, labels):
        return *readme(images, labels), labels

    assert first(folder, with_labels).labels.tolist() == list(folder.labels[:4])


@pytest.mark.parametrize(
    ("outputs", "branch"),
    [
        (lambda images, labels: mix.mixup(images, labels, num_classes=10), "mixup"),
        (lambda images, labels: (images, fn.one_hot(labels, num_classes=10)), "none"),
    ],
)
def test_the_branch_is_that_of_the_only_method(folder, outputs, branch):
    assert first(folder, outputs).branch == branch


def test_a_batch_tells_how_it_was_mixed_where_the_pipeline_outputs_it(folder):
    def outputs(images, labels):
        mixed = mix.random_mix(images, labels, num_classes=10, choices={"cutmix": 1.0}, seed=1)
        return batch_outputs(mixed, params=True)

    batch = first(folder, outputs)
    images, targets, labels, branch = batch  # a tuple of four, as without
    assert branch == "cutmix"
    partner, box, lam = batch.params
    y1, x1, y2, x2 = box.T
    height, width = images.shape[2:]
    torch.testing.assert_close(lam, 1 - ((y2 - y1) * (x2 - x1) / (height * width)).float())
    one_hot = torch.nn.functional.one_hot(labels, 10).float()
    torch.testing.assert_close(targets, lam[:, None] * one_hot + (1 - lam)[:, None] * one_hot[partner.long()])
    assert batch.to("meta").params.box.device.type == "meta"
    assert batch._replace(branch="mixup").params is batch.params
    assert first(folder, lambda images, labels: mix.random_mix(images, labels, num_classes=10)).params is None


def test_channels_first_is_served_as_it_is(folder, caplog):
    def mixed(layout):
        def outputs(images, labels):
            mixed = mix.random_mix(images, labels, num_classes=10, seed=1, branch_seed=1)
            return layout(mixed.images), *mixed[1:]

        return outputs

    batch, expected = first(folder, mixed(chw)), first(folder, mixed(hwc))
    assert "output_layout='HWC' saves that" in caplog.text
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(batch.images, expected.images)


WANTED = "images, targets, labels, branch, as random_mix gives them, or images, targets, as cutmix and mixup do"
REFUSED = {
    "five": (lambda images, labels: (images, *mix.random_mix(images, labels, num_classes=10)), "has 5 output"),
    "one": (lambda images, labels: images, "has 1 output"),
    "labels": (lambda images, labels: (images, labels), "second output must be soft targets, float"),
    "flat": (
        lambda images, labels: (fn.reshape(images, shape=[-1]), fn.one_hot(labels, num_classes=9)),
        "first output",
    ),
    "two of four": (
        lambda images, labels: mix.random_mix(images, labels, num_classes=10)[:2],
        "does not output which branch",
    ),
    "one-hot": (
        lambda images, labels: (*mix.cutmix(images, labels, num_classes=9), fn.one_hot(labels, num_classes=9)),
        "labels must be one class number per image",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_outputs_are_refused_in_the_loaders_words(folder, name):
    outputs, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message) as caught:
        first(folder, outputs)
    assert "could not deliver" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fewer_classes_than_the_folder_has_are_refused_when_the_pipeline_is_made(folder):
    with pytest.raises(ConfigError, match=r"num_classes is 5, and .* has 10 classes; give their number or more"):
        imagenet_train(folder, batch_size=4, num_classes=5, device="cpu")
    assert imagenet_train(folder, batch_size=4, num_classes=11, device="cpu") is not None


def test_a_mistake_of_the_pipeline_is_not_sought_in_the_files(folder, caplog):
    """No file is probed, and the batch is not tried again."""

    def build(folder):
        return imagenet_train(folder, batch_size=70, device="cpu", img_size=16)

    shifted = type(folder)(folder.root, folder.files, tuple(label + 5 for label in folder.labels), folder.classes)
    with (
        TolerantLoader(build, shifted) as loader,
        pytest.raises(DataError, match=r"^DALI could not deliver batch 1: label \d+ .*lies outside \[0, 10\)"),
    ):
        next(iter(loader))
    assert caplog.text == ""
