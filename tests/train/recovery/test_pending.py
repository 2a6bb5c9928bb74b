"""Runs that end, one way or another, while the fate of an update is not known yet."""

import os
import signal

import pytest
import torch

from dali_mix.train import loop, main
from tests.train.recovery.runs import assert_same_result
from train_imagenet import PIPELINES

CNN = "--model test_efficientnet --img-size 32 -b 10 -j 2 --lr 0.01 --warmup-epochs 0 --device cpu --cutmix 1".split()
FLAGS = "--checkpoint-steps 1 --checkpoint-hist 100 --model-ema --opt lamb --epochs 2".split()


@pytest.fixture(scope="module", autouse=True)
def poisoned():
    """The batches of updates 3, 4 and 10 are not finite, also in a run that goes on."""
    original = loop.Trainer._train_batch

    def train_batch(self, batch, *args):
        if self.updates + 1 in (3, 4, 10):
            batch = batch._replace(images=batch.images * float("nan"))
        return original(self, batch, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_train_batch", train_batch)
        yield


@pytest.fixture(scope="module")
def whole(poisoned, tmp_path_factory, image_folder):
    output = tmp_path_factory.mktemp("whole")
    flags = [*CNN, *FLAGS, "--output", str(output), "--data-dir", str(image_folder), "--experiment", "run"]
    assert main(PIPELINES, flags) == 0
    return output / "run"


@pytest.fixture
def before_settling(monkeypatch):
    """Do something once, when the fate of an update is about to be read."""

    def arm(number, action):
        original = loop.Trainer.settle
        done = []

        def settle(self):
            if not done and self._pending is not None and self._pending.number == number:
                done.append(number)
                action()
            original(self)

        monkeypatch.setattr(loop.Trainer, "settle", settle)

    return arm


def die():
    raise KeyboardInterrupt  # nothing is saved, as by SIGKILL


def ask_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(("number", "every"), [(3, 1), (4, 1), (4, 1000), (5, 1)])
def test_a_run_that_dies_with_one_pending_is_continued_exactly(train, whole, tmp_path, before_settling, number, every):
    before_settling(number, die)
    flags = [*FLAGS, "--experiment", "run", "--checkpoint-steps", every]
    assert train(*flags, defaults=CNN)[0] == 130
    code, out, err = train(*flags, "--auto-resume", defaults=CNN)
    assert code == 0, err
    assert "3 of 14, as they were not finite" in out
    assert_same_result(tmp_path / "run", whole)


@pytest.mark.parametrize(("number", "skipped"), [(3, 2), (4, 0), (9, 1)])
def test_a_run_that_is_asked_to_stop_with_one_pending_saves_what_became_of_it(
    train, whole, tmp_path, before_settling, number, skipped
):
    """The signal comes while the next update is under way, which is the last then, and is settled too."""
    before_settling(number, ask_to_stop)
    flags = [*FLAGS, "--checkpoint-steps", 1000, "--experiment", "run"]
    assert train(*flags, defaults=CNN)[0] == 75
    newest = max((tmp_path / "run" / "checkpoints").glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
    state = torch.load(newest / "state.pt", weights_only=True)
    assert (state["updates"], state["skipped"]) == (number + 1, skipped)
    code, out, err = train(*flags, "--auto-resume", defaults=CNN)
    assert code == 0, err
    assert "3 of 14, as they were not finite" in out
    assert_same_result(tmp_path / "run", whole)
