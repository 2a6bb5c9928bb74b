"""A run does not outlive the process that started it, where that is a launcher."""

import os
import signal
import subprocess
import time

import pytest

from dali_mix.train import launcher
from dali_mix.train.launcher import follow_launcher
from dali_mix.train.run_folder import lock_run, unlock_all
from tests.train.conftest import FAST
from tests.train.test_run import command


def orphaned(tmp_path, environment, monkeypatch):
    """What becomes of a process that follows its launcher, which is killed: "TERM" or "nothing"."""
    for name in ("TORCHELASTIC_RUN_ID", launcher.LAUNCHER):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launcher, "_LOOK_EVERY_S", 0.05)
    answer = tmp_path / "answer"
    parent = os.fork()
    if parent == 0:
        own = str(os.getpid())
        if os.fork() == 0:
            os.environ.update({name: value or own for name, value in environment.items()})
            signal.signal(signal.SIGTERM, lambda *_: (answer.write_text("TERM"), os._exit(0)))
            follow_launcher()
            (tmp_path / "follows").touch()
            time.sleep(2)
            answer.write_text("nothing")
            os._exit(0)
        time.sleep(30)
        os._exit(0)
    end = time.monotonic() + 20
    while not (tmp_path / "follows").exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while not (answer.exists() and answer.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    return answer.read_text()


@pytest.mark.parametrize(
    ("environment", "becomes"),
    [
        ({"TORCHELASTIC_RUN_ID": "none"}, "TERM"),
        ({launcher.LAUNCHER: ""}, "TERM"),  # its own number
        ({}, "nothing"),  # a shell that has gone, as with nohup
    ],
)
def test_the_end_of_the_launcher_is_a_request_to_stop(tmp_path, monkeypatch, environment, becomes):
    assert orphaned(tmp_path, environment, monkeypatch) == becomes


def test_a_launcher_that_had_ended_before_the_first_look(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setattr(launcher, "_parent", 1)
    monkeypatch.setattr(os, "readlink", lambda path: "/usr/lib/systemd/systemd")
    assert launcher._launcher()() is False


@pytest.mark.long
@pytest.mark.distributed
def test_ranks_whose_launcher_is_killed_stop_with_a_checkpoint(tmp_path, image_folder):
    flags = [
        *FAST,
        "-b",
        5,
        "--epochs",
        10_000,
        "--data-dir",
        image_folder,
        "--output",
        tmp_path,
        "--experiment",
        "run",
    ]
    with subprocess.Popen(command(*flags, ranks=2), stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        for line in process.stderr:
            if "images per update" in line:
                break
        time.sleep(2)
        process.kill()
        err = process.stderr.read()  # until the last rank has ended
    assert "the process that started this run has ended: stopping" in err
    assert "stopped by SIGTERM at epoch" in err
    lock_run(tmp_path / "run")
    unlock_all()
