import argparse
import json
import statistics
import time

import pytest
import torch

from dali_mix.data import Batch, MixLoader
from dali_mix.tools.bench import step, step_loop, step_setup, step_work
from dali_mix.tools.bench.__main__ import main
from dali_mix.train.distributed import World
from dali_mix.train.output.preview import Preview

MODEL = "--device cpu --model vit_tiny_patch16_224 --model-kwargs patch_size=8 embed_dim=32 depth=2 num_heads=2".split()
TINY_STEP = ["step", *MODEL, *"--img-size 32 -b 4 --num-classes 10 --rounds 2".split()]


# Dynamo looks at it itself.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture
def measure(tmp_path, capsys):
    """Run the benchmark: its record, and what it printed."""

    def run(*flags):
        path = tmp_path / "figures.json"
        assert main([*TINY_STEP, *flags, "--json", str(path)]) == 0, capsys.readouterr().err
        return json.loads(path.read_text()), capsys.readouterr().out

    return run


@pytest.fixture
def graphs():
    """The graphs that the backend "counting" has been given."""
    seen = []

    def counting(graph, inputs):
        seen.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch._dynamo.register_backend(counting, name="counting")
    yield seen
    torch._dynamo.reset()
    torch._dynamo.backends.registry._COMPILER_FNS.pop("counting", None)
    torch._dynamo.backends.registry._BACKENDS.pop("counting", None)


def settings(*flags):
    parser = argparse.ArgumentParser()
    step.add_arguments(parser)
    return parser.parse_args([*TINY_STEP[1:], *flags])


def prepared(*flags):
    return step_setup.prepare(settings(*flags), World(0, 1, torch.device("cpu")))


@pytest.mark.parametrize("extra", [[], ["--amp", "--steps", "2"]])
def test_every_alternative_and_part_is_measured(measure, extra):
    record, out = measure(*extra)
    assert list(record["results"]) == list(record["seconds"]) == ["plain", "mixup", "half smmix", "smmix"]
    assert record["results"]["mixup"]["ratio"]["median"] == 1
    assert [figures["smmix"] for figures in record["results"].values()] == [0, 0, 0.5, 1]
    for name, figures in record["results"].items():
        assert figures["peak_memory_mib"] is None
        assert figures["host_wait_ms"]["median"] == 0
        assert len(figures["warm_up_s"]) == step_work.WARM_UP
        seconds = record["seconds"][name]
        assert figures["per_s"]["median"] == pytest.approx(statistics.median(4 / value for value in seconds))
        assert figures["ms"]["median"] == pytest.approx(1000 * statistics.median(seconds))
    assert record["environment"]["timm"]
    assert list(record["parts"]) == ["probe", "regions", "forward", "backward", "update"]
    # Round by round the parts make up the instrumented step.
    assert all(len(seconds) == 2 for seconds in record["part_seconds"].values())
    assert sum(figures["share"]["median"] for figures in record["parts"].values()) == pytest.approx(1)
    assert all(name in out for name in [*record["results"], *record["parts"]])
    assert "host idle is 0 by nature" in out


def test_the_parts_make_up_about_an_smmix_step(measure):
    record, _ = measure("--rounds", "5")
    whole = statistics.median(record["seconds"]["smmix"])
    parts = statistics.median(map(sum, zip(*record["part_seconds"].values(), strict=True)))
    assert whole / 3 < parts < whole * 3  # wide, as the steps take milliseconds and the machine has other work


def test_of_a_model_that_smmix_cannot_serve_the_rest_is_measured(measure):
    record, out = measure("--model", "resnet10t", "--model-kwargs", "--rounds", "1")
    assert list(record["results"]) == ["plain", "mixup"]
    assert record["parts"] == {}
    assert "half smmix and smmix are left out: SMMix cannot serve ResNet" in out


