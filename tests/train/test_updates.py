"""Updates that are not finite leave no trace, and no update waits for the device to learn whether it is."""

import re

import pytest
import torch
from timm.optim import get_optimizer_info, list_optimizers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dali_mix.train.checkpoint.state import load_shared
from dali_mix.train.loop import TrainingError
from dali_mix.train.undo import Kept
from tests.train.updates import CLASSES, VIT, assert_same_state, batch_of, bits, build, state_of, tiny_cnn, train

WAITS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique_dim", "_unique2"}
"""Operators of ATen that cannot answer before the device has."""


class Waits(TorchDispatchMode):
    """Collects the operators that wait."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name in WAITS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def waits_of(trainer, batches):
    with Waits() as waits:
        train(trainer, batches)
    return waits.names


PRECISIONS = ["--no-amp", "--amp --amp-dtype bfloat16", "--amp --amp-dtype float16"]
EXTRAS = ["", "--clip-grad 1", "--clip-grad 0.5 --clip-mode value", "--grad-accum-steps 2", "--model-ema"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_an_update_waits_for_nothing(precision, extra, opt):
    trainer = build(f"{VIT} --smmix --opt {opt} --log-interval 2 {precision} {extra}")
    batches = [batch_of(branch, seed) for seed, branch in enumerate(["none", "mixup", "smmix"] * 2)]
    assert waits_of(trainer, batches) == []
    assert trainer.updates in (3, 6)


@pytest.mark.parametrize("opt", ["lamb", "lookahead_adamw", "adafactor", "rmsprop", "muon"])
def test_nor_does_it_with_an_optimizer_that_cannot_skip_by_itself(opt):
    batches = [batch_of(seed=seed) for seed in range(3)]
    plain = waits_of(build(f"--opt {opt} --nonfinite-limit 0", model=tiny_cnn()), batches)
    looked = waits_of(build(f"--opt {opt} --model-ema", model=tiny_cnn()), batches)
    assert looked == plain  # some look at numbers of their own


def trainable():
    """Names of timm's optimizers that are installed and need no second derivatives."""
    names = [
        name
        for name in list_optimizers()
        if not isinstance(get_optimizer_info(name).opt_class, str) and not get_optimizer_info(name).second_order
    ]
    names += ["lookahead_sgd", "lookahead_adamw", "lookahead_lamb"]
    # kron compiles its step, and draws from torch's own numbers unless it is told not to.
    slow = {name: f"{name} --opt-kwargs deterministic=True" for name in names if name.startswith("kron")}
    return [pytest.param(slow.get(name, name), marks=[pytest.mark.long] if name in slow else []) for name in names]


@pytest.mark.parametrize("opt", trainable())
@pytest.mark.parametrize("where", [0, 2])
@pytest.mark.filterwarnings("ignore:It is highly recommended to have 'opt_einsum'")
def test_a_refused_update_leaves_no_trace(opt, where):
    """At it and after it, every bit is that of a run which never saw the batch."""
    batches = [batch_of(seed=seed) for seed in range(7)]
    bad = batch_of(seed=9, finite=False)
    expected, actual = (build_with_average(f"--opt {opt} --nonfinite-limit 3") for _ in range(2))
    train(expected, batches[:where])
    train(actual, [*batches[:where], bad])
    assert_same_state(state_of(actual), state_of(expected))
    statistics, reference = train(actual, [bad, *batches[where:]]), train(expected, batches[where:])
    assert_same_state(state_of(actual), state_of(expected))
    assert statistics.skipped == 1
    assert actual.updates == expected.updates + 2
    assert statistics.row(actual.world)["train_loss"] == reference.row(actual.world)["train_loss"]


def build_with_average(flags):
    trainer = build(f"{flags} --model-ema", model=seeded_cnn())
    trainer.ema.update_after_step = -2  # else its decay is 0 at the first update of the schedule
    return trainer


def seeded_cnn():
    torch.manual_seed(0)
    return tiny_cnn()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("extra", ["", "--clip-grad 0.1", "--clip-grad 0.1 --clip-mode value", "--grad-accum-steps 2"])
@pytest.mark.parametrize("opt", ["adamw", "lamb"])
def test_nor_with_any_precision_clipping_or_accumulation(precision, extra, opt):
    trainer = build_with_average(f"--opt {opt} {precision} {extra}")
    train(trainer, [batch_of(seed=seed) for seed in range(4)])
    before = state_of(trainer)
    statistics = train(trainer, [batch_of(seed=8), batch_of(seed=9, finite=False)][-trainer.accumulate :])
    assert statistics.skipped == 1
    assert_same_state(state_of(trainer), before)


def test_an_update_with_an_infinite_gradient_and_a_finite_loss_is_refused():
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, values):
            return values.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    trainer = build_with_average("--opt adamw --clip-grad 1 --clip-mode value")
    before = state_of(trainer)
    trainer.step.model[-1].register_forward_hook(lambda _, __, logits: Steep.apply(logits))
    statistics = train(trainer, [batch_of()])
    assert statistics.skipped == 1
    assert_same_state(state_of(trainer), before)


