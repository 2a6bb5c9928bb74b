"""PVT v1: the authors' parameters, any image size, timm's interface."""

import copy
import re
import socket
from collections import Counter
from itertools import chain

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

import dali_mix.models
from dali_mix.models.pvt import Attention, PyramidVisionTransformer

DIMS, RATIOS, REDUCTIONS = (64, 128, 320, 512), (8, 8, 4, 4), (8, 4, 2, 1)
SIZES = {
    "pvt_tiny": ((2, 2, 2, 2), 13.2),
    "pvt_small": ((3, 4, 6, 3), 24.5),
    "pvt_medium": ((3, 4, 18, 3), 44.2),
    "pvt_large": ((3, 8, 27, 3), 61.4),
}
SMALL = {"embed_dims": (8, 16, 24, 32), "num_heads": (1, 2, 3, 4), "depths": (1, 2, 1, 2), "num_classes": 5}


@pytest.fixture(autouse=True)
def one_thread():
    """For models this small a second thread costs more than it does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small(**options):
    torch.manual_seed(0)
    return timm.create_model("pvt_tiny", **(SMALL | options)).eval()


def noise(height, width, batch=2, channels=3):
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(1))


def expected_shapes(depths):
    """Keys and shapes of the authors' classification models, as listed by whai362/PVT @57e2dfa at 224 pixels."""
    shapes = {"cls_token": (1, 1, 512), "norm.weight": (512,), "norm.bias": (512,)}
    shapes |= {"head.weight": (1000, 512), "head.bias": (1000,)}
    for i, dim in enumerate(DIMS):
        patch, before = (2, DIMS[i - 1]) if i else (4, 3)
        layers = {f"patch_embed{i + 1}.proj": (dim, before, patch, patch), f"patch_embed{i + 1}.norm": (dim,)}
        for j in range(depths[i]):
            own = {"norm1": (dim,), "norm2": (dim,), "attn.q": (dim, dim), "attn.kv": (2 * dim, dim)}
            own |= {"attn.proj": (dim, dim), "mlp.fc1": (RATIOS[i] * dim, dim), "mlp.fc2": (dim, RATIOS[i] * dim)}
            if REDUCTIONS[i] > 1:
                own |= {"attn.sr": (dim, dim, REDUCTIONS[i], REDUCTIONS[i]), "attn.norm": (dim,)}
            layers |= {f"block{i + 1}.{j}.{name}": shape for name, shape in own.items()}
        for name, shape in layers.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        shapes[f"pos_embed{i + 1}"] = (1, (56 >> i) ** 2 + (i == 3), dim)
    return shapes


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_those_of_the_authors(name):
    depths, millions = SIZES[name]
    with torch.device("meta"):
        model = timm.create_model(name)
    assert isinstance(model, PyramidVisionTransformer)
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected_shapes(depths)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == millions


def test_norms_keep_the_authors_epsilons():
    """1e-6 around attention, MLP and at the end; torch's default in embeddings and reductions."""
    found = {
        (re.sub(r"\d+", "*", name), module.eps)
        for name, module in small().named_modules()
        if isinstance(module, torch.nn.LayerNorm)
    }
    near = {("block*.*.norm*", 1e-6), ("norm", 1e-6)}
    assert found == near | {("patch_embed*.norm", 1e-5), ("block*.*.attn.norm", 1e-5)}


def test_initial_weights():
    model = small(num_classes=1000)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") and ".proj." not in name and ".sr." not in name:
            assert not parameter.any(), name
        elif parameter.numel() >= 1000 and parameter.ndim < 4:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name


@pytest.mark.parametrize(("reduction", "tokens"), [(1, 25), (2, 24)])
def test_attention_by_its_definition(reduction, tokens):
    torch.manual_seed(0)
    layer, x = Attention(12, 3, sr_ratio=reduction), torch.randn(2, tokens, 12)
    seen = x
    if reduction > 1:
        image = x.transpose(1, 2).unflatten(2, (4, 6))
        seen = F.layer_norm(layer.sr(image).flatten(2).transpose(1, 2), (12,), layer.norm.weight, layer.norm.bias)
        assert seen.shape[1] == 6
    parts = []
    for head in range(3):
        rows = slice(4 * head, 4 * head + 4)
        q, (k, v) = layer.q(x)[..., rows], (half[..., rows] for half in layer.kv(seen).chunk(2, dim=-1))
        parts.append(torch.softmax(q @ k.transpose(1, 2) / 2.0, -1) @ v)
    torch.testing.assert_close(layer(x, (4, 6)), layer.proj(torch.cat(parts, -1)))
    assert (layer.num_heads, layer.head_dim, layer.scale) == (3, 4, 0.5)


