"""States of loaders whose pipelines are a user's own: of the same data, or refused."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from dali_mix import ConfigError, DataError, MixLoader
from dali_mix import fn as mix
from dali_mix.loading.checkpoint import _decode, _encode
from pipelines.imagenet import imagenet_train

OPTIONS = {"batch_size": 2, "num_threads": 1, "device_id": None, "enable_checkpointing": True, "seed": 7}


def png(level):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 0, 0)).save(file, "png")
    return file.getvalue()


def make_folder(root, names):
    for index, name in enumerate(names):
        path = root / str(index % 2) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(20 * index))
    return root


def make_tar(path, keys):
    """Class numbers of one and of two digits."""
    with tarfile.open(path, "w") as tar:
        for index, key in enumerate(keys, 8):
            for name, content in ((f"{key}.png", png(index)), (f"{key}.cls", str(index).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    index = path.with_suffix(".idx")
    subprocess.run([Path(sys.executable).with_name("wds2idx"), path, index], check=True, capture_output=True)
    return path, index


@pipeline_def(**OPTIONS)
def from_folder(root):
    jpegs, labels = fn.readers.file(file_root=str(root), pad_last_batch=True, name="mine")
    return tuple(mix.random_mix(fn.decoders.image(jpegs), labels, num_classes=2))


@pipeline_def(**OPTIONS)
def from_list(root):
    files = sorted(map(str, root.rglob("*.png")))
    jpegs, labels = fn.readers.file(files=files, labels=[0] * len(files), pad_last_batch=True, name="mine")
    return tuple(mix.random_mix(fn.decoders.image(jpegs), labels, num_classes=2))


@pipeline_def(**OPTIONS)
def from_tar(paths, parsed=True):
    path, index = map(str, paths)
    images, text = fn.readers.webdataset(
        paths=path, index_paths=index, ext=["png", "cls"], pad_last_batch=True, name="mine"
    )
    labels = parse_class(text) if parsed else text
    return tuple(mix.random_mix(fn.decoders.image(images), labels, num_classes=1000))


def parse_class(text):
    """As docs/soft_targets.md has it."""
    places = np.array([10**8, 10**7, 10**6, 10**5, 10**4, 10**3, 10**2, 10, 1], np.int32)
    digits = fn.pad(fn.cast(text, dtype=types.INT32) - 48, axes=[0], shape=[9])
    number = fn.reductions.sum(digits * types.Constant(places), axes=[0])
    return number // types.Constant(places)[text.shape(dtype=types.INT32)[0] - 1]


def test_classes_in_a_tar_are_parsed_and_other_tars_told_apart(tmp_path):
    keys = ["a", "b", "c", "d"]
    state, expected = state_of(from_tar(make_tar(tmp_path / "one.tar", keys)))
    assert [batch.labels.tolist() for batch in expected] == [[10, 11]]
    other = make_tar(tmp_path / "two.tar", ["a", "b", "c", "zz"])
    with MixLoader(from_tar(other)) as loader, pytest.raises(ConfigError, match="belongs to other data: dataset"):
        loader.load_state_dict(state)
    with (
        MixLoader(from_tar(other, parsed=False)) as loader,
        pytest.raises(DataError, match=r"labels must be integers, got bytes.*docs/soft_targets\.md"),
    ):
        next(iter(loader))


def state_of(pipeline):
    with MixLoader(pipeline) as loader:
        iterator = iter(loader)
        next(iterator)
        return loader.state_dict(), list(iterator)


@pytest.mark.parametrize("build", [from_folder, from_list])
def test_a_state_of_another_folder_of_equal_size_is_refused(tmp_path, build):
    names = ["a.png", "b.png", "c.png", "d.png"]
    state, expected = state_of(build(make_folder(tmp_path / "one", names)))
    with MixLoader(build(make_folder(tmp_path / "moved", names))) as moved:
        moved.load_state_dict(state)
        assert torch.equal(next(iter(moved)).images, expected[0].images)
    with (
        MixLoader(build(make_folder(tmp_path / "other", [*names[:3], "z.png"]))) as other,
        pytest.raises(ConfigError, match=r"belongs to other data: dataset '\w{16}' -> '\w{16}'"),
    ):
        other.load_state_dict(state)


def test_a_state_of_before_is_taken_with_a_word(tmp_path, caplog):
    """Versions before knew the data of ``read_images`` only."""
    folder = make_folder(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    state, expected = state_of(from_folder(folder))
    state["fingerprint"]["dataset"] = None
    with MixLoader(from_folder(folder)) as loader:
        loader.load_state_dict(state)
        assert "does not say which data it belongs to" in caplog.text
        assert torch.equal(next(iter(loader)).images, expected[0].images)


def test_what_cannot_be_known_is_refused_unless_asked_for(tmp_path):
    pipeline = from_folder(make_folder(tmp_path, ["a.png", "b.png", "c.png", "d.png"]))
    graph = pipeline.serialize()
    state, expected = state_of(pipeline)
    options = {name: value for name, value in OPTIONS.items() if name != "seed"}
    with MixLoader(Pipeline.deserialize(graph, **options)) as loader:
        with pytest.raises(ConfigError, match=r"data cannot be known.*unknown_data=True"):
            loader.load_state_dict(state)
        loader.load_state_dict(state, unknown_data=True)
        assert torch.equal(next(iter(loader)).images, expected[0].images)


@pytest.mark.parametrize("state", [{}, None, "words", {"fingerprint": {}}])
def test_what_is_no_state_is_refused(tmp_path, state):
    root = make_folder(tmp_path, ["a.png", "b.png"])
    with MixLoader(from_folder(root)) as loader, pytest.raises(ConfigError, match="a loader's state comes from"):
        loader.load_state_dict(state)


def test_a_state_is_taken_by_a_graph_with_other_operators_that_have_none(image_folder):
    """As between versions; an operator with a state that only one of the two has is another matter."""
    options = {"batch_size": 8, "img_size": 16, "device": "cpu", "num_threads": 1}
    with MixLoader(imagenet_train(image_folder / "train", **options)) as loader:
        iterator = iter(loader)
        next(iterator)
        state, expected = loader.state_dict(), next(iterator)
    fields = _decode(state["pipeline"])
    without = [(key, value) for key, value in fields if key != 1 or dict(_decode(value)).get(2)]
    state["pipeline"] = _encode([*without, (1, _encode([(1, b"__Gone_7"), (2, b"")]))])
    with MixLoader(imagenet_train(image_folder / "train", **options)) as loader:
        loader.load_state_dict(state)
        assert torch.equal(next(iter(loader)).images, expected.images)
    for changed in (without[1:], [*without, (1, _encode([(1, b"gone"), (2, b"5")]))]):
        state["pipeline"] = _encode(changed)
        with (
            MixLoader(imagenet_train(image_folder / "train", **options)) as loader,
            pytest.raises(ConfigError, match=r"not one of this pipeline: only one of the two has a state of"),
        ):
            loader.load_state_dict(state)
    state["pipeline"] = b"junk"
    with MixLoader(imagenet_train(image_folder / "train", **options)) as loader, pytest.raises(ConfigError):
        loader.load_state_dict(state)
