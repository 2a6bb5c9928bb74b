"""``torch.compile(stage)``: the same loss, and one compilation for every k."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from dali_mix.smmix import SMMix
from tests.smmix.test_stage import CLASSES, batch_of, tiny_vit


def test_one_graph_serves_every_window_side():
    torch._dynamo.reset()
    stage = SMMix(tiny_vit().train(), CLASSES)
    images, labels = batch_of(4)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(stage, backend=counter)
    counts = []
    for square in (2, 1, 3, 2):
        expected = stage(images, labels, square)
        output = compiled(images, labels, square)
        assert output.loss.item() == pytest.approx(expected.loss.item(), rel=1e-4)
        assert torch.equal(output.images, expected.images)
        gradients = torch.autograd.grad(output.loss, list(stage.parameters()))
        wanted = torch.autograd.grad(expected.loss, list(stage.parameters()))
        torch.testing.assert_close(gradients, wanted, rtol=1e-4, atol=1e-5)
        counts.append(counter.frame_count)
    assert counts[0] >= 1
    assert counts == counts[:1] * 4


def test_nothing_but_the_number_of_the_window_depends_on_it():
    """The regions as one graph with k as a tensor: no break, no new graph, no shape that follows k."""
    from dali_mix.smmix.regions import find_windows, move_windows

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True)
    def regions(images, attention, square):
        return move_windows(images, find_windows(attention, square), square, (4, 4))

    images, attention = torch.randn(4, 3, 32, 32), torch.rand(4, 4, 4)
    for square in (1, 2, 3):
        mixed, mask = regions(images, attention, torch.tensor(square))
        expected, expected_mask = move_windows(images, find_windows(attention, square), square, (4, 4))
        assert torch.equal(mixed, expected)
        assert torch.equal(mask, expected_mask)
    assert counter.frame_count == 1