def test_forward_in_timms_parts():
    model = small()
    images = noise(224, 224, batch=1)
    tokens = model.forward_features(images)
    assert tokens.shape == (1, 7 * 7 + 1, 32)
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), tokens[:, 0])
    torch.testing.assert_close(model.forward_head(tokens), model.head(tokens[:, 0]))
    torch.testing.assert_close(model(images), model.forward_head(tokens))


def test_attributes():
    model = small()
    assert (model.num_classes, model.num_prefix_tokens, model.global_pool) == (5, 1, "token")
    assert model.num_features == model.head_hidden_size == model.embed_dim == 32
    assert model.default_cfg is model.pretrained_cfg
    assert model.pretrained_cfg["crop_pct"] == 0.875
    assert model.get_submodule(model.pretrained_cfg["first_conv"]) is model.patch_embed1.proj
    assert model.get_submodule(model.pretrained_cfg["classifier"]) is model.get_classifier()
    assert timm.data.resolve_input_data_config(model)["input_size"] == (3, 224, 224)
    assert timm.data.resolve_input_data_config(model, {"img_size": 64})["input_size"] == (3, 64, 64)
    assert dali_mix.models.pvt_tiny(**SMALL).num_classes == 5


def test_reset_classifier():
    model = small()
    model.reset_classifier(7)
    assert model(noise(64, 64)).shape == (2, 7)
    model.double().reset_classifier(3, "token")
    assert model.head.weight.dtype == torch.double
    model.float().reset_classifier(0)
    assert model(noise(64, 64)).shape == (2, 32)
    assert small(num_classes=0).num_classes == 0
    assert small(in_chans=1)(noise(64, 64, channels=1)).shape == (2, 5)


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (256, 128)])
def test_a_checkpoint_of_another_size_does_what_interpolating_at_run_time_does(size):
    source = small(img_size=128)
    images, checkpoint = noise(*size), source.state_dict()
    before = {key: value.clone() for key, value in checkpoint.items()}
    model = small(img_size=size)
    model.load_state_dict(checkpoint)
    torch.testing.assert_close(model(images), source(images), rtol=0, atol=1e-5)
    assert all(torch.equal(checkpoint[key], value) for key, value in before.items())
    parent = torch.nn.ModuleDict({"inner": small(img_size=size)})
    parent.load_state_dict({f"inner.{key}": value for key, value in checkpoint.items()})
    torch.testing.assert_close(parent["inner"](images), model(images))


def test_position_embeddings_are_interpolated_as_the_authors_do():
    source, model = small(img_size=128), small(img_size=(96, 160))
    model.load_state_dict(source.state_dict())
    for stage, old in enumerate((32, 16, 8, 4)):
        given = getattr(source, f"pos_embed{stage + 1}")
        prefix = given.shape[1] - old**2
        image = given[:, prefix:].transpose(1, 2).unflatten(2, (old, old))
        grid = (24 >> stage, 40 >> stage)
        wanted = F.interpolate(image, size=grid, mode="bilinear").flatten(2).transpose(1, 2)
        torch.testing.assert_close(
            getattr(model, f"pos_embed{stage + 1}"), torch.cat([given[:, :prefix], wanted], 1), rtol=0, atol=1e-6
        )


def test_a_grid_of_as_many_cells_is_another_grid():
    """64 x 64 and 32 x 128 have equally many tokens; 256 has as many in stage 2 as 128 in stage 1."""
    model = small(img_size=64)
    with torch.no_grad():
        moved = copy.deepcopy(model)
        for stage in range(1, 5):
            getattr(moved, f"pos_embed{stage}").copy_(getattr(model, f"pos_embed{stage}").flip(1))
        wide = noise(32, 128)
        assert not torch.allclose(model(wide), moved(wide))
        tall = small(img_size=(32, 128))
        tall.load_state_dict(model.state_dict())  # taken as of its own shape, as documented
        assert not torch.allclose(tall(wide), model(wide), atol=1e-6)
        assert small(img_size=128)(noise(256, 256, batch=1)).shape == (1, 5)


