"""What goes wrong while it trains: numbers that are not finite, a disk that is full, a folder that is gone."""

import csv
import os
import re
import resource
import shutil
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dali_mix.train import step
from dali_mix.train.checkpoint.save_restore import Saver
from dali_mix.train.checkpoint.store import CheckpointStore
from dali_mix.train.checksums import verify
from dali_mix.train.output import folder as outputs
from tests.ranks import run_ranks
from tests.train.conftest import FAST, TINY
from tests.train.recovery.runs import assert_same_result, rows_of
from tests.train.test_run import ENTRY

CNN = "--model test_efficientnet --img-size 32 -b 10 -j 2 --epochs 2 --lr 0.01 --warmup-epochs 0".split()
CNN += "--device cpu --cutmix 1".split()


@pytest.fixture
def poison(monkeypatch):
    """Make the images of some steps NaN."""

    def arm(which):
        calls = 0
        original = step.TrainStep.forward

        def forward(self, batch, plan=None):
            nonlocal calls
            calls += 1
            if which(calls):
                batch = batch._replace(images=batch.images * float("nan"))
            return original(self, batch, plan)

        monkeypatch.setattr(step.TrainStep, "forward", forward)

    return arm


@pytest.mark.parametrize("extra", [(), ("--grad-accum-steps", 2), ("--clip-grad", 1), ("--model-ema",)])
def test_an_update_that_is_not_finite_is_skipped(train, tmp_path, poison, extra):
    poison(lambda call: call in (3, 9))
    code, out, err = train("--experiment", "run", *extra, defaults=CNN)
    assert code == 0, err
    assert re.search(r"skipped updates +2 of (14|8), as they were not finite", out)
    assert err.count("the loss or its gradient is not finite; the update is skipped") == 2
    assert "epoch 1: 1 updates were skipped, as they were not finite" in err
    weights = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())  # BatchNorm's running statistics among them
    assert all(0 < float(row["train_loss"]) < 10 for row in rows_of(tmp_path / "run"))


def test_a_run_whose_every_update_is_skipped_is_no_success(train, tmp_path, poison):
    poison(lambda call: True)
    flags = ["--experiment", "run", "--nonfinite-limit", 100, "--epochs", 1]
    for more in (), ("--auto-resume",):  # nor when it is over already
        code, out, err = train(*flags, *more, defaults=CNN)
        assert (code, out) == (1, "")
        assert err.count("error: none of the 7 updates was made, as the loss or its gradient was never finite") == 1
        assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_disk_that_is_full_before_the_first_step_leaves_no_run(train, tmp_path, monkeypatch):
    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outputs, "replace_text", no_room)
    code, _, err = train("--experiment", "run")
    assert code == 2
    assert err.endswith(f"error: {tmp_path}/run cannot be written: No space left on device\n")
    assert os.listdir(tmp_path) == []


def test_a_skipped_update_changes_nothing_but_the_schedule(train, tmp_path, poison):
    poison(lambda call: call == 7)
    train("--experiment", "run", "--checkpoint-steps", 1, "--checkpoint-hist", 100, "--epochs", 1, defaults=CNN)
    state = torch.load(tmp_path / "run" / "checkpoints" / "checkpoint-0-6" / "state.pt", weights_only=True)
    final = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    before = safetensors.torch.load_file(tmp_path / "run" / "checkpoints" / "checkpoint-0-6" / "model.safetensors")
    assert state["updates"] == 6
    assert all(torch.equal(final[name], before[name]) for name in before)


def test_too_many_in_a_row_stop_the_run_and_name_a_checkpoint_that_works(train, tmp_path, poison):
    poison(lambda call: call >= 5)
    code, _, err = train("--experiment", "run", "--checkpoint-steps", 1, "--nonfinite-limit", 4)
    assert code == 1
    checkpoint = tmp_path / "run" / "checkpoints" / "checkpoint-0-3"
    assert "not finite in 4 updates in a row, the last at epoch 2, batch 1 (--nonfinite-limit 4)" in err
    # That of batch 4 has not been used by a step yet: its weights may be what failed.
    assert err.rstrip().endswith(f"the last good checkpoint is {checkpoint}")
    assert verify(checkpoint)
    assert "Traceback" not in err


def test_a_diverged_run_that_does_not_look_is_not_saved(train, tmp_path, poison):
    poison(lambda call: call == 5)
    code, _, err = train("--experiment", "run", "--checkpoint-steps", 1, "--nonfinite-limit", 0)
    assert code == 1
    assert "the weights are not finite after epoch 1, 5 batches, so they are not saved" in err
    assert next(iter(CheckpointStore(tmp_path / "run" / "checkpoints").all())) == (0, 4)


