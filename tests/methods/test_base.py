"""What every step method can rely on: registration, options, its own state, timm's interface, the dispatch."""

import math
from collections import Counter
from dataclasses import dataclass, fields

import pytest
import timm
import torch
from timm.task import TrainingTask
from torch import nn

from dali_mix import branches
from dali_mix.errors import ConfigError
from dali_mix.methods import Plain, SMMixStep, StepMethod, known_parts, register, registered
from dali_mix.methods.base import NoOptions
from dali_mix.methods.old_checkpoints import with_losses, with_methods
from dali_mix.options import option, positive
from dali_mix.train import model as building
from dali_mix.train.distributed import World, shared_rng
from dali_mix.train.epoch_statistics import EpochStatistics
from dali_mix.train.output.summary import Summary
from dali_mix.train.settings import build_parser
from dali_mix.train.step import TrainStep
from tests.train.updates import CLASSES, VIT, batch_of, build, parsed, tiny_cnn, train

ALONE = World(0, 1, torch.device("cpu"))


pytestmark = pytest.mark.usefixtures("registry")


@dataclass(frozen=True)
class Options:
    weight: float = option(0.5, positive, "Weight of the pull.")


class Pull(StepMethod):
    """Pulls the logits to a learned center; with weights and a bias of its own, and a buffer."""

    name = "pull"
    parts = ("classification", "pull")
    prefixes = ("center.",)
    Options = Options

    def __init__(self, model, num_classes, **settings):
        super().__init__(model, num_classes, **settings)
        self.center = nn.Linear(num_classes, num_classes)
        self.register_buffer("seen", torch.zeros(()))

    def plan(self, size_px, rng):
        return int(rng.integers(10))

    def forward(self, batch, plan):
        logits = self.model(batch.images)
        classification = nn.functional.cross_entropy(logits, batch.targets)
        pull = (self.center(logits) - plan).square().mean()
        loss = classification + self.options.weight * pull
        return {"loss": loss, "output": logits, "classification": classification, "pull": pull}


@dataclass
class Unfit:
    weight: float = 1.0


@dataclass
class Wrong:
    weight: float = option(-1.0, positive, "Weight of the pull.")


def step_of(*kinds):
    torch.manual_seed(0)
    model = tiny_cnn()
    return TrainStep(Plain(model, CLASSES), [kind(model, CLASSES) for kind in kinds])


def trainer_of(flags, *kinds):
    return building.build_trainer(parsed(flags), ALONE, step_of(*kinds), 8)[0]


# Registration


def test_a_method_registers_its_branch():
    register(Pull)
    assert registered()[-1] is Pull
    assert "pull" in branches.names()
    assert known_parts()[-1] == "pull"


def test_a_file_that_is_run_again_replaces_its_method():
    register(Pull)
    again = type("Pull", (Pull,), {"__module__": Pull.__module__, "__qualname__": Pull.__qualname__})
    register(again)
    assert registered()[-1] is again


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "smmix", "code": 3}, "there is a step method smmix already, SMMixStep; use another name"),
        ({"name": "Pull"}, "named by an identifier in lower case"),
        ({"code": 3}, "the number 3 is smmix's"),
        ({"parts": ("loss",)}, "a part cannot be called 'loss'"),
        ({"parts": ("top-1",)}, "a part cannot be called 'top-1'"),
        ({"parts": ("pull")}, r"other: parts must be a tuple, got 'pull'; write \('pull',\)"),
        ({"name": "none"}, "a step method cannot be called 'none'"),
        ({"forward": StepMethod.forward}, "Other has no forward; define forward"),
        ({"Options": int}, "Other.Options must be a dataclass"),
        ({"Options": Unfit}, r"Other.Options has the field weight, which is no option: give it option\("),
        ({"Options": Wrong}, "other: weight must be a number > 0, got -1"),
    ],
)
def test_what_cannot_be_registered(changes, message):
    before = registered()
    with pytest.raises(ConfigError, match=message):
        register(type("Other", (Pull,), {"name": "other"} | changes))
    assert registered() == before


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (
            torch.zeros(()),
            "must return a dict of loss, output, classification, pull, .*; its loss is None",
        ),
        ({"loss": torch.zeros(()), "output": torch.zeros(2, 3)}, "its classification is None"),
        ({"loss": torch.zeros(()), "output": torch.zeros(2, 3), "classification": 1.5}, "its classification is 1.5"),
        ({"loss": torch.zeros(2)}, r"its loss is of the shape \(2,\)"),
    ],
)
def test_what_a_method_returns_is_checked(result, message):
    kind = type("Wrong", (Pull,), {"forward": lambda self, batch, plan: result})
    with pytest.raises(ConfigError, match=message):
        step_of(kind)(batch_of("pull"), 0)


