"""What the dispatch mode of tests/train/test_updates.py shows on the CPU, by CUDA's own means."""

import pytest
import torch

from dali_mix.train.distributed import World
from tests.train.test_updates import EXTRAS, PRECISIONS
from tests.train.updates import VIT, assert_same_state, batch_of, build, state_of, train

pytestmark = pytest.mark.gpu


@pytest.fixture
def world():
    return World(0, 1, torch.device("cuda", 0))


def on_gpu(world, *batches):
    return [batch.to(world.device) for batch in batches]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("opt", ["adamw", "sgd", "lamb"])
def test_an_update_waits_for_nothing(world, precision, extra, opt):
    trainer = build(f"{VIT} --smmix --opt {opt} {precision} {extra}", world)
    batches = on_gpu(world, *(batch_of(branch, seed) for seed, branch in enumerate(["none", "mixup", "smmix"] * 2)))
    train(trainer, batches)  # kernels are loaded, which may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train(trainer, batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("opt", ["adamw", "sgd", "adagrad", "lamb", "lookahead_adamw", "rmsprop"])
def test_a_refused_update_leaves_no_trace(world, precision, opt):
    trainer = build(f"{VIT} --smmix --model-ema --opt {opt} {precision}", world)
    train(trainer, on_gpu(world, batch_of("smmix"), batch_of(seed=1)))
    before = state_of(trainer)
    statistics = train(trainer, on_gpu(world, batch_of("smmix", seed=2, finite=False)))
    assert statistics.skipped == 1
    assert_same_state(state_of(trainer), before)
