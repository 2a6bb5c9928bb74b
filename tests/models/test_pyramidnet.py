"""PyramidNet, through timm's own ways of using a model."""

from itertools import chain

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch import nn

import dali_mix.models  # noqa: F401

SMALL = {"depth": 20, "alpha": 12}


def test_size_is_the_papers():
    """26.8 M parameters: CutMix paper, table 5."""
    model = timm.create_model("pyramidnet200_cifar")
    assert sum(parameter.numel() for parameter in model.parameters()) == 26_844_952
    assert sum(isinstance(module, nn.Conv2d) for module in model.modules()) == 199  # and the classifier
    assert model.num_features == (16 + 240) * 4


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("pyramidnet200_cifar", {"num_classes": 10}, 26_752_702),
        ("pyramidnet110_cifar", {}, 1_725_300),  # 1.7 M: CutMix paper, table 6
        ("pyramidnet110_cifar", {"alpha": 270, "bottleneck": False}, 28_511_307),  # as the authors' code makes it
    ],
)
def test_other_sizes(name, options, parameters):
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_widths_are_rounded_at_each_block():
    """alpha / N is not whole here: each width is the rounded running sum, not a sum of rounded steps."""
    model = timm.create_model("pyramidnet200_cifar", depth=29, alpha=10)
    widths = [block.conv1.out_channels for layer in (model.layer1, model.layer2, model.layer3) for block in layer]
    assert widths == [17, 18, 19, 20, 22, 23, 24, 25, 26]


def test_widths_grow_evenly():
    model = timm.create_model("pyramidnet200_cifar", **SMALL)
    widths = [block.conv1.out_channels for layer in (model.layer1, model.layer2, model.layer3) for block in layer]
    assert widths == [18, 20, 22, 24, 26, 28]


def test_a_shortcut_is_padded_with_zeros():
    block = timm.create_model("pyramidnet200_cifar", **SMALL).layer2[0].eval()
    nn.init.zeros_(block.bn4.weight)
    x = torch.randn(2, block.bn1.num_features, 8, 8)
    out = block(x)
    torch.testing.assert_close(out[:, : x.shape[1]], nn.functional.avg_pool2d(x, 2))
    assert not out[:, x.shape[1] :].any()


def test_forward_and_gradient_with_checkpointing():
    torch.manual_seed(0)
    model = timm.create_model("pyramidnet200_cifar", num_classes=7, bottleneck=False, **SMALL)
    x = torch.randn(3, 3, 32, 32)
    gradients = []
    for recompute in (False, True):
        model.set_grad_checkpointing(recompute)
        model.zero_grad()
        model(x).square().mean().backward()
        gradients.append(model.conv1.weight.grad.clone())
    assert model(x).shape == (3, 7)
    torch.testing.assert_close(*gradients)


def test_timm_can_change_and_group_it():
    model = timm.create_model("pyramidnet200_cifar", **SMALL)
    model.reset_classifier(5)
    assert model.get_classifier().out_features == 5
    assert model.forward_head(model.forward_features(torch.zeros(1, 3, 32, 32)), pre_logits=True).shape == (1, 112)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1, weight_decay=1e-4, layer_decay=0.5)
    assert len({group["lr_scale"] for group in optimizer.param_groups}) > 5
    model.reset_classifier(0)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 112)


def test_timms_interface():
    model = timm.create_model("pyramidnet110_cifar", in_chans=1, drop_rate=0.5, **SMALL)
    assert (model.in_chans, model.num_classes, model.global_pool, model.num_features) == (1, 100, "avg", 112)
    assert model.no_weight_decay() == set()
    assert model.get_submodule(model.default_cfg["first_conv"]) is model.conv1
    assert model.get_submodule(model.default_cfg["classifier"]) is model.get_classifier()
    config = timm.data.resolve_data_config(model=timm.create_model("pyramidnet110_cifar", **SMALL))
    assert (config["input_size"], config["crop_pct"]) == ((3, 32, 32), 1.0)
    assert config["mean"] == pytest.approx((0.4914, 0.4824, 0.4467), abs=1e-4)
    images = torch.randn(2, 1, 32, 32)
    assert not torch.equal(model(images), model(images))
    model.eval().double().reset_classifier(3)
    assert model.fc.weight.dtype == torch.double
    assert not model.fc.training
    with pytest.raises(ValueError, match="must be 'avg'"):
        model.reset_classifier(3, "max")
    with pytest.raises(RuntimeError, match="features_only is not implemented for pyramidnet110_cifar"):
        timm.create_model("pyramidnet110_cifar", features_only=True)


@pytest.mark.parametrize("coarse", [False, True])
def test_every_parameter_is_in_one_layer_group(coarse):
    model = timm.create_model("pyramidnet200_cifar", **SMALL)
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    assert sorted(chain(*groups.values())) == sorted(name for name, _ in model.named_parameters())
    assert groups[0] == ["conv1.weight", "bn1.weight", "bn1.bias"]
    assert len(groups) == 1 + (3 if coarse else 6) + 1


@pytest.mark.parametrize(
    ("options", "message"),
    [({"depth": 21}, "depth must be 9 n"), ({"global_pool": "max"}, "must be 'avg'")],
)
def test_bad_options_are_said(options, message):
    with pytest.raises(ValueError, match=message):
        timm.create_model("pyramidnet200_cifar", **options)
