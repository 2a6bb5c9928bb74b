"""A run goes on where no state can be loaded: on another number of ranks, and from versions with another order."""

import pytest

from dali_mix import ConfigError, MixLoader
from dali_mix.data import GraphReader, Reading, TolerantLoader
from pipelines.imagenet import imagenet_train, imagenet_val


def ranks_of(folder, ranks, batch_size, loader=MixLoader):
    """The training loaders of so many ranks."""
    made = []
    for rank in range(ranks):
        reading = Reading(shard_id=rank, num_shards=ranks)
        build = lambda source, reading=reading: imagenet_train(  # noqa: E731
            source, batch_size=batch_size, img_size=8, device="cpu", num_threads=1, choices={}, reading=reading
        )
        made.append(MixLoader(build(folder)) if loader is MixLoader else loader(build, folder))
    return made


def epoch_of(loaders):
    """Images of each update of one loop, over all ranks."""
    loops = [[batch.labels.tolist() for batch in loader] for loader in loaders]
    return [sorted(label for labels in update for label in labels) for update in zip(*loops, strict=True)]


@pytest.mark.parametrize("loader", [MixLoader, TolerantLoader])
@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (1, 0), (3, 1)])
def test_another_number_of_ranks_goes_on_with_the_same_updates(eleven_classes, loader, epoch, batch):
    whole = ranks_of(eleven_classes, 1, 4)
    expected = [epoch_of(whole) for _ in range(5)]
    loaders = ranks_of(eleven_classes, 2, 2, loader)
    for each in loaders:
        each.begin_at(epoch, batch)
        assert (each.epoch, each.delivered) == (epoch, batch)
    assert epoch_of(loaders) == expected[epoch][batch:]
    assert epoch_of(loaders) == expected[epoch + 1]


def test_what_has_begun_or_has_another_order_does_not_begin_elsewhere(eleven_classes):
    (loader,) = ranks_of(eleven_classes, 1, 4)
    next(loader)
    with pytest.raises(ConfigError, match="begin_at must come before the first batch"):
        loader.begin_at(1)
    (reader,) = ranks_of(GraphReader(eleven_classes), 1, 4)
    with pytest.raises(ConfigError, match="begin_at needs a pipeline with read_images"):
        reader.begin_at(1)
    for place in ((-1, 0), (0, 2), (0, -1)):
        with pytest.raises(ConfigError, match=f"batch one of 0 to 1, got {place[0]} and {place[1]}"):
            ranks_of(eleven_classes, 1, 4)[0].begin_at(*place)


def test_a_state_of_before_the_order_was_ours_is_refused_in_one_line(eleven_classes):
    (reader,) = ranks_of(GraphReader(eleven_classes), 1, 4)
    next(reader)
    state = reader.state_dict()
    for loader in (*ranks_of(eleven_classes, 1, 4), *ranks_of(eleven_classes, 1, 4, TolerantLoader)):
        with pytest.raises(ConfigError, match=r"^[^\n]*reader of DALI's: continue with that version.*begin_at"):
            loader.load_state_dict(state)


def test_a_state_of_another_order_is_refused(eleven_classes):
    def loader(seed):
        reading = Reading(branch_seed=seed)
        return MixLoader(imagenet_train(eleven_classes, batch_size=4, img_size=8, device="cpu", reading=reading))

    first = loader(1)
    next(first)
    with pytest.raises(ConfigError, match="belongs to other data: shuffle_seed 1 -> 2"):
        loader(2).load_state_dict(first.state_dict())


def test_validation_counts_from_the_first_image(eleven_classes):
    with MixLoader(imagenet_val(eleven_classes, batch_size=4, img_size=8, device="cpu"), "partial") as loader:
        loader.begin_at(2, 1)
        assert [batch.labels.tolist() for batch in loader] == [[4, 5, 6, 7], [8, 9, 10]]
        assert loader.epoch == 3
        assert len(list(loader)) == 3
