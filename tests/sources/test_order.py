"""The order of images: a pure function, of which every rank computes its own part."""

from collections import Counter

import numpy as np
import pytest

from dali_mix import ConfigError
from dali_mix.sources.order import Order, permutation


def epoch_of(epoch=0, ranks=1, **options):
    """The batches of all ranks: [rank][index] -> indices."""
    orders = [Order(rank=rank, ranks=ranks, **options) for rank in range(ranks)]
    return [[order.batch(epoch, index).tolist() for index in range(order.batches)] for order in orders]


def flat(batches):
    return [index for rank in batches for batch in rank for index in batch]


def test_a_permutation_is_the_same_for_ever():
    """A run goes on with another version of NumPy."""
    assert permutation(10, 42, 0).tolist() == [4, 8, 1, 9, 3, 6, 0, 7, 2, 5]
    assert permutation(10, 42, 1).tolist() != permutation(10, 42, 0).tolist()
    assert permutation(10, 43, 0).tolist() != permutation(10, 42, 0).tolist()
    assert permutation(1, 0, 0).tolist() == [0]
    assert permutation(10, -1, 0).dtype == np.int32


@pytest.mark.parametrize("size", [2, 7, 1000, 1024, 1025])
def test_a_permutation_has_each_number_once(size):
    for epoch in range(5):
        assert sorted(permutation(size, 5, epoch).tolist()) == list(range(size))


def test_every_place_is_equally_likely():
    """Where the first number goes in 4,000 permutations of 8: 500 each, sigma 21, tolerance 5 of it."""
    places = Counter(permutation(8, 1, epoch).tolist().index(0) for epoch in range(4000))
    assert max(abs(count - 500) for count in places.values()) < 105


@pytest.mark.parametrize(("size", "ranks", "batch_size"), [(70, 1, 8), (70, 3, 5), (67, 3, 11), (64, 4, 16), (6, 2, 3)])
def test_training_has_full_batches_and_no_image_twice(size, ranks, batch_size):
    seen = Counter()
    for epoch in range(25):
        batches = epoch_of(epoch, ranks, size=size, batch_size=batch_size, seed=3)
        assert {len(rank) for rank in batches} == {size // (ranks * batch_size)}
        assert {len(batch) for rank in batches for batch in rank} == {batch_size}
        images = flat(batches)
        assert len(images) == len(set(images))
        seen.update(images)
    assert set(seen) == set(range(size))


@pytest.mark.parametrize(("size", "ranks", "batch_size"), [(30, 1, 7), (30, 4, 7), (30, 4, 40), (5, 5, 2)])
def test_validation_has_every_image_once_in_order(size, ranks, batch_size):
    for epoch in (0, 3):
        batches = epoch_of(epoch, ranks, size=size, batch_size=batch_size, shuffle=False)
        assert flat(batches) == list(range(size))
        assert all(len(batch) == batch_size for rank in batches for batch in rank[:-1])


@pytest.mark.parametrize(("ranks", "batch_size"), [(2, 12), (3, 8), (6, 4), (8, 3)])
def test_an_update_has_the_same_images_on_any_number_of_ranks(ranks, batch_size):
    alone = epoch_of(2, size=100, batch_size=24)[0]
    together = epoch_of(2, ranks, size=100, batch_size=batch_size)
    for index, update in enumerate(alone):
        assert sorted(flat([[rank[index]] for rank in together])) == sorted(update)


@pytest.mark.parametrize(("size", "ranks", "batch_size"), [(67, 2, 9), (101, 2, 10), (60, 1, 12), (67, 4, 5)])
def test_copies_go_to_other_ranks_and_every_rank_has_full_batches(size, ranks, batch_size):
    """Of DeiT's RASampler: shuffle, repeat each three times, deal out to the ranks, end where an epoch of size ends.

    Uneven shards: 67 images are no multiple of 2 ranks.
    """
    batches = epoch_of(1, ranks, size=size, batch_size=batch_size, seed=9, repeats=3)
    dealt = np.repeat(permutation(size, 9, 1), 3)
    count = size // (ranks * batch_size) * batch_size
    for rank in range(ranks):
        assert flat([batches[rank]]) == dealt[rank::ranks][:count].tolist()
        assert {len(batch) for batch in batches[rank]} == {batch_size}
    if ranks == 2:
        together = Counter(flat(batches))
        assert set(together.values()) <= {1, 2, 3}
        assert len(together) == -(-count * ranks // 3)


@pytest.mark.parametrize(
    "change",
    [{"size": 0}, {"batch_size": 0}, {"rank": 2}, {"rank": -1}, {"repeats": 0}, {"repeats": 3, "shuffle": False}],
)
def test_what_makes_no_order_is_refused(change):
    with pytest.raises(ConfigError):
        Order(**{"size": 10, "batch_size": 2, "rank": 0, "ranks": 2} | change)
