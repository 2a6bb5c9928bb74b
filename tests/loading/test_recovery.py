"""Bad files through the real pipelines: what is delivered, what is said, and what a state holds."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def

from dali_mix import ConfigError, DataError, MixLoader
from dali_mix.data import Augmentation, decode_images, read_images, scan_image_folder
from dali_mix.loading.recovery import BadImage, TolerantLoader
from tests import hostile
from tests.hostile import CLASSES, PER_CLASS, train_build, val_build


@pytest.fixture(scope="session")
def good_folder(tmp_path_factory):
    return hostile.write_good(tmp_path_factory.mktemp("good"))


@pytest.fixture
def root(good_folder, tmp_path):
    return Path(shutil.copytree(good_folder, tmp_path / "images"))


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def spoil(path):
    path.write_text("not an image")


def run(loader, epochs):
    return [list(loader) for _ in range(epochs)]


def flat(epochs):
    return [batch for epoch in epochs for batch in epoch]


def assert_equal_batches(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.branch == other.branch
        for a, b in zip(one[:3], other[:3], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def reading_order(build, folder, epochs=1):
    """Indices of the files in each batch."""
    numbered = replace(folder, labels=tuple(range(len(folder))))
    with MixLoader(build(numbered, num_classes=len(folder))) as loader:
        return [[batch.labels.tolist() for batch in epoch] for epoch in run(loader, epochs)]


@pytest.mark.parametrize("shard", [None, 0, 1])
def test_the_batches_are_those_of_a_list_with_the_stand_in(root, shard):
    """Nothing else changes: against a run that had the replacement from the start."""
    options = {} if shard is None else {"shard_id": shard, "num_shards": 2, "batch_size": 5}
    build = train_build(**options, augmentation=Augmentation(aa="rand-m9-mstd0.5-inc1", reprob=0.25))
    spoil(root / "class2" / "4.jpg")
    spoil(root / "class2" / "8.jpg")  # the next in the class is its first
    folder = scan_image_folder(root)
    index = {path: number for number, path in enumerate(folder.files)}
    known = np.arange(len(folder))
    for bad, good in [(4, 5), (8, 0)]:
        known[index[str(root / "class2" / f"{bad}.jpg")]] = index[str(root / "class2" / f"{good}.jpg")]
    with MixLoader(build(folder.select(known))) as reference:
        expected = run(reference, 6)
    with TolerantLoader(build, folder) as loader:
        got = run(loader, 6)
        assert sorted(Path(image.path).name for image in loader.bad_images) == ["4.jpg", "8.jpg"]
    assert [len(epoch) for epoch in got] == [len(epoch) for epoch in expected]
    assert_equal_batches(flat(got), flat(expected))


@pytest.mark.parametrize("shard", [None, 1])
def test_a_run_cut_anywhere_goes_on_exactly(root, shard):
    """Among the bad files are truncated ones, which some crops survive."""
    options = {} if shard is None else {"shard_id": shard, "num_shards": 2, "batch_size": 5}
    build = train_build(**options)
    for name, harm in {"0/1": truncate, "1/3": truncate, "1/4": spoil, "3/8": truncate}.items():
        harm(root / f"class{name}.jpg")
    folder = scan_image_folder(root)
    (root / "class2" / "0.jpg").unlink()
    states, batches = [], []
    with TolerantLoader(build, folder) as loader:
        for _ in range(3):
            batch = True
            while batch is not None:
                states.append(loader.state_dict())
                batch = next(loader, None)
                batches.append(batch)
    found = [len(state["stand_ins"]) for state in states]
    assert found[-1] >= 3
    discoveries = [place for place in range(1, len(found)) if found[place] > found[place - 1]]
    ends = [place for place, batch in enumerate(batches[:-1]) if batch is None]
    cuts = {ends[0], ends[0] + 1, discoveries[0] - 1, discoveries[0], discoveries[-1] - 1}
    for cut in sorted(cuts):
        stop = min(cut + 5, len(states) - 1)
        reported = []
        with TolerantLoader(train_build(**options, seed=99), folder, on_bad_image=reported.append) as loader:
            loader.load_state_dict(states[cut])
            assert len(loader.bad_images) == found[cut]
            for batch in batches[cut:stop]:
                got = next(loader, None)
                assert (got is None) == (batch is None)
                if batch is not None:
                    assert_equal_batches([got], [batch])
            assert loader.state_dict() == states[stop]
            assert tuple(reported) == loader.bad_images[found[cut] :]


@pytest.mark.parametrize("batch_size", [6, 7])  # 36 files: 7 leaves one to drop
@pytest.mark.parametrize("place", ["first", "last", "dropped", "first of the second epoch"])
def test_bad_files_at_the_ends_of_an_epoch(root, batch_size, place):
    build = train_build(batch_size=batch_size)
    folder = scan_image_folder(root)
    first, second = reading_order(build, folder, 2)
    dropped = sorted(set(range(len(folder))) - {index for batch in first for index in batch})
    if place == "dropped" and not dropped:
        pytest.skip("nothing is dropped")
    victims = {"first": first[0], "last": first[-1], "dropped": dropped, "first of the second epoch": second[0]}[place]
    spoil(Path(folder.files[victims[0]]))
    with TolerantLoader(build, folder) as loader:
        epochs = run(loader, 3)
        assert [len(epoch) for epoch in epochs] == [36 // batch_size] * 3
        assert [image.path for image in loader.bad_images] == [folder.files[victims[0]]]
        assert {label for batch in flat(epochs) for label in batch.labels.tolist()} == set(range(CLASSES))


def test_all_bad_files_of_a_batch_cost_one_rebuild(root):
    build, folders = train_build(), []

    def counting(folder):
        folders.append(folder)
        return build(folder)

    folder = scan_image_folder(root)
    batch = reading_order(build, folder)[0][2]
    for index in batch[:5]:
        spoil(Path(folder.files[index]))
    with TolerantLoader(counting, folder) as loader:
        run(loader, 2)
        assert {image.path for image in loader.bad_images} == {folder.files[index] for index in batch[:5]}
    assert len(folders) == 2


def test_a_class_without_a_good_file_is_stood_in_for_by_another(root):
    for index in range(PER_CLASS):
        spoil(root / "class3" / f"{index}.jpg")
    with TolerantLoader(train_build(), scan_image_folder(root)) as loader:
        labels = torch.cat([batch.labels for batch in flat(run(loader, 1))])
        assert len(loader.bad_images) == PER_CLASS
    assert sorted(labels.tolist()) == sorted([0] * 18 + [1] * 9 + [2] * 9)


def test_nothing_but_bad_files(root):
    for path in root.glob("*/*.jpg"):
        spoil(path)
    with TolerantLoader(train_build(), scan_image_folder(root)) as loader:
        with pytest.raises(
            DataError, match=r"^none of the 36 files in .*images can be used, the first is .*not an image.*$"
        ):
            next(loader)
        with pytest.raises(DataError, match="stopped at an earlier error"):
            next(loader)


def test_a_stand_in_that_turns_bad_is_replaced_too(root):
    folder = scan_image_folder(root)
    for index in (1, 2):
        spoil(root / "class0" / f"{index}.jpg")
    with TolerantLoader(val_build(), folder, "partial", stand_in="left_out") as loader:
        list(loader)
        assert [row[:2] for row in loader.state_dict()["stand_ins"]] == [[1, 3], [2, 3]]
        (root / "class0" / "3.jpg").unlink()
        list(loader)  # what was read ahead, and the rest of what was mapped
        labels = torch.cat([batch.labels for batch in list(loader)])
        assert [row[:2] for row in loader.state_dict()["stand_ins"]] == [[1, 4], [2, 4], [3, 4]]
    assert labels.tolist() == [0, -1, -1, -1, *folder.labels[4:]]


def test_the_callback_may_stop_the_run(root):
    spoil(root / "class0" / "2.jpg")

    def refuse(image):
        assert image == BadImage(str(root / "class0" / "2.jpg"), image.reason)
        raise DataError(f"enough: {image.reason}")

    with TolerantLoader(train_build(), scan_image_folder(root), on_bad_image=refuse) as loader:
        with pytest.raises(DataError, match="enough: not an image"):
            run(loader, 1)
        with pytest.raises(DataError, match="stopped at an earlier error"):
            next(loader)


def test_a_file_that_comes_back_in_time_is_not_bad(root):
    folder = scan_image_folder(root)
    path = Path(folder.files[reading_order(train_build(), folder)[0][3][0]])
    data = path.read_bytes()
    path.unlink()
    with TolerantLoader(train_build(), folder) as loader:
        next(loader)
        time.sleep(0.5)  # DALI reads ahead and fails meanwhile
        path.write_bytes(data)
        rest = list(loader)
        assert loader.bad_images == ()
    with MixLoader(train_build()(folder)) as reference:
        next(reference)
        assert_equal_batches(rest, list(reference))


def test_a_failure_that_no_file_explains_stops_the_loader(root):
    @pipeline_def(batch_size=6, num_threads=2, device_id=None, enable_checkpointing=True)
    def ragged(folder):
        jpegs, labels = read_images(folder, training=False)
        return decode_images(jpegs, decoder="cpu"), labels, labels, labels

    (root / "class0" / "0.jpg").unlink()
    hostile.photo(size=(30, 20)).save(root / "class0" / "0.jpg")
    with TolerantLoader(ragged, scan_image_folder(root)) as loader:
        with pytest.raises(DataError, match="differ in size"):
            next(loader)
        assert loader.bad_images == ()


def test_sizes_go_on_as_scheduled(root):
    def side(epoch, batch):
        return 16 + 8 * (epoch % 2) + 2 * batch

    build = train_build(img_size=side)
    folder = scan_image_folder(root)
    spoil(Path(folder.files[reading_order(build, folder)[0][3][2]]))
    with TolerantLoader(build, folder) as loader:
        sides = [[batch.images.shape[-1] for batch in epoch] for epoch in run(loader, 3)]
        assert len(loader.bad_images) == 1
    assert sides == [[side(epoch, batch) for batch in range(6)] for epoch in range(3)]


def test_a_state_keeps_the_folders_fingerprint_and_refuses_another(root, good_folder):
    folder = scan_image_folder(root)
    spoil(root / "class0" / "2.jpg")
    with TolerantLoader(train_build(), folder) as loader:
        list(loader)
        state = loader.state_dict()
        with pytest.raises(ConfigError, match="before the first batch"):
            loader.load_state_dict(state)
    assert state["fingerprint"]["dataset"] == folder.digest() == scan_image_folder(good_folder).digest()
    assert len(state["stand_ins"]) == 1
    (root / "class3" / "8.jpg").unlink()
    with (
        TolerantLoader(train_build(), scan_image_folder(root)) as other,
        pytest.raises(ConfigError, match=r"other data: .*dataset"),
    ):
        other.load_state_dict(state)


def test_a_state_of_a_plain_loader_is_taken(root):
    folder = scan_image_folder(root)
    with MixLoader(train_build()(folder)) as plain:
        batches = iter(plain)
        next(batches)
        state = plain.state_dict()
        expected = list(batches)
    with TolerantLoader(train_build(), folder) as loader:
        loader.load_state_dict(state)
        assert_equal_batches(list(loader), expected)


@pytest.mark.parametrize(("batch_size", "shards"), [(6, 1), (7, 1), (4, 5), (8, 5)])
def test_a_loop_over_a_validation_state_after_the_last_batch_is_the_next_epoch(root, batch_size, shards):
    folder = scan_image_folder(root)
    for shard in range(shards):
        build = val_build(batch_size=batch_size, shard_id=shard, num_shards=shards)
        with MixLoader(build(folder), "partial") as loader:
            size = len(loader)
            expected = [next(loader) for _ in range(size)]
            state = loader.state_dict()
        with MixLoader(build(folder), "partial") as restored:
            restored.load_state_dict(state)
            assert_equal_batches(list(restored), expected)


def test_interface(root):
    with TolerantLoader(train_build(), scan_image_folder(root)) as loader:
        assert (len(loader), loader.batch_size, loader.num_samples) == (6, 6, 36)
    with pytest.raises(ConfigError, match="closed"):
        next(loader)
    with pytest.raises(ConfigError, match=r"stand_in must be one of same_class, left_out, got 'any'"):
        TolerantLoader(train_build(), scan_image_folder(root), stand_in="any")


def test_pipelines_that_cannot_be_recovered_are_refused(root):
    @pipeline_def(batch_size=6, num_threads=2, device_id=None)
    def other_reader(folder):
        jpegs, labels = fn.readers.file(files=list(folder.files), labels=list(folder.labels), name="mine")
        return jpegs, labels, labels, labels

    with pytest.raises(ConfigError, match="reads the given folder, all of it, with read_images"):
        len(TolerantLoader(other_reader, scan_image_folder(root)))
    with pytest.raises(ConfigError, match="needs images in their order"):
        len(TolerantLoader(train_build(), scan_image_folder(root), stand_in="left_out"))


def test_a_missing_file_is_found_ahead_of_its_batch(root, caplog):
    """DALI's reader fails before the batches that it has read are delivered."""
    folder = scan_image_folder(root)
    path = Path(folder.files[reading_order(train_build(), folder)[0][4][0]])
    path.unlink()
    with TolerantLoader(train_build(), folder) as loader:
        next(loader)
        time.sleep(0.3)
        run(loader, 2)
        assert [image.path for image in loader.bad_images] == [str(path)]
    assert caplog.records == []  # no batch was tried again in vain
