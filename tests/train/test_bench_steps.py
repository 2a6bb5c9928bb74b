"""``--bench-steps`` tells start-up, warm-up and the steady state apart."""

import dataclasses
import re
import time

import pytest
import torch

from dali_mix.data import Batch
from dali_mix.train import bench
from dali_mix.train.distributed import World
from dali_mix.train.step import TrainStep
from tests.ranks import run_ranks
from tests.train.test_run import ENTRY, FAST

STEP_S, COMPILE_S, LOAD_S, DEVICE_S = 0.002, 0.2, 0.001, 0.003


def figures_of(out):
    """The table: name to text."""
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in out.splitlines() if line.startswith("  "))


def test_the_phases_are_told_apart(train, tmp_path):
    code, out, err = train("--bench-steps", 9)
    assert code == 0, err
    figures = figures_of(out)
    assert list(figures)[:6] == ["start-up", "warm-up", "steady", "speed", "update", "data wait"]
    assert figures["warm-up"].startswith("6 updates in ")
    # Seven batches an epoch: 15 updates end in the third.
    assert figures["steady"] == "9 batches of 10 on each of 1 rank(s), to epoch 3"
    assert "memory" not in figures
    assert not list(tmp_path.iterdir())


def test_what_is_compiled_first_does_not_slow_the_steady_state(train, monkeypatch):
    calls = []

    def forward(self, batch, plan=None, original=TrainStep.forward):
        calls.append(batch.branch)
        if len(calls) == 1:
            time.sleep(2)
        return original(self, batch, plan)

    monkeypatch.setattr(TrainStep, "forward", forward)
    code, out, err = train("--bench-steps", 2, "--mixup", 1)
    assert code == 0, err
    figures = figures_of(out)
    warm_up, first = map(float, re.search(r"in ([\d.]+) s, the first ([\d.]+) s", figures["warm-up"]).groups())
    assert warm_up >= first >= 2
    assert float(figures["update"].split()[0]) < 1000
    assert len(calls) == 8


def test_an_update_may_be_of_several_batches(train):
    code, out, err = train("--bench-steps", 3, "-b", 5, "--grad-accum-steps", 4)
    assert code == 0, err
    # Fourteen batches, and so four updates, an epoch.
    assert figures_of(out)["steady"] == "3 times 4 batches of 5 on each of 1 rank(s), to epoch 3"


@pytest.mark.distributed
def test_two_ranks_are_timed_together(tmp_path, image_folder):
    flags = [*FAST, "--data-dir", image_folder, "--smmix", "--mixup", 0.8, "-b", 5, "--bench-steps", 4]
    result = run_ranks(ENTRY, *flags, "--output", tmp_path / "none", ranks=2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("steady") == 1
    figures = figures_of(result.stdout)
    assert figures["steady"].startswith("4 batches of 5 on each of 2 rank(s)")
    assert "(on one rank up to " in figures["data wait"]
    assert not (tmp_path / "none").exists()


class FakeLoader:
    """Five batches an epoch, each of four images."""

    def __len__(self):
        return 5


@dataclasses.dataclass
class FakeTrainer:
    """Its "device" is one for which the host waits; the first update and every tenth batch are special."""

    branches: list[str]
    accumulate: int = 1
    waited_s: float = 0.0
    world: World = dataclasses.field(default_factory=lambda: World(0, 1, torch.device("cpu")))
    batches: int = 0

    def updates_per_epoch(self, batches):
        return -(-batches // self.accumulate)

    def train_epoch(self, loader, epoch, progress, statistics, max_steps):
        for _ in range(statistics.batches, max_steps):
            time.sleep(LOAD_S)
            statistics.waited += LOAD_S
            branch = self.branches[min(self.batches, len(self.branches) - 1)]
            self.watch(Batch(torch.zeros(4), torch.zeros(4), torch.zeros(4), branch), None)
            time.sleep(STEP_S if self.batches else COMPILE_S)
            self.batches += 1
            statistics.add_batch(4)
            if statistics.batches % self.accumulate == 0 or statistics.batches == len(loader):
                time.sleep(DEVICE_S)
                self.waited_s += DEVICE_S
                self.after_update(epoch, statistics, False)


def test_every_figure_is_of_the_steady_updates_alone():
    trainer = FakeTrainer(["none"])
    benchmark = bench.Benchmark(trainer, FakeLoader())
    warm_up = benchmark.warm_up(["none"])
    steady = benchmark.phase(12)
    assert warm_up.update_s[0] > COMPILE_S > max(warm_up.update_s[1:])
    assert len(steady.update_s) == 12
    assert steady.seconds >= sum(steady.update_s) >= 12 * (STEP_S + LOAD_S + DEVICE_S)
    assert max(steady.update_s) < COMPILE_S
    assert steady.images == 48
    assert steady.data_wait_s == pytest.approx(12 * LOAD_S)
    assert steady.host_wait_s == pytest.approx(12 * DEVICE_S)
    assert steady.peak_bytes is None
    assert benchmark.epochs == 4
    assert benchmark.start_up_s > 0


def test_the_last_update_of_an_epoch_may_be_smaller():
    trainer = FakeTrainer(["none"], accumulate=3)
    steady = bench.Benchmark(trainer, FakeLoader()).phase(5)
    assert len(steady.update_s) == 5
    assert steady.images == 4 * (3 + 2 + 3 + 2 + 3)


@pytest.mark.parametrize(
    ("branches", "expected", "missing"),
    [(["none", "mixup"], 6, []), (["none"] * 9 + ["mixup"], 11, []), (["none"], bench._LONGEST_WARM_UP, ["mixup"])],
)
def test_the_warm_up_lasts_until_every_branch_has_come_twice(monkeypatch, branches, expected, missing):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    trainer = FakeTrainer(branches)
    benchmark = bench.Benchmark(trainer, FakeLoader())
    wanted = sorted({*branches, "mixup"}, reverse=True)
    if branches == ["none", "mixup"]:
        trainer.branches = ["none", "mixup", "none", "mixup", "none", "mixup"]
    assert len(benchmark.warm_up(wanted).update_s) == expected
    assert benchmark.missing(wanted) == missing


def test_of_several_ranks_the_slowest_decides():
    trainer = FakeTrainer(["none"], world=World(0, 2, torch.device("cpu")))
    phases = [bench.Phase([0.1] * 4, seconds, 80, 0.1, wait, None) for seconds, wait in ((0.4, 0.0), (0.5, 0.02))]
    figures = dict(bench._lines(trainer, [(3.0, phases[0], phase) for phase in phases], 10, 2))
    assert figures["speed"] == "160.0 img/s"
    assert figures["data wait"] == "22.5% (on one rank up to 25.0%) of the time"
    assert figures["host idle"].startswith("2.5 (on one rank up to 5.0) ms per update")
