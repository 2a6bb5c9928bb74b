"""Loops over the loaders end and begin as those over a DataLoader do, however they count."""

import gc
import weakref
from itertools import chain, islice

import pytest
import torch
from nvidia.dali import fn, pipeline_def
from nvidia.dali.pipeline import Pipeline
from torch.utils.data import DataLoader

from dali_mix import ConfigError, MixLoader
from dali_mix import fn as mix
from dali_mix.data import GraphReader, TolerantLoader
from pipelines.imagenet import imagenet_train, imagenet_val

IMAGES, BATCH = 11, 2  # 5 batches, and one image that training drops and validation delivers


@pytest.fixture(scope="module")
def folder(eleven_classes):
    return eleven_classes


OPTIONS = {"batch_size": BATCH, "img_size": 8, "device": "cpu", "num_threads": 1}


def training(folder, loader=MixLoader, **options):
    after_break = {"after_break": options.pop("after_break")} if "after_break" in options else {}
    if loader is TolerantLoader:
        return TolerantLoader(lambda folder: imagenet_train(folder, **OPTIONS | options), folder, **after_break)
    return MixLoader(imagenet_train(folder, **OPTIONS | options), **after_break)


def validation(folder, loader=MixLoader):
    if loader is TolerantLoader:
        build = lambda folder: imagenet_val(folder, **OPTIONS)  # noqa: E731
        return TolerantLoader(build, folder, "partial", stand_in="left_out")
    return MixLoader(imagenet_val(folder, **OPTIONS), "partial")


def labels_of(batches):
    return [batch.labels.tolist() for batch in batches]


@pytest.fixture(scope="module")
def epochs(folder):
    """Images of the epochs of training, by the plainest loop."""
    with training(folder) as loader:
        return [labels_of(loader) for _ in range(6)]


LOADERS = pytest.mark.parametrize("loader", [MixLoader, TolerantLoader])


@LOADERS
def test_loops_that_count_have_every_epoch_whole(folder, epochs, loader):
    with training(folder, loader) as batches:
        counted = [labels_of(islice(batches, len(batches))) for _ in range(2)]
        iterator = iter(batches)
        counted.append(labels_of(next(iterator) for _ in range(len(batches))))
        assert list(iterator) == []
        for index, _ in enumerate(batches):
            if index + 1 == len(batches):
                break
        counted += [epochs[3]]  # by the loop before
        for _ in range(2):
            counted.append(labels_of(batch for batch, _ in zip(batches, range(len(batches)), strict=False)))
    assert counted == epochs


@LOADERS
def test_validation_always_begins_with_the_first_image(folder, loader):
    with validation(folder, loader) as batches:
        for stop in (len(batches), 1, len(batches) - 1, None):
            seen = [label for batch in islice(batches, stop) for label in batch.labels.tolist()]
            assert seen == list(range(min(BATCH * (stop or len(batches)), IMAGES)))


@LOADERS
@pytest.mark.parametrize("taken", [1, 3])
def test_after_a_break_the_next_epoch_begins_as_if_there_had_been_none(folder, epochs, loader, taken):
    with training(folder, loader) as batches:
        assert labels_of(islice(batches, taken)) == epochs[0][:taken]
        assert labels_of(batches) == epochs[1]
        assert batches.delivered == 0
        next(batches)
        assert batches.delivered == 1
        assert labels_of(batches) == epochs[3]


@LOADERS
def test_the_rest_of_an_epoch_where_it_is_asked_for(folder, epochs, loader):
    with training(folder, loader, after_break="rest") as batches:
        parts = [labels_of(islice(batches, count)) for count in (2, 1, 5, 5)]
    assert parts == [epochs[0][:2], epochs[0][2:3], epochs[0][3:], epochs[1]]


def _over_an_unused_iterator(loader):
    unused = iter(loader)
    return [*islice(loader, 2), *unused]


def _one_iterator(loader):
    iterator = iter(loader)
    return [*islice(iterator, 2), *iterator, *iterator]


WAYS = {
    "look": lambda loader: [next(iter(loader)), *loader],
    "islice": lambda loader: [*islice(loader, 3), *islice(loader, len(loader)), *loader],
    "zip": lambda loader: [pair for _ in range(2) for pair in zip(loader, range(4), strict=False)],
    "over an unused iterator": _over_an_unused_iterator,
    "one iterator": _one_iterator,
    "chain": lambda loader: list(chain(loader, loader)),
}


def test_as_many_batches_as_a_data_loader(folder):
    reference = DataLoader(range(IMAGES), BATCH, drop_last=True)
    with training(folder) as loader:
        counts = {name: len(way(loader)) for name, way in WAYS.items()}
    assert counts == {name: len(way(reference)) for name, way in WAYS.items()}


def test_an_older_loop_is_told_that_a_newer_one_has_begun(folder):
    with training(folder) as loader:
        older, newer = iter(loader), iter(loader)
        next(older)
        next(newer)
        with pytest.raises(ConfigError, match=r"a newer loop over this loader has begun.*make a loader"):
            next(older)
        assert len(list(newer)) == len(loader) - 1
        whole = iter(loader)
        next(loader)  # straight, which is the stream's next
        batches = list(islice(whole, len(loader)))
        next(iter(loader))
        assert len(batches) == len(loader)
        assert list(whole) == []  # it was through