def test_a_method_that_serves_a_branch_of_the_graph_has_its_own_options():
    register(type("Blended", (Pull,), {"name": "mixup", "Options": NoOptions}))
    step = building.create_step(parsed("--mix mixup=1"), tiny_cnn(), CLASSES)
    assert isinstance(step.method_of("mixup").options, NoOptions)


# Options


def test_an_option_is_checked():
    check = fields(Options)[0].metadata["check"]
    for value in (0.0, math.inf, math.nan, True, "1"):
        with pytest.raises(ConfigError, match="weight must be a number > 0"):
            check.require("weight", value)
    check.require("weight", (1, 2.5))


def test_smmix_refuses_options_out_of_range():
    with pytest.raises(ConfigError, match=r"smmix: loss_weights must be a number >= 0, got -1"):
        SMMixStep.Options(loss_weights=(1.0, -1, 1.0))
    with pytest.raises(ConfigError, match=r"smmix: min_side must be a number in \(0, 1\], got 0"):
        SMMixStep.Options(min_side=0)


def test_flags_have_the_options_defaults():
    args = build_parser().parse_args([])
    for field in fields(SMMixStep.Options):
        flag = getattr(args, f"smmix_{field.name}")
        assert (tuple(flag) if isinstance(flag, list) else flag) == field.default


# State


def test_own_tensors_are_those_that_are_not_the_models():
    method = Pull(tiny_cnn(), CLASSES)
    assert list(method.own_tensors()) == ["center.weight", "center.bias", "seen"]
    assert [id(each) for each in method.own_parameters] == [id(method.center.weight), id(method.center.bias)]
    assert list(SMMixStep(vit(), CLASSES).own_tensors()) == ["token_head.weight", "token_head.bias"]
    assert Plain(tiny_cnn(), CLASSES).own_tensors() == {}


def test_a_state_goes_to_another_method():
    one, other = (Pull(tiny_cnn(), CLASSES) for _ in range(2))
    one.seen.fill_(3)
    other.load_task_state(one.get_task_state())
    assert other.seen == 3
    assert torch.equal(other.center.weight, one.center.weight)
    other.load_task_state(None)
    other.load_task_state({})


@pytest.mark.parametrize(
    "change",
    [
        {"center.weight": torch.ones(3, 3)},
        {"center.weight": "x"},
        {"more": torch.ones(1)},
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change):
    method = Pull(tiny_cnn(), CLASSES)
    before = {name: tensor.clone() for name, tensor in method.get_task_state().items()}
    fitting = {name: torch.ones_like(tensor) for name, tensor in before.items()}
    with pytest.raises(ValueError, match=f"pull has no such {next(iter(change))}"):
        method.load_task_state(fitting | change)
    with pytest.raises(ValueError, match="pull has no such seen"):
        method.load_task_state({name: fitting[name] for name in ("center.weight", "center.bias")})
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.get_task_state().items())


def test_old_checkpoints_have_todays_form():
    head = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    renewed = with_methods({"updates": 3, "token_head": head})
    assert renewed.keys() == {"updates", "methods"}
    assert renewed["methods"] == {"smmix": {"token_head.weight": head["weight"], "token_head.bias": head["bias"]}}
    assert with_methods({"token_head": None}) == {"methods": {}}
    assert with_methods(renewed) == renewed
    old = {"batches": 3, "summed_batches": 3, "smmix_batches": 1, "sums": torch.arange(4.0, dtype=torch.float64)}
    wanted = {"loss": [0, 3], "classification": [1, 3], "fine_grained": [2, 1], "consistency": [3, 1]}
    assert with_losses(old) == {"batches": 3, "losses": wanted}
    assert with_losses(old | {"smmix_batches": 0})["losses"].keys() == {"loss", "classification"}


# timm's interface


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=CLASSES
    )


def test_a_method_is_a_task_of_timm():
    method = SMMixStep(vit(), CLASSES)
    assert isinstance(method, TrainingTask)
    assert method.get_trainable_module() is method.get_eval_model() is method.model
    state = method.get_checkpoint_state()
    assert state["state_dict"].keys() == method.model.state_dict().keys()
    other = SMMixStep(vit(), CLASSES)
    other.load_checkpoint_state(state["state_dict"], state["task_state"])
    assert torch.equal(other.stage.token_head.weight, method.stage.token_head.weight)
    everything = {id(parameter) for parameter in method.get_clip_parameters()}
    assert everything == {id(each) for each in [*method.model.parameters(), *method.stage.token_head.parameters()]}
    bodies = {id(parameter) for parameter in method.get_clip_parameters(exclude_head=True)}
    assert everything - bodies == {id(each) for each in [*method.model.head.parameters(), *method.own_parameters]}
    with method.no_sync():
        loss = method(batch_of("smmix"), 1)["loss"]
    evaluator = method.create_evaluator()
    evaluator.update(torch.eye(CLASSES), torch.arange(CLASSES))
    assert loss.requires_grad