@pytest.mark.distributed
def test_one_rank_that_is_not_finite_is_skipped_by_all(tmp_path, image_folder):
    """The other rank's loss is fine; without agreement it would update, or wait for ever.  The last leaves no trace."""
    script = tmp_path / "poisoned.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ENTRY.parent)!r})\n"
        "from dali_mix.train import main, step\n"
        "from train_imagenet import PIPELINES\n"
        "original, calls = step.TrainStep.forward, [0]\n"
        "def forward(self, batch, plan=None):\n"
        "    calls[0] += 1\n"
        "    if calls[0] in (3, 7) and os.environ['RANK'] == '1':\n"
        "        batch = batch._replace(images=batch.images * float('nan'))\n"
        "    return original(self, batch, plan)\n"
        "step.TrainStep.forward = forward\n"
        "sys.exit(main(PIPELINES))\n"
    )
    flags = [*FAST, "--data-dir", image_folder, "-b", 5, "--epochs", 1, "--experiment", "run", "--output", tmp_path]
    flags += ["--checkpoint-steps", 1, "--checkpoint-hist", 100, "--model-ema"]
    result = run_ranks(script, *flags, ranks=2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "epoch 1: 2 updates were skipped" in result.stderr
    for name in ("model.safetensors", "model_ema.safetensors"):
        weights = safetensors.torch.load_file(tmp_path / "run" / name)
        before = safetensors.torch.load_file(tmp_path / "run" / "checkpoints" / "checkpoint-0-6" / name)
        assert all(torch.equal(weights[key], before[key]) for key in before)
        assert all(value.isfinite().all() for value in weights.values())


@pytest.fixture
def full_disk():
    """Call it to let no file grow beyond a size, call it without one to lift that.

    20,000 bytes hold the lines of a run, but neither its weights nor its curves.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size=before[0]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    limit()


@pytest.fixture
def at_save(monkeypatch):
    """Do things right before the n-th checkpoint."""

    def arm(actions):
        number = 0
        original = Saver.write

        def write(self, *args):
            nonlocal number
            number += 1
            actions.get(number, lambda: None)()
            return original(self, *args)

        monkeypatch.setattr(Saver, "write", write)

    return arm


def test_a_full_disk_is_told_once_and_training_goes_on(train, tmp_path, full_disk, at_save):
    # By its loss the last epoch is the best: of an epoch whose checkpoint found no room no best weights are kept.
    flags = ["--checkpoint-steps", 2, "--checkpoint-hist", 100, "--eval-metric", "loss"]
    train("--experiment", "whole", *flags)
    at_save({3: lambda: full_disk(20_000), 6: full_disk})
    code, out, err = train("--experiment", "run", *flags)
    assert code == 0, err
    store = CheckpointStore(tmp_path / "run" / "checkpoints")
    newest = store.folder / "checkpoint-0-2"
    warning = (
        f"no checkpoint can be written to {store.folder}: File too large; training goes on, the newest is {newest}"
    )
    assert err.count("no checkpoint can be written") == 1
    assert warning in err
    assert err.count("results cannot be written to") == 1
    assert list(store.all()) == [(2, 0), (1, 7), (1, 5), (1, 3), (1, 1), (0, 2), (0, 0)]
    assert all(verify(path) for path in store.all().values())
    assert "top-1" in out
    assert_same_result(tmp_path / "run", tmp_path / "whole", average=False)


def test_a_disk_that_is_full_at_the_end_is_an_error_that_a_second_run_mends(train, tmp_path, full_disk, at_save):
    train("--experiment", "whole", "--checkpoint-steps", 1)
    at_save({10: lambda: full_disk(20_000)})
    code, _, err = train("--experiment", "run", "--checkpoint-steps", 1)
    assert code == 1
    assert "the final weights cannot be written to" in err
    assert "make room, and run the same command with --auto-resume: the last checkpoint is " in err
    full_disk()
    code, _, err = train("--experiment", "run", "--checkpoint-steps", 1, "--auto-resume")
    assert code == 0, err
    assert_same_result(tmp_path / "run", tmp_path / "whole", average=False)


def test_a_disk_that_is_full_at_the_start_is_said_before_the_first_step(train, full_disk):
    full_disk(20_000)
    code, _, err = train()
    assert code == 2
    assert "error: no checkpoint can be written to --output " in err
    assert "File too large" in err
    assert "epoch 1" not in err


def test_an_output_that_is_read_only_is_said_before_the_first_step(train):
    if os.access("/sys/kernel", os.F_OK) is False:
        pytest.skip("needs /sys, which takes no new folders")
    code, _, err = train("--output", "/sys/kernel/runs")
    assert code == 2
    assert "--output /sys/kernel/runs cannot be written: " in err
    assert err.count("\n") == 3  # behind the two that count the images


def test_a_run_whose_folder_is_removed_writes_it_anew(train, tmp_path, at_save):
    at_save({2: lambda: shutil.rmtree(tmp_path / "run")})
    code, _, err = train("--experiment", "run", *TINY)
    assert code == 0, err
    assert {"model.safetensors", "summary.csv", "checkpoints"} <= {
        path.name for path in Path(tmp_path / "run").iterdir()
    }
    assert len(rows_of(tmp_path / "run")) == 2


def test_a_slow_save_is_not_training_time(train, tmp_path, at_save):
    """Speed and time of an epoch are those of the epoch, not of the checkpoint before it."""
    at_save({1: lambda: time.sleep(4), 2: lambda: time.sleep(4)})
    code, _, err = train("--experiment", "run")
    assert code == 0, err
    with (tmp_path / "run" / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(float(row["seconds"]) < 4 for row in rows)
    assert all(float(row["img_per_s"]) > 70 / 4 for row in rows)