def test_a_gradient_that_the_scaler_lets_overflow_is_no_fault_of_the_run():
    """Its scale begins at 65,536; the loss is finite, so that the limit does not count it."""
    trainer = build_with_average("--opt adamw --amp --amp-dtype float16 --nonfinite-limit 1")
    scaler = trainer.updater.precision.scaler
    before = state_of(trainer)
    scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**40})
    statistics = train(trainer, [batch_of()])
    assert scaler.get_scale() == 2.0**39
    assert (statistics.skipped, trainer.skipped, statistics.counts["loss"]) == (0, 0, 1)
    statistics = re.compile(r"model\..*(running|tracked).*")  # its forward was well
    kept = {name: value for name, value in before.items() if not statistics.fullmatch(name)}
    after = {name: value for name, value in state_of(trainer).items() if not statistics.fullmatch(name)}
    assert_same_state(after, kept)


def test_the_limit_is_met_at_the_same_update_as_by_waiting():
    trainer = build("--opt adamw --nonfinite-limit 2", model=tiny_cnn())
    batches = [batch_of(), *[batch_of(finite=False)] * 5]
    with pytest.raises(TrainingError, match="in 2 updates in a row, the last at epoch 1, batch 3 "):
        train(trainer, batches)
    assert trainer.last_finite == 1
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


def test_without_a_limit_nothing_is_looked_at():
    trainer = build("--opt adamw --nonfinite-limit 0", model=tiny_cnn())
    statistics = train(trainer, [batch_of(finite=False)] * 2)
    assert statistics.skipped == 0
    assert not any(parameter.isfinite().any() for parameter in trainer.model.parameters())


def test_what_is_put_back_is_what_was_kept_to_the_bit():
    def some():
        nan, infinity = float("nan"), float("inf")
        values = torch.tensor([0.0, -0.0, 1.5, -2.0, nan, infinity, -infinity, 3e38])
        odd = torch.tensor([-1, 2**62, -(2**63), 7])
        floats = [values.to(dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)]
        strided = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
        return [*floats, odd, torch.tensor([True, False]), strided.contiguous(memory_format=torch.channels_last)]

    for flag in (1.0, 0.0):
        tensors = some()
        kept = Kept([*tensors, tensors[0]])
        for tensor in tensors:
            tensor.copy_(tensor.flip(0) if tensor.dtype != torch.bool else ~tensor)
        changed = [tensor.clone() for tensor in tensors]
        kept.put_back(torch.tensor(flag))
        for tensor, expected in zip(tensors, some() if flag else changed, strict=True):
            assert torch.equal(bits(tensor), bits(expected))


def test_fused_kernels_are_asked_for_where_they_can_refuse():
    fused = ("adamw", "adam", "sgd", "momentum", "lookahead_adamw")
    for opt in (*fused, "adagrad", "lamb", "rmsprop"):
        groups = build(f"--opt {opt}", model=tiny_cnn()).updater.optimizer.param_groups
        assert bool(groups[0].get("fused")) == (opt in fused), opt
    asked = build("--opt adamw --opt-kwargs foreach=True", model=tiny_cnn()).updater.optimizer.param_groups[0]
    assert (asked["fused"], asked["foreach"]) == (None, True)


def test_tied_weights_are_put_back_once():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(nn.Conv2d(3, 4, 32), nn.Flatten(), first, second, nn.Linear(4, CLASSES))
    trainer = build("--opt adamw --model-ema", model=model)
    train(trainer, [batch_of()])
    before = state_of(trainer)
    assert train(trainer, [batch_of(finite=False)]).skipped == 1
    assert_same_state(state_of(trainer), before)


@pytest.mark.parametrize("opt", ["adamw", "sgd", "lookahead_adamw"])
def test_a_state_that_was_saved_in_another_layout_goes_on_alike(opt):
    """As with --resume-relaxed --no-channels-last: fused kernels read weights and state in the order of the memory."""
    ended = []
    for layout in (torch.contiguous_format, torch.channels_last):
        trainer = build(f"--opt {opt}", model=seeded_cnn())
        train(trainer, [batch_of(seed=seed) for seed in range(2)])
        state = {"optimizer": trainer.updater.optimizer.state_dict(), "scaler": {}, "methods": {}}
        trainer.model.to(memory_format=layout)
        load_shared(state, trainer, exact=False)
        train(trainer, [batch_of(seed=seed) for seed in range(2, 4)])
        ended.append(trainer.model.state_dict())
    for name, value in ended[0].items():
        torch.testing.assert_close(ended[1][name], value, rtol=1e-4, atol=1e-5)


def test_other_kernels_than_before_are_mentioned(caplog):
    before = build("--opt adamw --opt-kwargs foreach=True", model=seeded_cnn())
    train(before, [batch_of()])
    now = build("--opt adamw", model=seeded_cnn())
    state = {"optimizer": before.updater.optimizer.state_dict(), "scaler": {}, "methods": {}, "updates": 1}
    load_shared(state | {"skipped": 0, "scheduler": before.scheduler.state_dict()}, now, exact=True)
    assert "computed by other kernels than before" in caplog.text
    assert now.updater.optimizer.param_groups[0]["fused"] is True
    train(now, [batch_of()])


def test_an_optimizer_that_makes_its_state_at_the_start_knows_the_token_head():
    trainer = build(f"{VIT} --smmix --opt adagrad")
    train(trainer, [batch_of("smmix")])
    assert trainer.updates == 1
