"""Image sizes that change: timm's probabilities, one size for all ranks, the same after a restart."""

from collections import Counter

import pytest

from dali_mix import MixLoader
from dali_mix.data import Reading, scan_image_folder
from dali_mix.train.sizes import SizeSchedule
from pipelines.imagenet import imagenet_train


def test_constant_sizes_follow_their_weights():
    schedule = SizeSchedule([16, 32, 64], [1, 3, 0], seed=5)
    assert schedule.probabilities(0) == pytest.approx([0.25, 0.75, 0.0])
    counts = Counter(schedule(0, batch) for batch in range(4000))
    # 4 standard deviations of a binomial share at n = 4000
    assert counts[16] / 4000 == pytest.approx(0.25, abs=0.028)
    assert counts[64] == 0


def test_progressive_sizes_move_from_first_to_last():
    schedule = SizeSchedule([16, 32, 64], progressive=True, epochs=9, random_mix=0.0)
    likeliest = [max(range(3), key=schedule.probabilities(epoch).__getitem__) for epoch in range(9)]
    assert likeliest == sorted(likeliest)
    assert likeliest[0] == 0
    assert likeliest[-1] == 2
    assert schedule.probabilities(20) == schedule.probabilities(8)  # cool-down


def test_a_size_depends_on_seed_epoch_and_batch_only():
    first, second, other = (SizeSchedule([16, 32, 64], seed=seed) for seed in (1, 1, 2))
    places = [(epoch, batch) for epoch in range(4) for batch in range(10)]
    assert [first(*place) for place in places] == [second(*place) for place in reversed(places)][::-1]
    assert [first(*place) for place in places] != [other(*place) for place in places]


def loader(folder, schedule, shard_id=0, num_shards=1):
    return MixLoader(
        imagenet_train(folder, batch_size=8, img_size=schedule, device="cpu", num_threads=1,
                       reading=Reading(shard_id=shard_id, num_shards=num_shards), choices={"cutmix": 1.0})
    )  # fmt: skip


def test_the_pipeline_asks_for_the_batch_it_makes(image_folder):
    """70 images by 8: eight batches and a ninth that is dropped, which must not shift the next epoch."""
    schedule = SizeSchedule([16, 24, 32], seed=3)
    with loader(scan_image_folder(image_folder / "train"), schedule) as batches:
        for epoch in range(3):
            sizes = [batch.images.shape[-1] for batch in batches]
            assert sizes == [schedule(epoch, index) for index in range(8)]


def test_ranks_agree_and_a_restart_goes_on(image_folder):
    folder = scan_image_folder(image_folder / "train")
    schedule = SizeSchedule([16, 24, 32], seed=3)
    with loader(folder, schedule, 0, 2) as first, loader(folder, schedule, 1, 2) as second:
        sizes = [batch.images.shape[-1] for _ in range(2) for batch in first]
        assert sizes == [batch.images.shape[-1] for _ in range(2) for batch in second]
    with loader(folder, schedule) as whole:
        batches = iter(whole)
        next(batches), next(batches)
        state = whole.state_dict()
        rest = [batch.images for batch in batches]
    with loader(folder, schedule) as restored:
        restored.load_state_dict(state)
        again = [batch.images for batch in restored]
    assert all(one.equal(other) for one, other in zip(rest, again, strict=True))
