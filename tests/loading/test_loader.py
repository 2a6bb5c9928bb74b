import numpy as np
import pytest
import torch
from nvidia.dali import fn, pipeline_def
from PIL import Image

from dali_mix import ConfigError, DataError, MixLoader
from dali_mix import fn as mix
from dali_mix.data import scan_image_folder
from pipelines.imagenet import imagenet_train, imagenet_val
from tests.sections import VALIDATION, sectioned

CHOICES = {"cutmix": 0.4, "mixup": 0.3, "smmix": 0.2}


@pytest.fixture(scope="module")
def train(image_folder):
    return scan_image_folder(image_folder / "train")


@pytest.fixture(scope="module")
def val(image_folder):
    return scan_image_folder(image_folder / "val")


def train_loader(folder, **options):
    options = {"batch_size": 8, "img_size": 32, "choices": CHOICES, "device": "cpu", "num_threads": 2} | options
    return MixLoader(imagenet_train(folder, **sectioned(options)))


def val_loader(folder, **options):
    options = {"batch_size": 8, "img_size": 32, "device": "cpu", "num_threads": 2} | options
    return MixLoader(imagenet_val(folder, **sectioned(options, VALIDATION)), "partial")


def assert_equal_batches(left, right):
    for one, other in zip(left, right, strict=True):
        assert one.branch == other.branch
        for a, b in zip(one[:3], other[:3], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_batch(train):
    with train_loader(train, half=True) as loader:
        batch = next(iter(loader))
    assert batch.images.shape == (8, 3, 32, 32)
    assert batch.images.dtype == torch.float16
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.targets.shape == (8, 10)
    assert batch.targets.dtype == torch.float32
    assert batch.labels.shape == (8,)
    assert batch.labels.dtype == torch.int64


def test_every_epoch_has_len_batches_and_another_order(train):
    with train_loader(train) as loader:
        epochs = [torch.cat([batch.labels for batch in loader]).tolist() for _ in range(4)]
    assert [len(labels) for labels in epochs] == [len(loader_length(train)) * 8] * 4 == [64] * 4
    assert len({tuple(labels) for labels in epochs}) == 4


def loader_length(folder):
    with train_loader(folder) as loader:
        return range(len(loader))


def test_a_batch_stays_valid_while_it_is_kept(train):
    with train_loader(train) as loader:
        batches = list(loader)
        copies = [batch.images.clone() for batch in batches]
        list(loader)
    for batch, copy in zip(batches, copies, strict=True):
        torch.testing.assert_close(batch.images, copy, rtol=0, atol=0)


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_are_disjoint_in_every_epoch_and_share_the_branch(image_folder, train, shards):
    """Each file has its own mean color, so images tell files apart."""
    options = {"batch_size": 5, "num_shards": shards, "choices": {"smmix": 0.5}, "scale": (1.0, 1.0), "hflip": 0.0}
    options |= {"ratio": (1.0, 1.0)}
    loaders = [train_loader(train, shard_id=shard, **options) for shard in range(shards)]
    for _ in range(3):
        epochs = [list(loader) for loader in loaders]
        assert len({len(epoch) for epoch in epochs}) == 1
        assert len({tuple(batch.branch for batch in epoch) for epoch in epochs}) == 1
        seen = [
            {round(float(image.double().sum()), 3) for batch in epoch for image in batch.images} for epoch in epochs
        ]
        assert sum(map(len, seen)) == len(set.union(*seen)) == len(epochs[0]) * 5 * shards


@pytest.mark.parametrize(
    ("images", "shards", "batch_size"), [(60, 1, 7), (23, 2, 4), (70, 3, 5), (67, 3, 11), (41, 4, 10), (30, 2, 5)]
)
def test_no_image_is_missed_or_repeated_in_any_of_many_epochs(tmp_path, images, shards, batch_size):
    """One class per image, so that the label names it."""
    for index in range(images):
        (tmp_path / f"{index:03}").mkdir()
        Image.new("RGB", (8, 8), (index, 0, 0)).save(tmp_path / f"{index:03}" / "0.jpg")
    folder = scan_image_folder(tmp_path)
    options = {"batch_size": batch_size, "num_shards": shards, "img_size": 8, "choices": {}}
    loaders = [train_loader(folder, shard_id=shard, **options) for shard in range(shards)]
    delivered = images // shards // batch_size * batch_size * shards
    seen_ever = set()
    for _ in range(25):
        labels = [label for loader in loaders for batch in loader for label in batch.labels.tolist()]
        assert len(labels) == len(set(labels)) == delivered
        seen_ever.update(labels)
    assert len(seen_ever) == images


def test_fewer_images_than_ranks_are_refused(val):
    with pytest.raises(ConfigError, match=r"holds 30 image\(s\) for 31 ranks"):
        val_loader(val, num_shards=31)


def test_a_users_reader_must_be_exact_too(image_folder):
    @pipeline_def(batch_size=4, num_threads=2, device_id=None)
    def host(padded=False, shards=1):
        jpegs, labels = fn.readers.file(
            file_root=str(image_folder / "train"), pad_last_batch=padded, num_shards=shards, name="mine"
        )
        images = fn.resize(fn.decoders.image(jpegs), size=[32, 32])
        return tuple(mix.random_mix(images, labels, num_classes=10))

    with pytest.raises(ConfigError, match="needs a reader with pad_last_batch=True"):
        len(MixLoader(host()))
    with pytest.raises(ConfigError, match="70 images do not divide by 3 shards"):
        len(MixLoader(host(padded=True, shards=3)))
    with pytest.raises(ConfigError, match="only if the reader sets pad_last_batch=True and stick_to_shard=True"):
        len(MixLoader(host(padded=True), "partial"))
    with MixLoader(host(padded=True)) as loader:
        assert len(list(loader)) == len(loader) == 17


def test_ranks_augment_differently(train):
    one, other = (next(train_loader(train, seed=seed)).images for seed in (1, 2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("shards", [1, 2, 3, 4])
@pytest.mark.parametrize("batch_size", [7, 8, 40])
def test_validation_counts_every_image_once(val, shards, batch_size):
    labels, sizes = [], []
    for shard in range(shards):
        with val_loader(val, batch_size=batch_size, shard_id=shard, num_shards=shards) as loader:
            for _ in range(2):
                epoch = [batch.labels for batch in loader]
                assert len(epoch) == len(loader)
                sizes += [len(batch) for batch in epoch]
            labels += torch.cat(epoch).tolist()
    assert sorted(labels) == sorted(val.labels)
    assert min(sizes) > 0


@pytest.mark.parametrize(
    ("batch_size", "position"), [(8, 0), (8, 1), (8, 7), (8, 8), (8, 9), (8, 16), (7, 9), (7, 10), (7, 20)]
)
def test_state_resumes_exactly_at_any_point(train, batch_size, position):
    """70 images: a batch of 8 leaves a rest to drop, a batch of 7 does not."""
    with train_loader(train, batch_size=batch_size) as loader:
        stream = (batch for _ in range(4) for batch in loader)
        for _ in range(position):
            next(stream)
        state = loader.state_dict()
        expected = [next(stream) for _ in range(12)]
    with train_loader(train, batch_size=batch_size, seed=99) as restored:
        restored.load_state_dict(state)
        stream = (batch for _ in range(4) for batch in restored)
        assert_equal_batches([next(stream) for _ in range(12)], expected)


@pytest.mark.parametrize("batch_size", [7, 8])
def test_a_loop_over_a_state_taken_after_the_last_batch_is_the_next_epoch(train, batch_size):
    with train_loader(train, batch_size=batch_size) as loader:
        for _ in range(len(loader)):
            next(loader)
        state = loader.state_dict()
        expected = list(loader)
    assert len(expected) == state["delivered"]
    with train_loader(train, batch_size=batch_size) as restored:
        restored.load_state_dict(state)
        assert_equal_batches(list(restored), expected)


@pytest.mark.parametrize(
    ("change", "field"), [({"batch_size": 4}, "batch_size"), ({"num_shards": 2}, "num_shards"), ({}, "dataset")]
)
def test_a_state_of_other_data_is_refused(train, val, change, field):
    with train_loader(train) as loader:
        next(loader)
        state = loader.state_dict()
    with (
        train_loader(val if field == "dataset" else train, **change) as other,
        pytest.raises(ConfigError, match=f"other data: .*{field}"),
    ):
        other.load_state_dict(state)


@pytest.mark.parametrize("half", [False, True])
def test_a_state_of_images_of_another_type_is_refused(train, half):
    with train_loader(train, half=half) as loader:
        next(loader)
        state = loader.state_dict()
    with train_loader(train, half=half) as same:
        same.load_state_dict(state)
    message = f"{'float16' if half else 'float32'} images, here .* make the pipeline with half={half}"
    with train_loader(train, half=not half) as other, pytest.raises(ConfigError, match=message):
        other.load_state_dict(state)


def test_a_state_that_does_not_say_its_images_type_is_taken_with_a_word(train, caplog):
    """As versions saved it that knew no other type than float32 for training."""
    with train_loader(train) as loader:
        next(loader)
        state = loader.state_dict()
    del state["fingerprint"]["images"]
    for half in (False, True):
        with train_loader(train, half=half) as other:
            other.load_state_dict(state)
            assert next(other).images.dtype == (torch.float16 if half else torch.float32)
        assert ("from here on they are float16" in caplog.text) == half


def test_a_broken_image_stops_the_loader_for_good(tmp_path):
    for index in range(4):
        path = tmp_path / "a" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_text("not an image")
    with train_loader(scan_image_folder(tmp_path), batch_size=2) as loader:
        with pytest.raises(
            DataError,
            match=r"^DALI could not deliver batch 1: .*nvImageCodec failure: '#4'; remove or repair the image$",
        ):
            next(loader)
        with pytest.raises(DataError, match="stopped at an earlier error"):
            next(loader)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda train: train_loader(train, batch_size=71), "do not fill one batch"),
        (lambda train: MixLoader(imagenet_train(train, batch_size=8, device="cpu"), "keep"), "last_batch must be"),
        (lambda train: train_loader(train, device="tpu"), "device must be"),
        (lambda train: train_loader(train, interpolation="cubic"), "interpolation must be one of bilinear, bicubic"),
    ],
)
def test_settings_that_cannot_work(train, make, message):
    with pytest.raises(ConfigError, match=message):
        len(make(train))


def test_a_closed_loader_says_so(train):
    loader = train_loader(train)
    loader.close()
    with pytest.raises(ConfigError, match="closed"):
        next(loader)


def test_validation_targets_are_one_hot(val):
    with val_loader(val) as loader:
        batch = next(loader)
    np.testing.assert_array_equal(batch.targets.numpy(), np.eye(10, dtype=np.float32)[batch.labels.numpy()])
    assert batch.branch == "none"


def test_a_batch_moves_between_devices(train):
    with train_loader(train) as loader:
        batch = next(loader)
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert {part.device.type for part in moved[:3]} == {"meta"}
    assert moved.branch == batch.branch
