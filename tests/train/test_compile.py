"""``--torchcompile``: the eager run's numbers, each part compiled once, and the modes."""

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo import register_backend
from torch._dynamo.testing import CompileCounterWithBackend

from dali_mix.data import Batch
from dali_mix.errors import ConfigError
from dali_mix.methods import Plain, SMMixStep
from dali_mix.train import model as building
from dali_mix.train.checkpoint.store import Position
from dali_mix.train.settings import parse_args
from dali_mix.train.step import TrainStep
from tests.methods.smmix import test_compile as smmix_compile
from tests.methods.smmix.test_stage import tiny_vit
from tests.ranks import run_ranks
from tests.train.conftest import FAST
from tests.train.recovery.runs import assert_same_result, cut_off, rows_of
from tests.train.test_run import ENTRY

pytestmark = smmix_compile.pytestmark

RUN = "--smmix --mixup 0.8 --epochs 2 --model-ema --no-aug --checkpoint-steps 1 --checkpoint-hist 100".split()
PARTS = 7
"""Trunk and end of the probe, regions, trunk and end of the forward, the losses of SMMix and those of Mixup."""


@pytest.fixture
def counter():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    if "counted" not in torch._dynamo.list_backends():
        register_backend(lambda graph, inputs: counted["now"](graph, inputs), name="counted")
    counted["now"] = counter
    yield counter
    torch._dynamo.reset()


counted = {}


def assert_close(folder, expected):
    for row, other in zip(rows_of(folder), rows_of(expected), strict=True):
        losses = [name for name in row if "loss" in name or name.startswith("train_")]
        numbers = [[float(values[name] or 0) for name in losses] for values in (row, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)
    for name in ("model.safetensors", "model_ema.safetensors"):
        torch.testing.assert_close(load_file(folder / name), load_file(expected / name), rtol=1e-2, atol=1e-4)


def test_a_compiled_run_is_the_eager_run_and_goes_on_where_it_was_cut_off(train, tmp_path, counter):
    code, _, err = train(*RUN, "--experiment", "eager")
    assert code == 0, err
    code, _, err = train(*RUN, "--torchcompile", "counted", "--experiment", "compiled")
    assert code == 0, err
    assert_close(tmp_path / "compiled", tmp_path / "eager")
    # Beside the parts there is the model as the validation runs it, and once more for its last batch, which is smaller.
    assert counter.frame_count == PARTS + 2
    cut_off(tmp_path / "compiled", tmp_path / "cut", Position(1, 1))
    code, _, err = train(*RUN, "--torchcompile", "counted", "--experiment", "cut", "--auto-resume")
    assert code == 0, err
    assert counter.frame_count == PARTS + 2
    assert_same_result(tmp_path / "cut", tmp_path / "compiled")


def step_of(model):
    smmix = SMMixStep(model, 5, smoothing=0.1)
    return TrainStep(Plain(model, 5, classify=smmix.classify), [smmix])


def compile_as_asked(step, device, *flags):
    settings = parse_args(["--data-dir", "x", *flags])
    backend, mode = settings.model.torchcompile, settings.model.torchcompile_mode
    accumulates = settings.optimizer.grad_accum_steps > 1
    building.compile_modules(step, torch.device(device), backend, mode, accumulates=accumulates)


def take_step(step, branch):
    """The losses and the gradients of a step on four images."""
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(4, 3, 64, 64, generator=generator), torch.arange(4)
    targets = torch.eye(5)[labels]
    step.zero_grad()
    losses = step(Batch(images, targets, labels, branch), 2 if branch == "smmix" else None)
    losses["loss"].backward()
    named = {name: loss.detach().clone() for name, loss in losses.items() if name != "output"}
    return named, [parameter.grad for parameter in step.parameters()]


@pytest.mark.long
@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_inductors_modes_give_the_eager_steps(mode):
    torch._dynamo.reset()
    model = tiny_vit(depth=2).train()
    step = step_of(model)
    branches = ("smmix", "mixup", "smmix")
    expected = [take_step(step, branch) for branch in branches]
    compile_as_asked(step, "cpu", "--torchcompile", "--torchcompile-mode", mode)
    for branch, wanted in zip(branches, expected, strict=True):
        torch.testing.assert_close(take_step(step, branch), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--torchcompile --torchcompile-mode fastest", "--torchcompile-mode fastest is refused"),
        ("--torchcompile aot_eager --torchcompile-mode max-autotune", "is a mode of inductor"),
        ("--torchcompile --torchcompile-mode reduce-overhead --grad-accum-steps 2", "overwrite the gradients"),
    ],
)
def test_modes_that_cannot_work_are_refused(flags, message):
    model = tiny_vit(depth=1)
    with pytest.raises(ConfigError, match=message):
        compile_as_asked(step_of(model), "cuda", *flags.split())


@pytest.mark.long
@pytest.mark.distributed
def test_two_ranks_train_compiled(tmp_path, image_folder):
    common = [*FAST, "--data-dir", image_folder, *RUN, "--grad-checkpointing", "--output", tmp_path]
    for name, extra in (("eager", []), ("compiled", ["--torchcompile", "aot_eager"])):
        result = run_ranks(ENTRY, *common, *extra, "--experiment", name, ranks=2, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert_close(tmp_path / "compiled", tmp_path / "eager")
