"""PVT v1: the authors' parameter names and sizes, other image sizes, and timm's interface."""

import pytest
import timm
import torch

from dali_mix.models import PyramidVisionTransformer

SMALL = {"embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4), "depths": (1, 1, 1, 2), "num_classes": 5}


def small(**options):
    torch.manual_seed(0)
    return timm.create_model("pvt_tiny", **(SMALL | options))


@pytest.mark.parametrize(("name", "millions"), [("tiny", 13.2), ("small", 24.5), ("medium", 44.2), ("large", 61.4)])
def test_published_sizes(name, millions):
    model = timm.create_model(f"pvt_{name}")
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == millions


def test_parameter_names_and_shapes_are_the_authors():
    """Written down from whai362/PVT ``classification/pvt.py``, stage by stage."""
    expected = {"cls_token": (1, 1, 512), "norm.weight": (512,), "norm.bias": (512,)}
    expected |= {"head.weight": (1000, 512), "head.bias": (1000,)}
    dims, tokens, strides, reductions, hidden = (64, 128, 320, 512), (3136, 784, 196, 50), (4, 2, 2, 2), (8, 4, 2, 1), 0
    chans = 3
    for stage, dim in enumerate(dims, 1):
        hidden = dim * (8, 8, 4, 4)[stage - 1]
        embed, reduction = f"patch_embed{stage}", reductions[stage - 1]
        expected[f"pos_embed{stage}"] = (1, tokens[stage - 1], dim)
        expected[f"{embed}.proj.weight"] = (dim, chans, strides[stage - 1], strides[stage - 1])
        expected |= {f"{embed}.{name}": (dim,) for name in ("proj.bias", "norm.weight", "norm.bias")}
        for index in range(2):
            block = f"block{stage}.{index}"
            for layer, (out, into) in {
                "attn.q": (dim, dim), "attn.kv": (2 * dim, dim), "attn.proj": (dim, dim),
                "mlp.fc1": (hidden, dim), "mlp.fc2": (dim, hidden),
            }.items():  # fmt: skip
                expected |= {f"{block}.{layer}.weight": (out, into), f"{block}.{layer}.bias": (out,)}
            for norm in ("norm1", "norm2", *(("attn.norm",) if reduction > 1 else ())):
                expected |= {f"{block}.{norm}.weight": (dim,), f"{block}.{norm}.bias": (dim,)}
            if reduction > 1:
                expected |= {
                    f"{block}.attn.sr.weight": (dim, dim, reduction, reduction),
                    f"{block}.attn.sr.bias": (dim,),
                }
        chans = dim
    assert {name: tuple(value.shape) for name, value in timm.create_model("pvt_tiny").state_dict().items()} == expected


def test_a_checkpoint_fits_a_model_of_another_size():
    """Loaded into it, or run at that size: the same positions, so the same logits."""
    made_for_64 = small(img_size=64).eval()
    made_for_96 = small(img_size=(96, 128)).eval()
    made_for_96.load_state_dict(made_for_64.state_dict())
    assert made_for_96.pos_embed4.shape[1] == 1 + 3 * 4
    images = torch.randn(2, 3, 96, 128)
    torch.testing.assert_close(made_for_96(images), made_for_64(images))


def test_features_and_head():
    model = small(img_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    tokens = model.forward_features(images)
    assert tokens.shape == (2, 5, 32)
    torch.testing.assert_close(model.head(tokens[:, 0]), model(images))
    assert torch.equal(model.forward_head(tokens, pre_logits=True), tokens[:, 0])
    model.reset_classifier(0)
    assert torch.equal(model(images), tokens[:, 0])
    model.reset_classifier(7)
    assert model(images).shape == (2, 7)
    assert model.get_classifier().out_features == 7


def test_gradient_checkpointing_changes_nothing():
    model, images = small(img_size=64), torch.randn(2, 3, 64, 64)
    expected = torch.autograd.grad(model(images).sum(), list(model.parameters()))
    model.set_grad_checkpointing()
    torch.testing.assert_close(torch.autograd.grad(model(images).sum(), list(model.parameters())), expected)


def test_timm_knows_its_data_and_its_layers():
    model = small()
    config = timm.data.resolve_data_config({}, model=model)
    assert config["input_size"] == (3, 224, 224)
    assert (config["crop_pct"], config["interpolation"]) == (0.875, "bicubic")
    optimizer = timm.optim.create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.1, layer_decay=0.5)
    assert len({group["lr_scale"] for group in optimizer.param_groups}) > 4


@pytest.mark.parametrize("build", [lambda: small(img_size=100), lambda: small()(torch.randn(1, 3, 100, 64))])
def test_sizes_that_leave_a_border_are_refused(build):
    with pytest.raises(ValueError, match="multiples of 32"):
        build()


def test_there_are_no_weights_to_download():
    with pytest.raises(RuntimeError, match="pretrained"):
        timm.create_model("pvt_tiny", pretrained=True)


def test_another_pooling_is_refused():
    with pytest.raises(ValueError, match="'token' or ''"):
        PyramidVisionTransformer(global_pool="avg")
