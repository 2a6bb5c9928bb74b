"""Settings that only the model, its optimizer and its schedule can refuse: one line before the first step."""

import pytest
import timm
import torch
from torch import nn

from dali_mix.errors import ConfigError
from dali_mix.train.batch_norm import check_batch_norm
from dali_mix.train.optimizer import create_optimizer, create_scheduler
from dali_mix.train.settings import parse_args


def settings(flags):
    return parse_args(["--data-dir", "x", "--device", "cpu", *flags.split()])


def test_one_image_per_batch_norm_is_refused_before_the_first_step(train):
    code, out, err = train(defaults="--model resnet10t --img-size 32 -b 1 -j 2 --epochs 1 --device cpu".split())
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == (
        "train_imagenet.py: error: --batch-size 1: a batch norm of resnet10t gets a single value per channel at 32 px, "
        "which has no variance; use --batch-size 2 or more"
    )


def test_batch_norms_that_have_values_are_no_false_alarm():
    model = timm.create_model("resnet10t").train(False)
    before, rng = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    check_batch_norm(model, "resnet10t", [64])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert not model.training


@pytest.mark.parametrize("flags", ["-b 2", "-b 1 --eval-only"], ids=["two", "eval"])
def test_what_trains_no_single_image_is_no_false_alarm(train, tmp_path, flags):
    defaults = "--model resnet10t --img-size 32 -j 2 --epochs 1 --device cpu --crop-pct 1.0".split()
    torch.save(timm.create_model("resnet10t", num_classes=10).state_dict(), tmp_path / "weights.pth")
    weights = ["--initial-checkpoint", tmp_path / "weights.pth"] if "eval" in flags else ["--bench-steps", 1]
    code, _, err = train(*flags.split(), *weights, defaults=defaults)
    assert code == 0, err


def test_the_smallest_of_the_training_sizes_counts():
    model = timm.create_model("resnet10t")
    with pytest.raises(ConfigError, match="single value per channel at 32 px"):
        check_batch_norm(model, "resnet10t", [64, 32, 64])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--opt adamw --opt-kwargs capturable=True", "--opt adamw cannot step with its settings: If capturable=True"),
        ("--opt adamw --opt-kwargs differentiable=True", "cannot step with its settings: a leaf Variable"),
        ("--opt sgd --opt-kwargs nesterov=maybe", "cannot step with its settings"),
        ("--opt adamw --opt-kwargs foreach=True fused=True", "refuses its settings: `fused` and `foreach`"),
        ("--opt adamw --opt-kwargs nonsense=1", "refuses its settings: .*'nonsense'"),
        ("--opt adamw --opt-betas 0.5", "refuses its settings"),
        ("--opt lbfgsx", "is not an optimizer of timm"),
    ],
)
def test_what_an_optimizer_breaks_on_is_one_line(flags, message):
    model, rng = nn.Linear(2, 2), torch.get_rng_state()
    with pytest.raises(ConfigError, match=message) as refusal:
        create_optimizer(settings(flags).optimizer, 0.1, model, (), torch.device("cpu"))
    assert "\n" not in str(refusal.value)
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_schedule_without_a_rate_is_one_line():
    own = settings("--sched tanh --lr-cycle-mul 1e-10 --lr-cycle-limit 9 --epochs 4 --lr 0.1")
    optimizer = create_optimizer(own.optimizer, 0.1, nn.Linear(2, 2), (), torch.device("cpu"))
    with pytest.raises(ConfigError, match="--sched tanh has no learning rate with these settings: math domain error"):
        create_scheduler(own.schedule, 42, optimizer, 7)


def test_the_table_says_what_model_best_holds(train, tmp_path):
    """An average that hardly moves: the model itself is better, and its best epoch is not kept."""
    flags = "--model-ema --model-ema-decay 0.9999 --eval-metric loss --epochs 3 --lr 3e-3 --experiment run"
    code, out, err = train(*flags.split())
    assert code == 0, err
    assert "the model itself had" in out
    assert "with --model-ema, model_best holds the average" in out
    assert "EMA validation loss" in out
    assert "summary.csv, which counts epochs from 0" in out