def test_eager_and_compiled_take_turns(measure, graphs):
    record, out = measure("--compiled", "--torchcompile", "counting", "--only", "mixup", "smmix", "--rounds", "1")
    assert list(record["results"]) == ["mixup", "smmix", "mixup, compiled", "smmix, compiled"]
    assert graphs
    assert record["results"]["mixup, compiled"]["ratio"]["median"] == 1
    both = [record["seconds"][name][0] for name in ("mixup, compiled", "mixup")]
    assert record["results"]["mixup, compiled"]["gain"]["median"] == pytest.approx(both[0] / both[1])
    # The first update compiles, and stands apart.
    assert record["results"]["mixup, compiled"]["warm_up_s"][0] > both[0]
    assert "time / row without the last word" in out


def test_all_may_be_compiled(measure, graphs):
    record, _ = measure("--torchcompile", "counting", "--only", "plain", "--rounds", "1")
    assert list(record["results"]) == ["plain, compiled"]
    assert graphs


def test_the_compiled_trainer_shares_weights_and_optimizer():
    setup = prepared("--model", "resnet10t", "--model-kwargs")
    other = step_setup.compiled(setup.trainer, "eager", None)
    assert other.model is not setup.trainer.model
    assert other.updater is setup.trainer.updater
    for own, copied in ((setup.trainer.step, other.step), (setup.trainer.model, other.model)):
        for name in ("parameters", "buffers"):
            pairs = list(zip(getattr(own, name)(), getattr(copied, name)(), strict=True))
            assert pairs
            assert all(one is another for one, another in pairs)


@pytest.fixture
def loaded(monkeypatch):
    """The branches of the batches that pipelines have delivered."""
    branches = []

    def load(self, original=MixLoader._advance):
        batch = original(self)
        if batch is not None:
            branches.append((batch.branch, batch.images.dtype))
        return batch

    monkeypatch.setattr(MixLoader, "_advance", load)
    return branches


def test_files_come_through_the_trainers_pipeline(measure, loaded, image_folder):
    flags = ["--data-dir", str(image_folder / "train"), "-j", "2", "--amp", "--only", "mixup", "half smmix"]
    record, out = measure(*flags, "--rounds", "2")
    assert list(record["results"]) == ["mixup", "half smmix", "mixup, files", "half smmix, files"]
    assert {dtype for _, dtype in loaded} == {torch.float16}
    rounds, steps = 2, 1
    expected = step_work.WARM_UP + rounds * (step_work._READY + steps)
    assert len(loaded) == 2 * expected + rounds  # half smmix takes two steps
    assert {branch for branch, _ in loaded} == {"mixup", "smmix"}
    assert record["results"]["mixup, files"]["data_wait"]["median"] > 0
    assert "data wait" in out


def test_a_loader_is_read_epoch_after_epoch():
    class Loader:
        def __iter__(self):
            return iter("ab")

    batches = iter(step_work.endless(Loader()))
    assert "".join(next(batches) for _ in range(5)) == "ababa"


def test_synthetic_batches_are_what_their_names_say():
    made = step_work.synthetic(prepared("--amp"))
    plain, mixup, smmix = (made[name]() for name in ("plain", "mixup", "smmix"))
    assert {plain.images.dtype, mixup.images.dtype} == {torch.float16}
    assert plain.images.is_contiguous(memory_format=torch.channels_last)
    assert (plain.branch, mixup.branch, smmix.branch) == ("none", "mixup", "smmix")
    assert not torch.equal(plain.images, mixup.images)
    assert mixup.targets.sum(1) == pytest.approx(1)
    assert [made["half smmix"]().branch for _ in range(4)] == ["mixup", "smmix"] * 2


def test_the_trainers_settings_are_taken():
    trainer = prepared("--ema", "--clip-grad", "0.5", "--amp", "--amp-dtype", "float16").trainer
    assert trainer.ema is not None
    assert trainer.updater.clip == 0.5
    assert trainer.updater.precision.dtype == torch.float16
    assert prepared().trainer.ema is None


def test_the_guard_against_what_is_not_finite_can_be_left_out(monkeypatch, measure):
    limits = {}

    def train(self, updates, original=step_work.Alternative._train):
        limits.setdefault(self.trainer.recovery.nonfinite_limit, []).append(updates)
        return original(self, updates)

    monkeypatch.setattr(step_work.Alternative, "_train", train)
    record, _ = measure("--unguarded", "--nonfinite-limit", "7", "--only", "plain", "--rounds", "1")
    assert list(record["results"]) == ["plain", "plain, unguarded"]
    assert limits == {7: [1] * 5, 0: [1] * 5}


