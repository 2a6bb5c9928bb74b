"""Every family that SMMix serves: its attention against the model's own unfused forward, and two steps of training."""

import pytest
import timm
import torch

from dali_mix import ConfigError
from dali_mix.smmix import SMMix

CLASSES = 5
SHALLOW_PVT = {"depths": (1, 1, 1, 1)}
PAPER = {
    "deit_tiny_patch16_224": {"depth": 2},
    "deit_small_patch16_224": {"depth": 2},
    "deit_base_patch16_224": {"depth": 1},
    "cait_xxs24_224": {"depth": 2, "depth_token_only": 1},
    "cait_xxs36_224": {"depth": 2, "depth_token_only": 1},
    "pvt_tiny": SHALLOW_PVT,
    "pvt_small": SHALLOW_PVT,
    "pvt_medium": SHALLOW_PVT,
    "pvt_large": SHALLOW_PVT,
}
MORE = {
    "pvt_v2_b0": SHALLOW_PVT,
    "twins_pcpvt_small": {"depths": (1, 1, 1, 1)},
    "twins_svt_small": {"depths": (2, 2, 2, 2)},
}
LARGE = {"deit_small_patch16_224", "deit_base_patch16_224", "cait_xxs36_224", "pvt_small", "pvt_medium", "pvt_large"}
NAMES = [pytest.param(name, marks=[pytest.mark.long] if name in LARGE else []) for name in [*PAPER, *MORE]]
SIDES = {"deit": 14, "cait": 14, "pvt_": 7, "twin": 7}


def model_of(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=CLASSES, **({**PAPER, **MORE}[name] | options))


@pytest.mark.parametrize("name", NAMES)
def test_two_steps_of_training(name):
    model = model_of(name, drop_path_rate=0.1).train()
    stage = SMMix(model, CLASSES)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        output = stage(torch.randn(2, 3, 224, 224, generator=generator), torch.tensor([3, 1]))
        optimizer.zero_grad()
        output.loss.backward()
        missing = [name for name, parameter in stage.named_parameters() if parameter.grad is None]
        assert missing == []
        optimizer.step()
        assert all(torch.isfinite(part) for part in output[:4])
        assert output.source_mask.shape == (2, SIDES[name[:4]], SIDES[name[:4]])
    assert all(module.training for module in model.modules())


def last_softmax(model, name, images):
    """The last image-token attention of the model's own unfused forward, (B, heads, N, N)."""
    maps = []
    if name.startswith("cait"):
        layer = model.blocks[-1].attn
        handle = layer.proj_l.register_forward_hook(
            lambda module, inputs, output: maps.append(output.permute(0, 3, 1, 2).softmax(-1))
        )
    else:
        blocks = model.stages[-1].blocks if name.startswith("pvt_v2") else model.blocks[-1]
        layer = blocks[-1].attn
        layer.fused_attn = False
        handle = layer.attn_drop.register_forward_hook(lambda module, inputs, output: maps.append(inputs[0]))
    with torch.no_grad():
        model(images)
    handle.remove()
    layer.fused_attn = True
    return maps[0]


@pytest.mark.parametrize("name", ["cait_xxs24_224", *MORE])
def test_probe_sees_the_last_attention(name):
    model = model_of(name).eval()
    images = torch.randn(2, 3, 224, 224)
    expected = last_softmax(model, name, images).mean((1, 2))
    logits, attention = SMMix(model, CLASSES).probe(images)
    torch.testing.assert_close(attention.flatten(1), expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(logits, model(images), rtol=0, atol=1e-5)


def test_probe_sees_the_last_attention_of_pvt():
    """By hand from the last block's input, class token first; written from the definition."""
    model = model_of("pvt_tiny").eval()
    images, inputs = torch.randn(2, 3, 224, 224), []
    layer = model.block4[-1].attn
    handle = layer.register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    model(images)
    handle.remove()
    _, attention = SMMix(model, CLASSES).probe(images)
    (x,) = inputs
    heads, width = layer.num_heads, x.shape[-1] // layer.num_heads
    q, k = layer.q(x), layer.kv(x)[..., : x.shape[-1]]
    total = torch.zeros(2, 49)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / width**0.5, -1)
        total += weights[:, 1:, 1:].mean(1) / heads
    torch.testing.assert_close(attention.flatten(1), total, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0", "twins_pcpvt_small", "cait_xxs24_224"])
def test_tokens_are_those_the_head_reads(name):
    """Where the head pools all tokens their mean gives the logits; a class token is not among them."""
    model = model_of(name).eval()
    stage = SMMix(model, CLASSES)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        logits, tokens = stage._finish(stage._trunk(images), stage.grid(images.shape[-2:]))
        torch.testing.assert_close(logits, model(images))
        assert tokens.shape == (2, SIDES[name[:4]] ** 2, model.num_features)
        if name in MORE:
            torch.testing.assert_close(stage._adapter.classify(tokens.mean(1)), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0"])
def test_images_need_not_be_square(name):
    stage = SMMix(model_of(name), CLASSES)
    output = stage(torch.randn(3, 3, 96, 160), torch.tensor([0, 1, 2]), 2)
    assert output.source_mask.shape == (3, 3, 5)
    assert output.lam == 1 - 4 / 15
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "convnext_atto", "resnet18"])
def test_others_are_told_what_works(name):
    with pytest.raises(ConfigError, match="cannot serve") as error:
        SMMix(timm.create_model(name), 1000)
    assert [
        family for family in ("deit_*", "cait_*", "pvt_tiny", "pvt_v2_b0", "twins_*") if family not in str(error.value)
    ] == []


def test_reduced_attention_is_refused():
    with pytest.raises(ConfigError, match="reduced set of tokens"):
        SMMix(timm.create_model("pvt_v2_b2_li", depths=(1, 1, 1, 1)), 1000)
