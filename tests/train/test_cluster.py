"""Several machines, as far as one machine can show: launchers that find each other, and SLURM's environment."""

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.ranks import run_ranks
from tests.train.conftest import FAST

ROOT = Path(__file__).parents[2]
BATCH_FILE = ROOT / "docs" / "train.sbatch"
LAUNCHER = [sys.executable, "-m", "torch.distributed.run"]

pytestmark = pytest.mark.distributed


@pytest.fixture
def flags(image_folder, tmp_path):
    """One epoch of the tiny model, into ``tmp_path/out``."""
    return [*FAST, "--data-dir", str(image_folder), "--output", str(tmp_path / "out"), "--epochs", "1", "-b", "5"]


@pytest.fixture
def environment():
    """This process's own, without what a launcher or a cluster around the tests may have left there."""
    outer = re.compile(r"SLURM_|TRAIN_|MASTER_|(RANK|WORLD_SIZE|LOCAL_RANK)$")
    return {name: value for name, value in os.environ.items() if not outer.match(name)} | {"OMP_NUM_THREADS": "1"}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_folders(tmp_path):
    return [path.name for path in (tmp_path / "out").iterdir()]


def test_two_launchers_train_one_model(tmp_path, flags, environment):
    port = free_port()
    with ExitStack() as stack:
        machines = []
        for node in ("0", "1"):
            where = ["--nnodes", "2", "--node-rank", node, "--master-addr", "127.0.0.1", "--master-port", port]
            command = [*LAUNCHER, *where, "--nproc-per-node", "1", str(ROOT / "train_imagenet.py"), *flags]
            machine = stack.enter_context(
                subprocess.Popen(
                    command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )
            # Called before the context waits for the process, so that a failed test leaves none behind.
            stack.callback(machine.terminate)
            machines.append(machine)
        (first, first_err), (second, second_err) = [machine.communicate(timeout=240) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], first_err + second_err
    assert first.count("best top-1") == 1
    assert second == ""
    assert len(run_folders(tmp_path)) == 1


def test_a_clusters_variables_alone_change_nothing(tmp_path, flags):
    slurm = {
        "SLURM_JOB_ID": "4711", "SLURM_NTASKS": "4", "SLURM_NPROCS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2",
        "SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_STEP_NODELIST": "node[1-2]",
    }  # fmt: skip
    result = run_ranks(ROOT / "train_imagenet.py", *flags, cwd=tmp_path, env=slurm)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("best top-1") == 1
    assert len(run_folders(tmp_path)) == 1


# As srun on one machine does: options are its own, the rest runs with the number of the machine.
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do echo "$1" >> "$SRUN_LOG"; shift; done
SLURM_NODEID=0 SLURM_PROCID=0 exec "$@"
"""
# Far more machines than are read: the file must not mind that.
SCONTROL = """#!/usr/bin/env bash
[[ $1 == requeue ]] && { echo "$*" > "$SRUN_LOG.requeue"; exit; }
[[ "$*" == "show hostnames 127.0.0.1,others" ]] || exit 1
echo 127.0.0.1
for i in {1..20000}; do echo "other-$i"; done
"""


@pytest.fixture
def slurm(tmp_path, environment):
    """The environment of a batch job on one machine, with stand-ins for SLURM's programs."""
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return environment | {
        "PATH": f"{tmp_path / 'bin'}:{environment['PATH']}",
        "SRUN_LOG": str(tmp_path / "srun.log"),
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "batch", "SLURM_JOB_NODELIST": "127.0.0.1,others",
        "SLURM_NNODES": "1", "SLURM_CPUS_PER_TASK": "2",
        "TRAIN_PYTHON": sys.executable, "TRAIN_PORT": free_port(),
    }  # fmt: skip


def test_the_batch_file_is_bash():
    result = subprocess.run(["bash", "-n", str(BATCH_FILE)], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("gpus", [pytest.param(None, marks=pytest.mark.long), "2"])
def test_the_batch_file_trains(tmp_path, flags, slurm, gpus):
    # Where the cluster counts GPUs there is a rank for each; here they compute on the CPU.
    slurm |= {"SLURM_GPUS_ON_NODE": gpus} if gpus else {}
    cluster_flags = [flag for index, flag in enumerate(flags) if "-j" not in flags[max(index - 1, 0) : index + 1]]
    result = subprocess.run(
        ["bash", str(BATCH_FILE), *cluster_flags], cwd=ROOT, env=slurm, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("best top-1") == 1
    assert run_folders(tmp_path) == ["batch-4711"]
    assert "--cpus-per-task=2" in (tmp_path / "srun.log").read_text().split()
    threads = 2 // int(gpus or 1)
    assert re.search(rf"^workers: {threads}$", (tmp_path / "out/batch-4711/args.yaml").read_text(), re.M)


@pytest.mark.long
def test_the_batch_file_passes_the_exit_code_on(tmp_path, flags, slurm):
    result = subprocess.run(
        ["bash", str(BATCH_FILE), *flags, "--num-classes", "7"],
        cwd=ROOT, env=slurm, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert result.returncode != 0
    assert result.stderr.count("contradicts the 10 class folders") == 1


def test_a_warning_before_the_time_is_up_saves_and_requeues_and_the_job_goes_on(tmp_path, flags, slurm):
    command = ["bash", str(BATCH_FILE), *flags]
    with subprocess.Popen(
        [*command, "--epochs", "200"], cwd=ROOT, env=slurm, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as job:
        try:
            while "epoch 1/200" not in (line := job.stderr.readline()):
                assert line
            job.send_signal(signal.SIGUSR1)
            _, err = job.communicate(timeout=120)
        finally:
            job.kill()
    assert job.returncode != 0
    assert "stopped by SIGTERM at epoch" in err
    assert (tmp_path / "srun.log.requeue").read_text() == "requeue 4711\n"
    (checkpoint,) = re.findall(r"checkpoint is (\S+);", err)
    job = subprocess.Popen(
        [*command, "--epochs", "200"], cwd=ROOT, env=slurm, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    with job:
        while f"continuing {checkpoint} exactly" not in (line := job.stderr.readline()):
            assert line
        job.send_signal(signal.SIGUSR1)
        job.communicate(timeout=120)
    assert run_folders(tmp_path) == ["batch-4711"]


def test_a_job_is_no_place_to_time_steps(tmp_path, flags, slurm):
    """What the batch file adds to the flags is refused with them."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    python.chmod(0o755)
    result = subprocess.run(
        ["bash", str(BATCH_FILE), *flags, "--bench-steps", "1"],
        cwd=ROOT, env=slurm | {"TRAIN_PYTHON": str(python)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    launched = result.stdout.split("\0")[:-1]
    assert launched[:2] == ["-m", "torch.distributed.run"]
    result = run_ranks(ROOT / "train_imagenet.py", *launched[launched.index("train_imagenet.py") + 1 :], cwd=tmp_path)
    assert result.returncode == 2
    assert "--auto-resume continues a training; leave it out with --bench-steps" in result.stderr