def test_what_the_loop_adds_is_told(monkeypatch, measure):
    monkeypatch.setattr(step_loop, "_STEPS", 10)
    record, out = measure("--loop", "--rounds", "2")
    assert list(record["results"]) == ["bare", "loop", "model"]
    assert record["results"]["bare"]["above_ms"]["median"] == 0
    assert "the loop's own part is" in out

    def watch(self, batch, plan, original=Preview.watch):
        time.sleep(0.05)
        original(self, batch, plan)

    monkeypatch.setattr(Preview, "watch", watch)
    slow, _ = measure("--loop", "--rounds", "2")
    assert slow["results"]["loop"]["above_ms"]["median"] > 25  # half of it, as the machine has other work
    above, model = slow["results"]["loop"]["above_ms"]["median"], slow["results"]["model"]["ms"]["median"]
    assert slow["share"] == pytest.approx(above / model)
    (watched,) = (entry for entry in slow["profile"] if entry["function"] == "watch")
    assert watched["us"] > 50000


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model vit_tiny_patch16_225", "did you mean"),
        ("--model resnet10t --model-kwargs --only smmix", "nothing is left to time: SMMix cannot serve ResNet"),
        ("--img-size 0", "--img-size must be at least 1"),
        ("--img-size 33", "use 32 or 40"),
        ("--img-size 16", "token grid of 2 x 2"),
        ("--drop-path 2", "--drop-path must lie in [0, 1]"),
        ("--model-kwargs depth", "NAME=VALUE"),
        ("--amp-dtype float16", "no effect without --amp"),
        ("--torchcompile-mode default", "no effect without --compiled or --torchcompile"),
        ("--compiled --torchcompile nonsense", "not a backend"),
        ("--unguarded --nonfinite-limit 0", "--unguarded has no effect"),
        ("--nonfinite-limit -1", "must be at least 0"),
        ("--clip-grad nan", "--clip-grad must be a positive number"),
        ("--time-limit -1", "--time-limit must be a positive number"),
        ("--loop --compiled", "leave the other alternatives out"),
        ("--data-dir nowhere", "nowhere does not exist"),
        ("--data-dir {folder}/train --num-classes 3", "has 10 classes: raise --num-classes"),
        ("--data-dir {folder}/train -b 71", "do not fill one batch of 71"),
    ],
)
def test_a_step_that_cannot_be_measured_is_one_line(flags, message, capsys, image_folder):
    assert main([*TINY_STEP, *flags.format(folder=image_folder).split()]) == 2
    error = capsys.readouterr().err
    assert message.lower() in error.lower()
    assert error.count("\n") == 1


@pytest.mark.gpu
def test_memory_and_the_hosts_idle_time_are_measured_on_a_gpu(measure):
    record, out = measure("--device", "cuda", "--amp", "--steps", "4")
    for figures in record["results"].values():
        assert figures["peak_memory_mib"] > 0
        assert 0 <= figures["host_wait_ms"]["median"] <= figures["ms"]["median"]
    assert "host idle is 0 by nature" not in out


def test_a_segment_knows_how_long_the_host_waited(monkeypatch):
    """Of a device other than the CPU; here one that is none."""
    trainer = argparse.Namespace(world=argparse.Namespace(device=argparse.Namespace(type="cuda")), waited_s=0.0)

    def train_epoch(batches, epoch, progress, statistics, max_steps):
        for _ in range(max_steps):
            trainer.watch(next(iter(batches)), None)
            trainer.waited_s += 0.25
            statistics.waited += 0.125

    trainer.train_epoch = train_epoch
    for name, value in (("reset_peak_memory_stats", None), ("synchronize", None), ("max_memory_allocated", 2**21)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    batch = Batch(torch.zeros(1), torch.zeros(1), torch.zeros(1), "smmix")
    taken = step_work.Alternative(trainer, step_work.ReadyBatches(lambda: batch), updates=4)()
    assert taken.host_wait_s == pytest.approx(0.25, abs=0.01)
    assert (taken.data_wait_s, taken.peak_mib, taken.smmix) == (0.125, 2, 1)