def test_the_stream_itself_ends_each_epoch_once(folder, epochs):
    with training(folder) as loader:
        for epoch in epochs[:2]:
            assert labels_of(next(loader) for _ in epoch) == epoch
            with pytest.raises(StopIteration):
                next(loader)


@LOADERS
@pytest.mark.parametrize("first", [2, 5])
def test_a_state_is_continued_by_the_first_loop_and_only_by_that(folder, loader, first):
    with training(folder, loader) as batches:
        list(islice(batches, 3))  # an epoch that is left
        iterator = iter(batches)
        list(islice(iterator, first))
        state = batches.state_dict()
        expected = [*iterator, *batches]
    with training(folder, loader) as restored:
        restored.load_state_dict(state)
        iter(restored)  # as Lightning does, to see whether it can
        again = [batch for _ in range(2) for batch in restored][: len(expected)]
    for one, other in zip(again, expected, strict=True):
        assert one.branch == other.branch
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.targets, other.targets)


def test_a_size_that_changes_knows_of_epochs_that_were_left(folder):
    size = lambda epoch, batch: 8 + epoch  # noqa: E731
    with training(folder, img_size=size) as loader:
        sizes = [[batch.images.shape[-1] for batch in islice(loader, count)] for count in (2, 5, 1, 5)]
    assert sizes == [[8] * 2, [9] * 5, [10], [11] * 5]


@pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, seed=5)
def _readers_file(folder, reading, count=IMAGES):
    jpegs, labels = fn.readers.file(
        files=list(folder.files)[:count],
        labels=list(folder.labels)[:count],
        pad_last_batch=True,
        name="mine",
        **reading,
    )
    images = fn.resize(fn.decoders.image(jpegs), size=[8, 8])
    return tuple(mix.random_mix(images, labels, num_classes=IMAGES))


@pytest.mark.parametrize(
    ("reading", "checkpointing", "drained"),
    [
        ({"shuffle_after_epoch": True}, True, False),
        ({"random_shuffle": True}, True, True),
        ({"shuffle_after_epoch": True}, False, True),
    ],
)
def test_a_users_reader_goes_to_the_next_epoch(folder, caplog, reading, checkpointing, drained):
    pipeline = lambda: _readers_file(folder, reading, enable_checkpointing=checkpointing)  # noqa: E731
    with MixLoader(pipeline()) as loader:
        expected = [labels_of(loader) for _ in range(3)]
    with MixLoader(pipeline()) as loader:
        assert labels_of(islice(loader, 2)) == expected[0][:2]
        assert labels_of(loader) == expected[1]
        assert (f"{len(loader) - 2} batches are read and thrown away" in caplog.text) == drained
        assert labels_of(loader) == expected[2]


def test_a_users_sharded_reader_goes_to_the_next_shard(folder):
    reading = {"shard_id": 1, "num_shards": 2, "stick_to_shard": False}
    pipeline = lambda: _readers_file(folder, reading, count=10, enable_checkpointing=True)  # noqa: E731
    with MixLoader(pipeline()) as loader:
        expected = [labels_of(loader) for _ in range(3)]
    with MixLoader(pipeline()) as loader:
        next(iter(loader))
        assert [labels_of(loader) for _ in range(2)] == expected[1:]


def test_a_graph_from_a_file_is_read_to_the_end_of_its_epoch(folder):
    graph = imagenet_train(GraphReader(folder), **OPTIONS).serialize()
    options = {"batch_size": BATCH, "num_threads": 1, "device_id": None, "enable_checkpointing": True}
    with MixLoader(Pipeline.deserialize(graph, **options)) as loader:
        assert [len(list(islice(loader, count))) for count in (2, 9)] == [2, 5]


def test_what_a_loop_left_within_its_epoch_is_followed_by(folder):
    with pytest.raises(ConfigError, match="after_break must be one of next_epoch, rest, got 'again'"):
        training(folder, after_break="again")
    with pytest.raises(ConfigError, match="after_break='rest' is for training"):
        MixLoader(imagenet_val(folder, **OPTIONS), "partial", after_break="rest")


@LOADERS
def test_a_loader_that_is_dropped_after_a_loop_is_freed_at_once(folder, loader):
    """A pipeline holds gigabytes of a GPU; Python's search for cycles may come much later, or never."""
    made = training(folder, loader)
    freed = weakref.ref(made)
    gc.collect()
    gc.disable()
    try:
        assert len(list(made)) == len(made)
        del made
        assert freed() is None
    finally:
        gc.enable()


def test_a_graph_that_python_feeds_is_not_written_without_what_feeds_it(folder):
    with pytest.raises(ConfigError, match="cannot be serialized; give the pipeline GraphReader"):
        imagenet_train(folder, **OPTIONS).serialize()
