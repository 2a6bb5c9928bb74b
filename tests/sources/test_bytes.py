"""A stranger's source, that of examples/source.py: images that are no files, from order to recovery."""

import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dali_mix import ConfigError, DataError, MixLoader
from dali_mix.data import TolerantLoader, scan_image_folder
from dali_mix.sources import Source, open_source, register
from examples.source import Tar
from pipelines.imagenet import imagenet_train, imagenet_val

RAW = {"batch_size": 5, "img_size": 16, "device": "cpu", "num_threads": 2}


def pack(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return open_source(f"tar:{path}")


@pytest.fixture
def members(image_folder):
    root = image_folder / "train"
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("*/*.*"))}


@pytest.fixture
def images(tmp_path, members):
    return pack(tmp_path / "train.tar", members)


def assert_equal_batches(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.branch == other.branch
        for a, b in zip(one[:3], other[:3], strict=True):
            assert torch.equal(a, b)


def test_a_tar_is_read_like_the_folder_it_was_made_of(image_folder, images):
    folder = scan_image_folder(image_folder / "train")
    assert (images.classes, images.labels.tolist()) == (folder.classes, folder.labels.tolist())
    with MixLoader(imagenet_train(images, **RAW)) as one, MixLoader(imagenet_train(folder, **RAW)) as other:
        for _ in range(3):
            assert_equal_batches(list(one), list(other))
    with MixLoader(imagenet_val(images, **RAW | {"batch_size": 32}), "partial") as loader:
        epochs = [[batch.labels for batch in loader] for _ in range(2)]
        assert [torch.cat(epoch).tolist() for epoch in epochs] == [images.labels.tolist()] * 2
        assert [len(labels) for labels in epochs[0]] == [32, 32, 6]


def test_a_run_over_it_cut_anywhere_goes_on_exactly(tmp_path, members):
    bad = [name for number, name in enumerate(members) if number % 9 == 4]
    images = pack(tmp_path / "train.tar", members | dict.fromkeys(bad[:-1], b"no image") | {bad[-1]: b""})
    build = partial(imagenet_train, **RAW)
    states, batches = [], []
    with TolerantLoader(build, images) as loader:
        for _ in range(2):
            for batch in loader:
                batches.append(batch)
                states.append(loader.state_dict())
        found = {image.path: image.reason for image in loader.bad_images}
    assert set(found) == {f"{tmp_path}/train.tar: {name}" for name in bad}
    assert found.pop(f"{tmp_path}/train.tar: {bad[-1]}") == "empty file"
    assert {reason[:12] for reason in found.values()} == {"not an image"}
    for cut in (0, 6, 13, 14, 20):
        with TolerantLoader(build, open_source(f"tar:{tmp_path}/train.tar")) as loader:
            loader.load_state_dict(states[cut])
            rest = [batch for _ in range(2) for batch in loader]
            assert_equal_batches(rest[: len(batches) - cut - 1], batches[cut + 1 :])
    with (
        TolerantLoader(build, images.without(list(found))) as other,
        pytest.raises(ConfigError, match="belongs to other data"),
    ):
        other.load_state_dict(states[3])


class Forgetful(Tar):
    """Cannot read some images, as over a network."""

    lost = frozenset()

    def read(self, indices):
        if self.lost & set(indices):
            raise OSError(5, "Input/output error")
        return super().read(indices)


def test_what_a_source_raises_is_a_bad_image(images, tmp_path):
    images = Forgetful(f"{tmp_path}/train.tar")
    images.lost = frozenset({3, 40})
    with TolerantLoader(partial(imagenet_train, **RAW), images) as loader:
        assert [len(list(loader)) for _ in range(3)] == [14, 14, 14]
        found = {image.path: image.reason for image in loader.bad_images}
    assert found == {images.describe(index): "cannot be read: [Errno 5] Input/output error" for index in (3, 40)}
    with TolerantLoader(partial(imagenet_val, **RAW), images, "partial", stand_in="left_out") as loader:
        labels = torch.cat([batch.labels for batch in loader]).tolist()
    assert labels == [-1 if index in (3, 40) else label for index, label in enumerate(images.labels.tolist())]
    with MixLoader(imagenet_val(images, **RAW), "partial") as loader:
        message = (
            rf"^DALI could not deliver batch 1: {images.describe(3)} cannot be read: \[Errno 5\] Input/output error$"
        )
        with pytest.raises(DataError, match=message):
            next(loader)


def test_images_are_excluded_by_their_descriptions(images, tmp_path):
    lines = [images.describe(2), "of nothing", images.describe(69)]
    named = images.named(lines, Path())
    assert (named.files, named.lines) == ({2, 69}, {0, 2})
    left = images.without(lines)
    assert [left.describe(index) for index in (1, 2)] == [images.describe(index) for index in (1, 3)]
    assert (len(left), left.name, left.owns(lines[0])) == (68, f"tar:{tmp_path}/train.tar", False)
    assert np.array_equal(left.read([2])[0], images.read([3])[0])
    assert images.digest() != left.digest() == open_source(f"tar:{tmp_path}/train.tar").without(lines).digest()
    some = open_source(f"tar:{tmp_path}/train.tar", classes=[images.classes[3], "none", images.classes[1]], select=True)
    assert (some.classes[1], sorted(set(some.labels.tolist()))) == ("none", [0, 2])
    assert some.summary() == f"14 images of 3 classes in tar:{tmp_path}/train.tar"


@pytest.mark.parametrize(
    ("content", "message"), [(None, "FileNotFoundError"), (b"", "ReadError: empty file"), (b"x" * 2000, "ReadError")]
)
def test_what_a_source_raises_is_one_line(tmp_path, content, message):
    path = tmp_path / "train.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^tar:{path} cannot be opened, line \d+: {message}") as error:
        open_source(f"tar:{path}")
    assert "\n" not in str(error.value)