def test_a_checkpoint_that_cannot_fit_is_refused():
    with pytest.raises(RuntimeError, match="size mismatch for pos_embed1"):
        small(img_size=64).load_state_dict(small(img_size=(64, 96)).state_dict())
    missing = small(img_size=64).state_dict()
    del missing["pos_embed2"]
    with pytest.raises(RuntimeError, match="Missing key"):
        small(img_size=128).load_state_dict(missing)


@pytest.mark.parametrize("size", [(48, 64), (64, 100), (16, 16), (0, 32)])
def test_sizes_that_32_does_not_divide(size):
    with pytest.raises(ValueError, match=f"multiples of 32 pixels, got {size[0]} x {size[1]}"):
        small(img_size=size)
    with pytest.raises(ValueError, match=f"multiples of 32 pixels, got {size[0]} x {size[1]}"):
        small()(noise(*size))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 1, 1)}, "depths needs 4 entries"),
        ({"sr_ratios": (8, 4, 2, 2)}, "last of sr_ratios"),
        ({"num_heads": (3, 2, 3, 4)}, "num_heads 3 must divide embed_dim 8"),
        ({"global_pool": "avg"}, "must be 'token'"),
    ],
)
def test_options_that_fit_no_pvt(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
    with pytest.raises(ValueError, match="must be 'token'"):
        small().reset_classifier(5, "avg")


def test_there_are_no_weights_to_fetch(monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("asked for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(RuntimeError, match="No pretrained weights exist for pvt_tiny"):
        small(pretrained=True)
    with pytest.raises(RuntimeError, match="features_only is not implemented"):
        small(features_only=True)


def test_dropout_and_stochastic_depth():
    model = small(drop_rate=0.25, drop_path_rate=0.5)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for i in range(4) for block in getattr(model, f"block{i + 1}")]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    dropouts = Counter(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout))
    assert dropouts == {0.25: 4 + 3 * 6}
    torch.testing.assert_close(model(noise(64, 64)), small()(noise(64, 64)))
    model.train()
    assert not torch.allclose(model(noise(64, 64)), model(noise(64, 64)))


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for enable in (False, True):
        model = small(img_size=64).train()
        model.set_grad_checkpointing(enable)
        model(noise(64, 64)).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)
    assert all(gradient is not None for gradient in gradients[0])


def test_optimizer_groups():
    model = small()
    (bare, decayed) = param_groups_weight_decay(model, 0.1, no_weight_decay_list=model.no_weight_decay())
    assert [bare["weight_decay"], decayed["weight_decay"]] == [0.0, 0.1]
    assert any(parameter is model.cls_token for parameter in bare["params"])
    assert any(parameter is model.pos_embed1 for parameter in decayed["params"])
    groups = param_groups_layer_decay(model, 0.1, layer_decay=0.5)
    assert len({group["lr_scale"] for group in groups}) == 1 + sum(SMALL["depths"]) + 1


@pytest.mark.parametrize(("coarse", "layers"), [(False, [0, 1, 2, 3, 4, 5, 6, 7]), (True, [0, 1, 2, 3, 4, 5])])
def test_layer_groups(coarse, layers):
    model = small()
    groups = group_parameters(model, model.group_matcher(coarse=coarse))
    assert list(groups) == layers
    assert sorted(chain(*groups.values())) == sorted(name for name, _ in model.named_parameters())
    assert all(name.startswith(("patch_embed1.", "pos_embed1")) for name in groups[0])
    assert {"pos_embed2", "patch_embed2.proj.weight", "block2.0.attn.q.weight"} <= set(groups[2])
    fourth = groups[4] if coarse else groups[5]
    assert {"cls_token", "pos_embed4", "block4.0.attn.q.weight"} <= set(fourth)
    assert "norm.weight" in groups[layers[-2]]
    assert groups[layers[-1]] == ["head.weight", "head.bias"]
