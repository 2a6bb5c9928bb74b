import numpy as np
import pytest
import torch

from dali_mix.methods.smmix.regions import find_windows
from dali_mix.smmix import max_min_mix
from tests import oracle


@pytest.mark.parametrize("grid", [(7, 7), (14, 14), (4, 6)])
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_window_side_against_the_oracle(grid, batch):
    rng = np.random.default_rng(sum(grid) + batch)
    images = rng.integers(0, 256, (batch, 3, grid[0] * 2, grid[1] * 3)).astype(np.float32)
    for square in range(1, min(grid) + 1):
        attention = rng.random((batch, *grid), np.float32)
        mixed, mask, lam = max_min_mix(torch.tensor(images), torch.tensor(attention), square)
        expected, expected_mask = oracle.max_min_mix(images, attention, square)
        np.testing.assert_array_equal(mixed.numpy(), expected)
        np.testing.assert_array_equal(mask.numpy(), expected_mask)
        assert mask.dtype == torch.bool
        assert lam == pytest.approx(1 - square**2 / (grid[0] * grid[1]))


@pytest.mark.parametrize("value", [1 / 196, 0.1, 1 / 3])
@pytest.mark.parametrize("square", [1, 3, 5, 10])
def test_ties_go_to_the_first_window_in_row_order(value, square):
    windows = find_windows(torch.full((3, 14, 14), value), square)
    assert not windows.target.any()
    assert not windows.source.any()


def test_a_tie_of_two_separate_windows():
    attention = torch.full((2, 6, 6), 0.2)
    attention[:, 1:3, 3:5] = attention[:, 4:6, 0:2] = 0.9
    attention[:, 0:2, 0:2] = attention[:, 4:6, 4:6] = 0.1
    windows = find_windows(attention, 2)
    assert windows.target.tolist() == [[0, 0]] * 2
    assert windows.source.tolist() == [[1, 3]] * 2


def test_windows_at_the_far_edges():
    attention = torch.ones(2, 5, 5)
    attention[0, 4, 4], attention[1, 4, 4] = 0.0, 2.0
    windows = find_windows(attention, 1)
    assert windows.target[0].tolist() == [4, 4]
    assert windows.source[0].tolist() == [4, 4]  # of the partner, sample 1


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_input_is_kept_and_format_and_dtype_follow_it(memory_format, dtype):
    images = (torch.rand(4, 3, 16, 16) * 255).to(dtype).contiguous(memory_format=memory_format)
    before = images.clone()
    mixed, _, _ = max_min_mix(images, torch.rand(4, 4, 4), 2)
    assert torch.equal(images, before)
    assert mixed.dtype == dtype
    assert mixed.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(
    ("images", "attention", "square", "message"),
    [
        ((2, 3, 16, 16), (2, 4, 4), 5, r"square must lie in \[1, 4\]"),
        ((2, 3, 16, 16), (2, 4, 4), 0, "square must lie"),
        ((2, 3, 18, 16), (2, 4, 4), 2, "must divide the image of 18 x 16"),
        ((2, 3, 16, 16), (4, 4, 4), 2, "of one batch"),
        ((2, 3, 16, 16), (2, 16), 2, "of one batch"),
    ],
)
def test_shapes_that_do_not_fit(images, attention, square, message):
    with pytest.raises(ValueError, match=message):
        max_min_mix(torch.zeros(images), torch.zeros(attention), square)
