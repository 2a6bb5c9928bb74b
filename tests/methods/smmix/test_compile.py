"""The stage compiled, wrapped or in place: the same loss and gradients, and one compilation for every k."""

import copy

import pytest
import timm
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from dali_mix.methods.smmix.regions import find_windows, move_windows
from dali_mix.smmix import SMMix
from tests.methods.smmix.test_stage import CLASSES, batch_of

pytestmark = [
    # Dynamo looks at the gradient of whatever enters a graph, and hides this warning where warnings are not errors.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    # Inductor of torch 2.11, of its own.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),
]

PYRAMID = {"depths": (1, 1, 1, 2), "embed_dims": (8, 8, 16, 16), "num_heads": (1, 1, 2, 2)}
TINY = {
    "deit_tiny_patch16_224": {"img_size": 64, "depth": 2, "embed_dim": 32, "num_heads": 2},
    "cait_xxs24_224": {"img_size": 64, "depth": 2, "depth_token_only": 1, "embed_dim": 32, "num_heads": 2},
    "pvt_tiny": {"img_size": 128} | PYRAMID,
    "pvt_v2_b0": PYRAMID,
    "twins_svt_small": {"img_size": 128} | PYRAMID,
}
PARTS = 6
"""Trunk and end of the probe, regions, trunk and end of the forward, losses."""


def tiny_stage(name):
    torch.manual_seed(0)
    return SMMix(timm.create_model(name, num_classes=CLASSES, **TINY[name]).train(), CLASSES)


def images_for(name):
    return batch_of(4, side=64 if "16" in name or "cait" in name else 128)


@pytest.fixture
def counter():
    torch._dynamo.reset()
    yield CompileCounterWithBackend("aot_eager")  # the graphs of forward and backward, run as they are
    torch._dynamo.reset()


def check_step(output, parameters, expected, expected_parameters):
    """The same images to the bit, losses and gradients to rounding."""
    assert torch.equal(output.images, expected.images)
    torch.testing.assert_close(output[:4], expected[:4], rtol=1e-4, atol=1e-5)
    gradients = torch.autograd.grad(output.loss, list(parameters))
    wanted = torch.autograd.grad(expected.loss, list(expected_parameters))
    torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "in_place"),
    [
        ("deit_tiny_patch16_224", True),
        ("deit_tiny_patch16_224", False),
        *((name, True) for name in TINY if name.startswith(("pvt_tiny", "cait"))),
        # The same adapter as PVT, but for its head.
        *(pytest.param(name, True, marks=pytest.mark.long) for name in TINY if name.startswith(("pvt_v2", "twins"))),
    ],
)
def test_each_part_is_compiled_once_for_every_window_side(name, in_place, counter):
    stage = tiny_stage(name)
    compiled = copy.deepcopy(stage)
    if in_place:
        compiled.compile(backend=counter)
    step = compiled if in_place else torch.compile(compiled, backend=counter)
    images, labels = images_for(name)
    for square in (2, 1):
        expected = stage(images, labels, square)
        check_step(step(images, labels, square), compiled.parameters(), expected, stage.parameters())
        assert counter.frame_count == PARTS
    assert all(module.training for module in compiled.modules())


def test_a_model_that_is_compiled_too_changes_nothing(counter):
    """The trainer compiles it in place for the validation; a hook on a layer would then not fire."""
    name = "deit_tiny_patch16_224"
    stage = tiny_stage(name)
    compiled = copy.deepcopy(stage)
    compiled.model.compile(backend=counter)
    images, labels = images_for(name)
    with torch.no_grad():
        torch.testing.assert_close(compiled.model.eval()(images), stage.model.eval()(images))
    validation = counter.frame_count
    compiled.compile(backend=counter)
    for square in (1, 2):
        expected = stage.train()(images, labels, square)
        check_step(compiled.train()(images, labels, square), compiled.parameters(), expected, stage.parameters())
    assert counter.frame_count == validation + PARTS


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "pvt_tiny"])
def test_checkpointed_gradients_are_compiled_too(name, counter):
    stage = tiny_stage(name)
    compiled = copy.deepcopy(stage)
    compiled.model.set_grad_checkpointing(True)
    compiled.compile(backend=counter)
    images, labels = images_for(name)
    output, expected = compiled(images, labels, 2), stage(images, labels, 2)
    check_step(output, compiled.parameters(), expected, stage.parameters())
    assert counter.frame_count == PARTS


def test_bfloat16_and_a_shared_head(counter):
    name = "deit_tiny_patch16_224"
    model = tiny_stage(name).model
    stage = SMMix(model, CLASSES, token_head="shared", probe_precision="float32")
    compiled = copy.deepcopy(stage)
    compiled.compile(backend=counter)
    images, labels = images_for(name)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [step(images, labels, 2) for step in (compiled, stage)]
    assert torch.equal(outputs[0].source_mask, outputs[1].source_mask)
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_regions_are_one_graph_of_inductor_for_every_window_side(memory_format):
    """No break, no new graph, no shape that follows k; and the same pixels in the same memory format."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("inductor")

    @torch.compile(backend=counter, fullgraph=True)
    def regions(images, attention, square):
        return move_windows(images, find_windows(attention, square), square, (4, 6))

    images = torch.randn(5, 3, 32, 48).contiguous(memory_format=memory_format)
    for square in (1, 2, 3):
        attention = torch.rand(5, 4, 6)
        mixed, mask = regions(images, attention, torch.tensor(square))
        expected, expected_mask = move_windows(images, find_windows(attention, square), square, (4, 6))
        assert torch.equal(mixed, expected)
        assert torch.equal(mask, expected_mask)
        assert mixed.is_contiguous(memory_format=memory_format)
    assert not find_windows(torch.full((2, 4, 6), 0.1), torch.tensor(3)).source.any()
    assert counter.frame_count == 1
