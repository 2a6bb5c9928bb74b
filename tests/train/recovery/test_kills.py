"""SIGKILL at random moments: the final weights are those of a run that was never killed, to the bit.

The short form runs with the other tests; ``pytest -m long`` kills fifty times on one rank and fifty times on two.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from tests.ranks import run_ranks
from tests.train.conftest import FAST
from tests.train.recovery.runs import assert_same_result
from tests.train.test_run import ENTRY

FLAGS = (
    "--smmix --mixup 0.8 --cutmix 1 --drop 0.1 --model-ema --aa rand-m5-inc1 --reprob 0.3 --opt lookahead_adamw "
    "--checkpoint-steps 1 --checkpoint-hist 2 --val-interval 3"
).split()


class Process:
    """The training command in a session of its own, restarted until it ends by itself."""

    def __init__(self, flags, ranks, folder):
        restarts = ["--max-restarts", "1000", "--monitor-interval", "0.1"]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), *restarts]
        self._command = [sys.executable, *(launcher if ranks > 1 else []), str(ENTRY), *map(str, flags)]
        self._folder, self.ranks = folder, ranks
        self.output = []
        self._start()

    def _start(self):
        self._trains = threading.Event()
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            self._command, cwd=self._folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, args=(self._process,))
        self._reader.start()

    def _read(self, process):
        for line in process.stderr:
            self.output.append(line)
            if "images per update" in line:
                self._trains.set()
        process.stderr.close()

    def wait_until_it_trains(self):
        """True when it trains, False when it has ended."""
        while not self._trains.wait(0.02):
            if self._process.poll() is not None:
                return False
        return True

    def ended(self):
        return self._process.poll() is not None

    def kill(self, one_rank):
        """Kill all of it and start it again, or one rank, which the launcher replaces together with the others."""
        if one_rank:
            self._trains.clear()
            os.kill(random.choice(self._children()), signal.SIGKILL)
            return
        self._kill_all()
        self._join()
        self._start()

    def _children(self):
        children = subprocess.run(["pgrep", "-P", str(self._process.pid)], capture_output=True, text=True)
        return list(map(int, children.stdout.split()))

    def _kill_all(self):
        """The launcher and the ranks, which have sessions of their own."""
        children = self._children()
        os.killpg(self._process.pid, signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def _join(self):
        self._process.wait()
        self._reader.join()

    def finish(self):
        self._join()
        return self._process.returncode

    def abort(self):
        if not self.ended():
            self._kill_all()
        self._join()


def wait_for_a_save(checkpoints, process, seconds):
    """Until a checkpoint is half written; False if none was."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not process.ended():
        try:
            if any(name.endswith(".tmp") for name in os.listdir(checkpoints)):
                return True
        except OSError:
            pass
    return False


def killed_run(flags, ranks, tmp_path, name, kills, rng):
    """Run to the end through at most so many kills; returns where they fell."""
    process = Process([*flags, "--experiment", name, "--auto-resume"], ranks, tmp_path)
    places = []
    try:
        while len(places) < kills:
            if rng.random() < 0.1:
                time.sleep(rng.uniform(0, 5))
                place = "start-up"
            elif not process.wait_until_it_trains():
                break
            elif rng.random() < 0.4:
                time.sleep(rng.uniform(0, 0.7))
                place = "save" if wait_for_a_save(tmp_path / name / "checkpoints", process, 2) else "training"
                time.sleep(rng.uniform(0, 0.003))
            else:
                time.sleep(rng.uniform(0, 1.5))
                place = "training"
            if process.ended():
                break
            one_rank = ranks > 1 and place != "start-up" and rng.random() < 0.5
            process.kill(one_rank)
            places.append(f"{place}, one rank" if one_rank else place)
        code = process.finish()
    finally:
        process.abort()
    assert code == 0, "".join(process.output[-30:])
    return places


def survives(tmp_path, image_folder, ranks, kills, epochs):
    flags = [*FAST, *FLAGS, "-b", 10 // ranks, "--epochs", epochs, "--data-dir", image_folder, "--output", tmp_path]
    result = run_ranks(ENTRY, *flags, "--experiment", "whole", ranks=ranks, cwd=tmp_path, timeout=1800)
    assert result.returncode == 0, result.stderr
    rng = random.Random(kills * 10 + ranks)
    places = []
    runs = 0
    while len(places) < kills:
        runs += 1
        places += killed_run(flags, ranks, tmp_path, f"killed-{runs}", kills - len(places), rng)
        assert_same_result(tmp_path / f"killed-{runs}", tmp_path / "whole")
        left = [path.name for path in (tmp_path / f"killed-{runs}" / "checkpoints").iterdir()]
        assert not [name for name in left if re.search("tmp|damaged", name)]
    print(
        f"{len(places)} kills on {ranks} rank(s), {runs} run(s):", {place: places.count(place) for place in set(places)}
    )


def test_a_few_kills_on_one_rank(tmp_path, image_folder):
    survives(tmp_path, image_folder, ranks=1, kills=1, epochs=6)


@pytest.mark.distributed
def test_a_few_kills_on_two_ranks(tmp_path, image_folder):
    survives(tmp_path, image_folder, ranks=2, kills=1, epochs=6)


@pytest.mark.long
def test_fifty_kills_on_one_rank(tmp_path, image_folder):
    survives(tmp_path, image_folder, ranks=1, kills=50, epochs=60)


@pytest.mark.long
@pytest.mark.distributed
def test_fifty_kills_on_two_ranks(tmp_path, image_folder):
    survives(tmp_path, image_folder, ranks=2, kills=50, epochs=60)
