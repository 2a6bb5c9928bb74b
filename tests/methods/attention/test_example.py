"""The family of examples/, which knows this package as a stranger does."""

import runpy
import warnings
from pathlib import Path

import pytest
import timm
import torch

from dali_mix import ConfigError
from dali_mix.methods.attention import base
from dali_mix.smmix import SMMix

EXAMPLE = Path(__file__).parents[3] / "examples" / "family.py"
SMALL = {"width": 24, "depth": 2, "heads": 2, "patch_size": 8, "img_size": 32}


@pytest.fixture(scope="module")
def model():
    known = dict(base._FAMILIES)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Overwriting")  # timm's of a model that another test has registered
        runpy.run_path(str(EXAMPLE))
    torch.manual_seed(0)
    yield timm.create_model("plain_vit", num_classes=5, **SMALL).eval()
    base._FAMILIES.clear()
    base._FAMILIES.update(known)


def test_the_probe_is_the_model_and_its_last_softmax(model):
    images = torch.randn(2, 3, 32, 32)
    layer, maps = model.blocks[-1].attn, []
    layer.fused_attn = False
    handle = layer.attn_drop.register_forward_hook(lambda module, inputs, output: maps.append(inputs[0]))
    with torch.no_grad():
        expected = model(images)
    handle.remove()
    logits, attention = SMMix(model, 5).probe(images)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(attention.flatten(1), maps[0].mean((1, 2)), rtol=1e-4, atol=1e-7)


def test_a_step_trains_every_parameter(model):
    stage = SMMix(model, 5)
    output = stage(torch.randn(2, 3, 32, 32), torch.tensor([3, 1]), 2)
    output.loss.backward()
    assert [name for name, parameter in stage.named_parameters() if parameter.grad is None] == []
    assert output.lam == 1 - 4 / 16


def test_a_model_that_is_no_timm_model_and_has_another_forward_is_refused(model):
    class Other(type(model)):
        def forward(self, images):
            return super().forward(images)

    with pytest.raises(ConfigError, match="its own forward"):
        SMMix(Other(num_classes=5, **SMALL), 5)
