"""torchrun replaces a rank that died, and the run goes on by itself: no flag asks for it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.ranks import run_ranks
from tests.train.conftest import FAST
from tests.train.recovery.runs import assert_same_result
from tests.train.test_run import ENTRY

pytestmark = pytest.mark.distributed


def test_a_rank_that_is_killed_is_replaced_and_the_run_goes_on(tmp_path, image_folder):
    flags = [*FAST, *"--smmix --mixup 0.8 -b 5 --epochs 5 --checkpoint-steps 1".split(), "--data-dir", image_folder]
    # An older run with the same settings, which a restart must not take for its own.
    result = run_ranks(ENTRY, *flags, "--output", tmp_path / "out", ranks=2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (whole,) = (tmp_path / "out").iterdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3"]
    command = [sys.executable, *launcher, str(ENTRY), *map(str, [*flags, "--output", tmp_path / "out"])]
    with subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            said = []
            while "epoch 2/5" not in (line := process.stderr.readline()):
                assert line, "".join(said)
                said.append(line)
            time.sleep(0.2)
            children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
            os.kill(sorted(map(int, children.stdout.split()))[1], signal.SIGKILL)
            _, err = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode == 0, err
    assert " exactly, at epoch " in err
    (replaced,) = set((tmp_path / "out").iterdir()) - {whole}
    assert_same_result(replaced, whole, average=False)
