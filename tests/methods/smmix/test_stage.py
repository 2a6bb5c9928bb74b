import math

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.loss import SoftTargetCrossEntropy

from dali_mix import ConfigError
from dali_mix.methods.losses import smoothed_one_hot, soft_cross_entropy
from dali_mix.methods.smmix.losses import consistency_loss
from dali_mix.smmix import SMMix, max_min_mix

CLASSES = 5


def tiny_vit(name="deit_tiny_patch16_224", **options):
    torch.manual_seed(0)
    options = {"img_size": 64, "depth": 3, "embed_dim": 32, "num_heads": 2, "num_classes": CLASSES} | options
    return timm.create_model(name, **options)


def batch_of(size, side=64):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(size, 3, side, side, generator=generator)
    return images, torch.randint(0, CLASSES, (size,), generator=generator)


def reference_attention(model, images):
    """The last block's softmax attention from the model's own unfused path, reduced as the authors do."""
    layer, maps = model.blocks[-1].attn, []
    layer.fused_attn = False
    handle = layer.attn_drop.register_forward_hook(lambda module, inputs, output: maps.append(inputs[0]))
    with torch.no_grad():
        model.eval()(images)
    handle.remove()
    layer.fused_attn = True
    prefix = model.num_prefix_tokens
    return maps[0][:, :, prefix:, prefix:].mean(dim=(1, 2))


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "deit3_small_patch16_224", "vit_small_patch16_224"])
@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"reg_tokens": 3}, {"img_size": (64, 96)}])
def test_probe_sees_the_last_blocks_attention(name, options):
    model = tiny_vit(name, **options)
    images = torch.randn(3, 3, 64, 96 if "img_size" in options else 64)
    expected = reference_attention(model, images)
    logits, attention = SMMix(model, CLASSES).probe(images)
    assert attention.shape == (3, 4, images.shape[-1] // 16)
    torch.testing.assert_close(attention.flatten(1), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(logits, model.eval()(images), rtol=0, atol=1e-6)
    assert model.blocks[-1].attn.fused_attn


def reference_losses(model, stage, images, labels, square):
    """The definition, step by step, with nothing of the package but the image mixing."""
    z, attention = stage.probe(images)
    mixed, mask, lam = max_min_mix(images, attention, square)
    on, off = 1 - stage.smoothing + stage.smoothing / CLASSES, stage.smoothing / CLASSES
    own = torch.full((len(labels), CLASSES), off).scatter(1, labels[:, None], on)
    partner = own.flip(0)

    def cross_entropy(logits, target):
        return -(target * F.log_softmax(logits, -1)).sum(-1).mean()

    tokens = model.forward_features(mixed)
    logits = model.forward_head(tokens)
    tokens = tokens[:, model.num_prefix_tokens :]
    outside = torch.stack([tokens[i][~mask[i].flatten()].mean(0) for i in range(len(labels))])
    inside = torch.stack([tokens[i][mask[i].flatten()].mean(0) for i in range(len(labels))])
    head = stage.token_head or model.head
    classification = cross_entropy(logits, lam * own + (1 - lam) * partner)
    fine_grained = 0.5 * (cross_entropy(head(outside), own) + cross_entropy(head(inside), partner))
    teacher = F.softmax(lam * z + (1 - lam) * z.flip(0), -1)
    consistency = (teacher * (teacher.log() - F.log_softmax(logits, -1))).sum(-1).mean()
    return classification, fine_grained, consistency


@pytest.mark.parametrize("square", [1, 2, 3])
@pytest.mark.parametrize("token_head", ["independent", "shared"])
@pytest.mark.parametrize("batch", [1, 4, 5])
def test_losses_and_gradients_are_the_definitions(square, token_head, batch):
    model = tiny_vit().train()
    stage = SMMix(model, CLASSES, token_head=token_head, weights=(1.0, 0.5, 2.0))
    images, labels = batch_of(batch)
    output = stage(images, labels, square)
    gradients = torch.autograd.grad(output.loss, list(stage.parameters()))
    expected = reference_losses(model, stage, images, labels, square)
    total = expected[0] + 0.5 * expected[1] + 2 * expected[2]
    expected_gradients = torch.autograd.grad(total, list(stage.parameters()))
    for got, wanted in zip(output[1:4], expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(output.loss, total)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


def test_output_describes_what_the_model_saw():
    model = tiny_vit()
    stage = SMMix(model, CLASSES)
    images, labels = batch_of(4)
    output = stage(images, labels, 2)
    mixed, mask, lam = max_min_mix(images, stage.probe(images)[1], 2)
    assert torch.equal(output.images, mixed)
    assert torch.equal(output.source_mask, mask)
    assert output.lam == lam == 1 - 4 / 16
    assert output.logits.shape == (4, CLASSES)


def test_every_parameter_gets_a_gradient():
    stage = SMMix(tiny_vit(), CLASSES)
    stage(*batch_of(4)).loss.backward()
    assert [name for name, parameter in stage.named_parameters() if parameter.grad is None] == []


def test_each_modules_mode_is_restored():
    model = tiny_vit()
    model.train()
    model.blocks[1].eval()
    before = [module.training for module in model.modules()]
    SMMix(model, CLASSES).probe(batch_of(2)[0])
    assert [module.training for module in model.modules()] == before


def test_the_mode_is_restored_after_an_error():
    model = tiny_vit().train()
    with pytest.raises(AssertionError):
        SMMix(model, CLASSES).probe(torch.zeros(2, 3, 32, 32))
    assert all(module.training for module in model.modules())


def test_the_probe_ignores_dropout_and_keeps_the_random_stream():
    model = tiny_vit(drop_path_rate=0.5, proj_drop_rate=0.5).train()
    stage = SMMix(model, CLASSES)
    images, _ = batch_of(2)
    state = torch.get_rng_state()
    first, second = stage.probe(images)[0], stage.probe(images)[0]
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_models_state_stays_plain_timm():
    model = tiny_vit()
    names = set(model.state_dict())
    stage = SMMix(model, CLASSES)
    assert set(model.state_dict()) == names
    assert {name for name in stage.state_dict() if name.startswith("token_head")} == {
        "token_head.weight",
        "token_head.bias",
    }


@pytest.mark.parametrize(("side", "sides"), [(14, range(3, 11)), (7, range(1, 6)), (8, range(2, 7))])
def test_window_sides_include_both_ends(side, sides):
    stage = SMMix(tiny_vit(), CLASSES)
    assert stage.sides((side, side)) == sides
    generator = torch.Generator().manual_seed(0)
    assert {stage.draw_square((side, side), generator) for _ in range(300)} == set(sides)


def test_bfloat16_autocast():
    """Gradients too: the probe must not leave its weights without gradient in autocast's cache."""
    stage = SMMix(tiny_vit(), CLASSES)
    images, labels = batch_of(4)
    with torch.autocast("cpu", torch.bfloat16):
        output = stage(images, labels, 2)
    output.loss.backward()
    assert output.logits.dtype == torch.bfloat16
    assert [name for name, parameter in stage.named_parameters() if parameter.grad is None] == []
    exact = stage(images, labels, 2)
    assert output.loss.dtype == torch.float32
    assert output.images.dtype == torch.float32
    assert output.loss.item() == pytest.approx(exact.loss.item(), rel=0.02)


def test_soft_cross_entropy_is_timms():
    logits, targets = torch.randn(6, CLASSES), torch.rand(6, CLASSES).softmax(-1)
    torch.testing.assert_close(soft_cross_entropy(logits, targets), SoftTargetCrossEntropy()(logits, targets))


def test_smoothing_matches_the_definition():
    row = smoothed_one_hot(torch.tensor([1]), 4, 0.1)[0].tolist()
    assert row == pytest.approx([0.025, 0.925, 0.025, 0.025])


def test_consistency_is_zero_where_both_agree():
    z = torch.randn(4, CLASSES)
    assert consistency_loss(0.7 * z + 0.3 * z.flip(0), z, 0.7).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SMMix(timm.create_model("resnet18"), 1000), "cannot serve ResNet"),
        (lambda: SMMix(timm.create_model("deit_tiny_distilled_patch16_224", depth=1), 1000), "distilled"),
        (lambda: SMMix(timm.create_model("vit_tiny_r_s16_p8_224", depth=1), 1000), "hybrid"),
        (
            lambda: SMMix(torch.compile(tiny_vit(), backend="eager"), CLASSES),
            "the model itself, got it inside OptimizedModule",
        ),
        (lambda: SMMix(tiny_vit(), 7), "has 5 classes, the stage was asked for 7"),
        (lambda: SMMix(tiny_vit(patch_drop_rate=0.5), CLASSES), "patch_drop_rate=0"),
        (lambda: SMMix(tiny_vit(), CLASSES, min_side=0.8, max_side=0.2), "min_side <= max_side"),
        (lambda: SMMix(tiny_vit(), CLASSES, token_head="tied"), "'independent' or 'shared'"),
        (lambda: SMMix(tiny_vit(), CLASSES, smoothing=math.inf), "smoothing"),
        (lambda: SMMix(tiny_vit(), CLASSES, weights=(1, 1)), "three numbers"),
        (lambda: SMMix(tiny_vit(), CLASSES).sides((2, 2)), "larger image"),
        (lambda: SMMix(tiny_vit(), CLASSES).grid((65, 64)), "must divide the image size"),
    ],
)
def test_what_it_cannot_serve(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_probe_can_leave_autocast():
    """As the authors do; the logits then are those of a plain float32 forward."""
    images, labels = batch_of(4)
    model = tiny_vit()
    stages = [SMMix(model, CLASSES, probe_precision=precision) for precision in ("autocast", "float32")]
    with torch.autocast("cpu", torch.bfloat16):
        reduced, exact = (stage.probe(images)[0] for stage in stages)
        output = stages[1](images, labels, 2)
    assert (reduced.dtype, exact.dtype, output.logits.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    torch.testing.assert_close(exact, model.eval()(images), rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="'autocast' or 'float32'"):
        SMMix(model, CLASSES, probe_precision="fp32")


def test_a_float32_probe_takes_half_precision_images():
    stage = SMMix(tiny_vit(), CLASSES, probe_precision="float32")
    images, labels = batch_of(4)
    images = images.half()
    expected = stage.probe(images.float())
    with torch.autocast("cpu", torch.bfloat16):
        for actual, wanted in zip(stage.probe(images), expected, strict=True):
            assert actual.dtype == torch.float32
            assert torch.equal(actual, wanted)
        assert stage(images, labels, 1).loss.isfinite()


def test_pairs_stay_within_a_micro_batch():
    """Gradients accumulated over two calls are the mean of the two batches' own."""
    stage = SMMix(tiny_vit(), CLASSES)
    images, labels = batch_of(8)
    halves = [(images[part], labels[part]) for part in (slice(0, 4), slice(4, 8))]
    parameters = list(stage.parameters())
    own = [torch.autograd.grad(stage(*half, 2).loss, parameters) for half in halves]
    for half in halves:
        (stage(*half, 2).loss / 2).backward()
    for parameter, first, second in zip(parameters, *own, strict=True):
        torch.testing.assert_close(parameter.grad, (first + second) / 2)


def test_the_middle_sample_of_an_odd_batch_is_its_own_partner():
    stage = SMMix(tiny_vit(), CLASSES)
    images, labels = batch_of(3)
    mixture = stage.mix(images, 2)
    (ty, tx), (sy, sx) = mixture.windows.target[1] * 16, mixture.windows.source[1] * 16
    assert torch.equal(mixture.images[1, :, ty : ty + 32, tx : tx + 32], images[1, :, sy : sy + 32, sx : sx + 32])
    assert torch.isfinite(stage(images, labels, 2).loss)
