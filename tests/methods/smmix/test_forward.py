"""Each family's forward in two parts: the logits of ``model(images)``, whatever the model's options."""

import pytest
import timm
import torch
from timm.layers import SwiGLU
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer

from dali_mix import ConfigError
from dali_mix.smmix import SMMix
from tests.methods.smmix.test_compile import TINY
from tests.methods.smmix.test_stage import CLASSES, reference_attention, tiny_vit

VIT = [
    {},
    {"reg_tokens": 3, "no_embed_class": True},
    {"class_token": False, "global_pool": "avg"},
    {"global_pool": "avg", "fc_norm": False},
    {"class_token": False, "reg_tokens": 1, "global_pool": "map"},
    {"pre_norm": True, "init_values": 0.1, "qk_norm": True, "scale_attn_norm": True},
    {"block_fn": ResPostBlock, "init_values": 0.5},
    {"mlp_layer": SwiGLU, "final_norm": False},
    {"dynamic_img_size": True, "img_size": 32},
    {"drop_rate": 0.2, "pos_drop_rate": 0.2, "proj_drop_rate": 0.2, "attn_drop_rate": 0.2, "drop_path_rate": 0.3},
]
DROPS = {"drop_rate": 0.2, "drop_path_rate": 0.3}
OTHERS = [
    ("deit3_small_patch16_224", {}),
    ("cait_xxs24_224", {}),
    ("cait_xxs24_224", {"global_pool": "avg"}),
    *((name, {}) for name in TINY if not name.startswith(("deit", "cait"))),
    ("twins_pcpvt_small", TINY["twins_svt_small"] | {"depths": (1, 1, 1, 1)}),
    *((name, {} if name == "twins_svt_small" else {"grad_checkpointing": True}) for name in TINY),
]


def model_of(name, options):
    checkpointed = options.get("grad_checkpointing", False)
    options = {key: value for key, value in options.items() if key != "grad_checkpointing"}
    if name.startswith("deit"):
        model = tiny_vit(name, **options)
    else:
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=CLASSES, **(TINY.get(name, {}) | DROPS | options))
    model.set_grad_checkpointing(checkpointed)
    return model


def images_of(model):
    side = 64 if isinstance(model, VisionTransformer) or hasattr(model, "blocks_token_only") else 128
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("name", "options"), [*(("deit_tiny_patch16_224", options) for options in VIT), *OTHERS], ids=repr
)
def test_both_parts_make_the_models_own_forward(name, options):
    """To the bit in train mode, with the same random numbers, gradients included."""
    model = model_of(name, options).train()
    stage, images = SMMix(model, CLASSES), images_of(model)
    parameters = list(model.parameters())
    results = []
    for forward in (model, stage.classify):
        torch.manual_seed(1)
        logits = forward(images)
        results.append((logits, *torch.autograd.grad(logits.square().sum(), parameters)))
    assert all(torch.equal(ours, its) for ours, its in zip(*results, strict=True))


@pytest.mark.parametrize("options", VIT, ids=repr)
def test_the_probe_leaves_nothing_out_that_a_logit_needs(options):
    model = tiny_vit(**options)
    images = images_of(model)
    expected = reference_attention(model, images)
    logits, attention = SMMix(model, CLASSES).probe(images)
    torch.testing.assert_close(attention.flatten(1), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(logits, model.eval()(images), rtol=1e-5, atol=1e-6)


class OtherForward(VisionTransformer):
    def forward_features(self, x):
        return super().forward_features(x.flip(-1))


class OtherBlock(Block):
    def forward(self, x, attn_mask=None, is_causal=False):
        return super().forward(x.flip(1))


def test_a_forward_that_is_not_the_familys_is_refused():
    options = {"img_size": 64, "depth": 1, "embed_dim": 32, "num_heads": 2, "num_classes": CLASSES}
    with pytest.raises(ConfigError, match="OtherForward: it has its own forward_features"):
        SMMix(OtherForward(**options), CLASSES)
    with pytest.raises(ConfigError, match="last block is a OtherBlock"):
        SMMix(VisionTransformer(block_fn=OtherBlock, **options), CLASSES)