def test_the_plan_is_what_ranks_draw_from_shared_numbers():
    method = SMMixStep(vit(), CLASSES)
    for index in range(20):
        # A grid of 4 x 4 tokens.
        expected = int(shared_rng(5, 2, index).integers(1, 4))
        assert method.plan((32, 32), shared_rng(5, 2, index)) == expected
    with pytest.raises(ConfigError, match="has no window"):
        method.plan((16, 16), shared_rng(0, 0, 0))


# The step


def test_batches_go_to_the_method_of_their_branch():
    step = step_of(Pull)
    assert [type(step.method_of(branch)) for branch in ("none", "mixup", "pull")] == [Plain, Plain, Pull]
    assert step.parts == ("classification", "pull")
    assert step(batch_of("none")).keys() == {"loss", "output", "classification"}
    result = step(batch_of("pull"), 3)
    assert result.keys() == {"loss", "output", "classification", "pull"}
    assert result["loss"].item() == pytest.approx((result["classification"] + 0.5 * result["pull"]).item())
    assert result["output"].shape == (6, CLASSES)
    assert [name for name, value in result.items() if value.requires_grad] == ["loss", "output"]


def test_a_batch_that_was_left_to_an_absent_method_is_refused():
    with pytest.raises(ValueError, match="the batch was left for smmix, but this step has no such method"):
        step_of(Pull).method_of("smmix")


def test_idle_parameters_have_a_gradient_of_zero():
    step = step_of(Pull)
    step(batch_of("mixup"))["loss"].backward()
    own = step.methods[1].own_parameters
    assert len(own) == 2
    assert all(parameter.grad.eq(0).all() for parameter in own)
    assert all(parameter.grad is not None for parameter in step.parameters())
    plain = step_of()
    assert plain.methods[0].idle() == 0


def test_own_parameters_are_trained_in_groups_behind_the_models():
    trainer = trainer_of("--weight-decay 0.1", Pull)
    method = trainer.step.methods[1]
    *_, decayed, kept = trainer.updater.optimizer.param_groups
    assert ([decayed["params"], decayed["weight_decay"]], [kept["params"], kept["weight_decay"]]) == (
        [[method.center.weight], 0.1],
        [[method.center.bias], 0.0],
    )
    before = method.center.weight.detach().clone()
    train(trainer, [batch_of("pull")])
    assert not torch.equal(method.center.weight, before)


def test_a_part_is_averaged_over_the_batches_that_have_it(tmp_path):
    """Also over a refused update, and over a state in between."""
    trainer = trainer_of("--lr 1e-30 --nonfinite-limit 3", Pull)
    batches = [batch_of(branch, seed) for seed, branch in enumerate(("none", "pull", "pull", "mixup"))]
    expected = {"pull": [], "classification": [], "loss": []}
    trainer.step.train()
    for index, batch in enumerate(batches):
        plan = trainer.step.method_of(batch.branch).plan((32, 32), shared_rng(trainer.seed, 0, index + (index > 1)))
        for name, value in trainer.step(batch, plan).items():
            if name != "output":
                expected[name].append(value.item())
    statistics = train(trainer, [*batches[:2], batch_of("pull", finite=False), *batches[2:]])
    assert statistics.counts == Counter(loss=4, classification=4, pull=2)
    for each in (statistics, EpochStatistics.from_state(statistics.state_dict())):
        row = each.row(ALONE)
        means = {f"train_{name}": sum(values) / len(values) for name, values in expected.items()}
        assert {name: row[name] for name in means} == pytest.approx(means, rel=1e-4)
    Summary(tmp_path / "summary.csv", parts=trainer.step.parts).add({"epoch": 0} | row)
    assert (tmp_path / "summary.csv").read_text().startswith("epoch,train_loss,train_classification,train_pull,eval")


def test_a_state_without_a_loss_goes_on_with_it():
    statistics = EpochStatistics()
    statistics.add_losses(("loss",), torch.ones(2, 1, dtype=torch.float64))
    statistics.count_update(Counter(loss=2))
    statistics = EpochStatistics.from_state(statistics.state_dict())
    statistics.add_losses(("loss", "pull"), torch.full((1, 2), 4.0, dtype=torch.float64))
    statistics.count_update(Counter(loss=1, pull=1))
    row = statistics.row(ALONE)
    assert (row["train_loss"], row["train_pull"]) == (2, 4)


def test_settings_choose_the_methods():
    trainer = build(f"{VIT} --smmix --smmix-min-side 0.5 --smmix-loss-weights 1 2 3 --smoothing 0.2")
    plain, smmix = trainer.step.methods
    assert (type(plain), type(smmix)) == (Plain, SMMixStep)
    stage = smmix.stage
    assert (stage.min_side, stage.max_side, stage.weights, stage.smoothing) == (0.5, 0.75, (1.0, 2.0, 3.0), 0.2)
    assert [type(each) for each in build(f"{VIT} --mixup 1").step.methods] == [Plain]