def test_a_file_beside_the_folders_of_a_tar_is_no_image(tmp_path):
    assert pack(tmp_path / "train.tar", {"README": b"words", "a/1.jpg": b"1"}).classes == ("a",)


def test_sources_that_cannot_work():
    with pytest.raises(ConfigError, match="there are two sources of the scheme 'tar'"):
        register(type("Other", (Tar,), {"scheme": "tar"}))
    with pytest.raises(ConfigError, match="scheme of Other must be lower-case letters and digits, got 'T:'"):
        register(type("Other", (Tar,), {"scheme": "T:"}))

    class Given(Source):
        scheme = "given"

        def __init__(self, where):
            self.classes, self.labels = ["a", "b"], [int(text) for text in where.split()]

        def read(self, indices):
            return [np.zeros((2, 2), np.uint8) for _ in indices]

    register(Given)
    with pytest.raises(ConfigError, match="given:0 2 1, image 1 has the label 2, and given:0 2 1 has 2 classes"):
        open_source("given:0 2 1")
    with pytest.raises(ConfigError, match="given: holds no image"):
        open_source("given:")
    with pytest.raises(ConfigError, match=r"has no image of 1 class\(es\), the first is 'a'"):
        open_source("given:1 1")
    with pytest.raises(ConfigError, match=r"given:x cannot be opened, line \d+: ValueError: invalid literal for int"):
        open_source("given:x")
    for names in (["a", "a"], ["a", ""]):
        named = Given("0 1")
        named.classes = names
        with pytest.raises(ConfigError, match="a class without a name, or two of one name; give each its own"):
            named.check()
    with (
        MixLoader(imagenet_val(open_source("given:0 1 1"), **RAW), "partial") as loader,
        pytest.raises(DataError, match=r"image 0 cannot be read: read must give uint8 \(bytes,\), got uint8 of shape"),
    ):
        next(loader)
