"""Signals: a checkpoint after the current update, the documented exit code, and the same result after continuing."""

import os
import re
import signal
import subprocess
import time

import pytest

from dali_mix.train import run as run_module
from dali_mix.train import step, training
from tests.train.conftest import FAST
from tests.train.recovery.runs import RICH, assert_same_result
from tests.train.test_run import command

CODES = [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]


@pytest.fixture
def kill_at_forward(monkeypatch):
    """Send this process a signal in the middle of a step."""

    def arm(number, signum):
        calls = 0
        original = step.TrainStep.forward

        def forward(self, *args):
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signum)
            return original(self, *args)

        monkeypatch.setattr(step.TrainStep, "forward", forward)

    return arm


@pytest.mark.parametrize(("signum", "code"), CODES)
def test_a_signal_stops_after_the_update_and_loses_nothing(
    train, whole, tmp_path, kill_at_forward, monkeypatch, signum, code
):
    kill_at_forward(10, signum)
    found, _, err = train(*RICH, "--checkpoint-steps", 1000, "--experiment", "run")
    assert found == code, err
    name = signal.Signals(signum).name
    assert f"{name}: stopping after this update" in err
    assert f"stopped by {name} at epoch 2, after 3 of 7 batches; the checkpoint is " in err
    assert "--auto-resume goes on" in err
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-1-3").is_dir()
    monkeypatch.undo()
    found, _, err = train(*RICH, "--experiment", "run", "--auto-resume")
    assert found == 0, err
    assert_same_result(tmp_path / "run", whole)


def test_a_signal_during_evaluation_loses_nothing(train, whole, tmp_path, monkeypatch):
    original = training.evaluate
    calls = 0

    def evaluate(model, batches, *args):
        def interrupted():
            nonlocal calls
            for batch in batches:
                calls += 1
                if calls == 8:  # 3 batches each for model and average: in the middle of the second epoch's
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        return original(model, interrupted(), *args)

    monkeypatch.setattr(training, "evaluate", evaluate)
    code, _, err = train(*RICH, "--checkpoint-steps", 1000, "--experiment", "run")
    assert code == 75, err
    assert calls == 8
    assert "at epoch 2, after 7 of 7 batches" in err
    monkeypatch.undo()
    code, _, err = train(*RICH, "--experiment", "run", "--auto-resume")
    assert code == 0, err
    assert_same_result(tmp_path / "run", whole)


def test_an_update_of_several_batches_is_finished_first(train, tmp_path, kill_at_forward, monkeypatch):
    flags = ["--grad-accum-steps", 3, "--cutmix", 1, "--epochs", 2]
    assert train(*flags, "--experiment", "whole")[0] == 0
    kill_at_forward(4, signal.SIGTERM)
    assert train(*flags, "--experiment", "run")[0] == 75
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-0-6").is_dir()
    monkeypatch.undo()
    assert train(*flags, "--experiment", "run", "--auto-resume")[0] == 0
    assert_same_result(tmp_path / "run", tmp_path / "whole", average=False)


def test_signals_do_what_they_did_before_when_the_run_is_over(train):
    before = [signal.getsignal(signum) for signum, _ in CODES]
    train("--epochs", 1)
    assert [signal.getsignal(signum) for signum, _ in CODES] == before


@pytest.mark.parametrize(("ignored", "code"), [(False, 75), (True, 0)])
def test_a_terminal_that_is_closed_stops_a_run_but_not_under_nohup(
    train, tmp_path, kill_at_forward, monkeypatch, ignored, code
):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        kill_at_forward(3, signal.SIGHUP)
        assert train("--epochs", 1, "--experiment", "run")[0] == code
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (tmp_path / "run" / "checkpoints" / ("checkpoint-1-0" if ignored else "checkpoint-0-3")).is_dir()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize("where", ["open_data", "find_resume_point"])
def test_a_signal_before_training_ends_the_run_at_once_with_the_same_code(train, tmp_path, monkeypatch, signum, where):
    """Also where errors are handled: it is none."""

    def kill(*args):
        try:
            os.kill(os.getpid(), signum)
        except Exception:
            pytest.fail("a request to stop was taken for an error")
        pytest.fail("the run went on")

    monkeypatch.setattr(run_module, where, kill)
    code, _, err = train("--experiment", "run")
    assert code == 75
    assert f"stopped by {signal.Signals(signum).name}, not in training; the same command" in err
    assert not (tmp_path / "run").exists()


def started(process):
    """Wait until it trains."""
    for line in process.stderr:
        if "images per update" in line:
            return


def launch(tmp_path, *flags, ranks=1):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(*FAST, *flags, "--output", tmp_path, "--experiment", "run", ranks=ranks),
        cwd=tmp_path, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_second_interrupt_ends_at_once(tmp_path, image_folder):
    # One update of 10,000 batches: the first interrupt would wait for its end.
    flags = ["--data-dir", image_folder, "-b", 1, "--grad-accum-steps", 10_000, "--epochs", 1000, "--warmup-epochs", 0]
    flags += ["--train-img-sizes", 160, "--model-kwargs", "dynamic_img_size=True", "depth=12"]
    process = launch(tmp_path, *flags)
    started(process)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert "SIGINT: stopping after this update, once more to stop at once" in process.stderr.readline() + (
        process.stderr.readline()
    )
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT


@pytest.mark.distributed
@pytest.mark.parametrize("whom", ["launcher", "rank 1"])
def test_two_ranks_stop_together(tmp_path, image_folder, whom):
    flags = ["--data-dir", image_folder, "-b", 5, "--epochs", 10_000, "--smmix", "--mixup", 0.8]
    process = launch(tmp_path, *flags, ranks=2)
    started(process)
    time.sleep(1)
    target = process.pid
    if whom == "rank 1":
        found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
        target = sorted(map(int, found.stdout.split()))[1]
    os.kill(target, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert len(re.findall("the checkpoint is ", err)) == 1, err
    (last,) = re.findall(r"the checkpoint is (\S+checkpoint-\d+-\d+);", err)
    assert os.path.exists(f"{last}/rank-1.pt")
    assert "exitcode  : 75" in err or "exitcode: 75" in err or whom == "launcher"
