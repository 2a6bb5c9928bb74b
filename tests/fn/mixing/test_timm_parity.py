"""Given the same box and weight, images and targets are those of timm's ``Mixup``."""

import numpy as np
import pytest
import timm.data.mixup
import torch

from dali_mix import fn as mix
from tests.graphs import images_of, run_graph

CLASSES = 9
LABELS = np.array([4, 0, 8, 4, 2, 1], np.int32)


def theirs(monkeypatch, images, lam, boxes, mode, cutmix):
    """timm's Mixup with its random draws replaced by ours."""
    boxes = iter(boxes[lam != 1].tolist())  # timm asks for a box only where it mixes

    def given_box(shape, weight, **_):
        y1, x1, y2, x2 = next(boxes)
        return (y1, y2, x1, x2), 1 - (y2 - y1) * (x2 - x1) / (shape[-2] * shape[-1])

    mixup = timm.data.mixup.Mixup(1.0, 1.0, mode=mode, label_smoothing=0.1, num_classes=CLASSES)
    drawn = lam.copy()
    monkeypatch.setattr(timm.data.mixup, "cutmix_bbox_and_lam", given_box)
    monkeypatch.setattr(mixup, "_params_per_batch", lambda: (float(drawn[0]), cutmix))
    monkeypatch.setattr(mixup, "_params_per_elem", lambda size: (drawn[:size].copy(), np.full(size, cutmix)))
    x = torch.tensor(images).permute(0, 3, 1, 2)  # a copy: timm mixes in place
    x, targets = mixup(x, torch.from_numpy(LABELS).long())
    return x.permute(0, 2, 3, 1).numpy(), targets.numpy()


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("method", ["cutmix", "mixup"])
def test_images_and_targets(monkeypatch, mode, method):
    def graph(images, labels):
        draw, apply = getattr(mix, f"draw_{method}"), getattr(mix, f"apply_{method}")
        params = draw(images, mode=mode, pairing="flip", alpha=1.0)
        targets = mix.soft_targets(labels, params, num_classes=CLASSES, smoothing=0.1)
        return apply(images, params), targets, *params

    images = images_of(6, 24, 36, np.float32)
    for mixed, targets, _, box, lam in run_graph(graph, images, LABELS, iterations=10):
        expected, expected_targets = theirs(monkeypatch, images, lam, box, mode, method == "cutmix")
        np.testing.assert_allclose(mixed, expected, atol=0 if method == "cutmix" else 1e-3)
        np.testing.assert_allclose(targets, expected_targets, atol=1e-6)
