"""PyramidNet for 32 px images: widths that grow from block to block.

Paper: Han, Kim and Kim, Deep Pyramidal Residual Networks, CVPR 2017 (arXiv 1610.02915), additive widths.
Code read: clovaai/CutMix-PyTorch ``pyramidnet.py``, whose CIFAR networks these are; parameter names are the same, so
that its checkpoints load.

Shapes: B batch, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs, register_model
from torch import Tensor, nn

_STEM = 16
_STAGES = 3
_EXPANSION = 4  # of a bottleneck's last convolution


class PyramidBlock(nn.Module):
    """A residual block without activation at its ends; the shortcut is pooled and padded with zero channels.

    Args:
        in_chans, width, out_chans: channels of the input, of the convolutions within and of the output.
        stride: 1, or 2 to halve the map.
        bottleneck: 1x1, 3x3 and 1x1 convolution instead of two of 3x3.
    """

    def __init__(self, in_chans: int, width: int, out_chans: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.bn1 = nn.BatchNorm2d(in_chans)
        if bottleneck:
            self.conv1 = _conv(in_chans, width, 1)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv2 = _conv(width, width, 3, stride)
            self.bn3 = nn.BatchNorm2d(width)
            self.conv3 = _conv(width, out_chans, 1)
            self.bn4 = nn.BatchNorm2d(out_chans)
        else:
            self.conv1 = _conv(in_chans, width, 3, stride)
            self.bn2 = nn.BatchNorm2d(width)
            self.conv2 = _conv(width, out_chans, 3)
            self.bn3 = nn.BatchNorm2d(out_chans)
        self.pool = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.new_chans = out_chans - in_chans

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, C_out, H / stride, W / stride) from (B, C_in, H, W)."""
        out = self.conv2(F.relu(self.bn2(self.conv1(self.bn1(x)))))
        out = self.bn4(self.conv3(F.relu(self.bn3(out)))) if self.bottleneck else self.bn3(out)
        return out + F.pad(self.pool(x), (0, 0, 0, 0, 0, self.new_chans))


class PyramidNet(nn.Module):
    """PyramidNet as the CutMix paper trains it on CIFAR.

    Args:
        depth: convolutions and the classifier: 9 n + 2 with bottlenecks, 6 n + 2 without.
        alpha: what the width grows by over the network, from 16; spread evenly over the blocks and rounded.
        bottleneck: kind of the blocks.
        num_classes: K; 0 leaves the classifier out.
        in_chans: C.
        global_pool: "avg", the only kind there is.
        drop_rate: dropout before the classifier.

    Raises:
        ValueError: for a depth that does not fit, or another pooling.
    """

    def __init__(
        self,
        depth: int = 200,
        alpha: float = 240,
        bottleneck: bool = True,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        convolutions = 3 if bottleneck else 2
        blocks, rest = divmod(depth - 2, _STAGES * convolutions)
        if rest or blocks < 1:
            raise ValueError(f"depth must be {_STAGES * convolutions} n + 2, got {depth}")
        if global_pool != "avg":
            raise ValueError(f"PyramidNet averages its last map: global_pool must be 'avg', got {global_pool!r}")
        self.in_chans, self.num_classes, self.global_pool, self.drop_rate = (
            in_chans,
            num_classes,
            global_pool,
            drop_rate,
        )
        self.grad_checkpointing = False
        self.conv1 = _conv(in_chans, _STEM, 3)
        self.bn1 = nn.BatchNorm2d(_STEM)
        expansion = _EXPANSION if bottleneck else 1
        widths = _widths(alpha, _STAGES * blocks)
        channels = _STEM
        for stage in range(_STAGES):
            layer = nn.Sequential()
            for block in range(blocks):
                width = next(widths)
                stride = 2 if stage > 0 and block == 0 else 1
                layer.append(PyramidBlock(channels, width, width * expansion, stride, bottleneck))
                channels = width * expansion
            setattr(self, f"layer{stage + 1}", layer)
        self.num_features = self.head_hidden_size = channels
        self.bn_final = nn.BatchNorm2d(channels)
        self.fc = self._make_classifier()
        self._initialize()

    def _make_classifier(self) -> nn.Module:
        if self.num_classes <= 0:
            return nn.Identity()
        weight = self.bn_final.weight
        return nn.Linear(self.num_features, self.num_classes, device=weight.device, dtype=weight.dtype)

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names that timm's optimizers do not decay whatever their shape: none, there are no embeddings."""
        return set()

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last layer, as timm names it."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier; ``global_pool`` may only be "avg"."""
        if global_pool not in (None, "avg"):
            raise ValueError(f"PyramidNet averages its last map: global_pool must be 'avg', got {global_pool!r}")
        self.num_classes = num_classes
        self.fc = self._make_classifier().train(self.training)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block's activations in the backward pass."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How timm groups parameters into layers, for ``--layer-decay``."""
        blocks = r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"
        return {"stem": r"^(?:conv1|bn1)", "blocks": [(blocks, None), (r"^bn_final", (99999,))]}

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (B, D, H/4, W/4), for images (B, C, H, W)."""
        x = self.bn1(self.conv1(x))
        for stage in range(_STAGES):
            for block in getattr(self, f"layer{stage + 1}"):
                recompute = self.grad_checkpointing and self.training
                x = checkpoint(block, x) if recompute else block(x)
        return F.relu(self.bn_final(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, K) from the last map, or its mean (B, D) if ``pre_logits``."""
        x = x.mean(dim=(2, 3))
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) for images (B, C, H, W)."""
        return self.forward_head(self.forward_features(x))


def _conv(in_chans: int, out_chans: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_chans, out_chans, kernel, stride, padding=kernel // 2, bias=False)


def _widths(alpha: float, blocks: int) -> Iterator[int]:
    """Width of each block; summed up step by step, as the authors' code does, because the rounding depends on it."""
    width = float(_STEM)
    for _ in range(blocks):
        width += alpha / blocks
        yield round(width)


def _cfg() -> dict[str, Any]:
    return {
        "num_classes": 100,
        "input_size": (3, 32, 32),
        "pool_size": (8, 8),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": (125.3 / 255, 123.0 / 255, 113.9 / 255),  # CIFAR's, as clovaai's train.py has them
        "std": (63.0 / 255, 62.1 / 255, 66.7 / 255),
        "first_conv": "conv1",
        "classifier": "fc",
        "paper_ids": "arXiv:1610.02915",
        "origin_url": "https://github.com/clovaai/CutMix-PyTorch",
    }


# timm's decorator looks these up by the name of the function; none has weights that could be fetched.
default_cfgs = generate_default_cfgs({name: _cfg() for name in ("pyramidnet110_cifar", "pyramidnet200_cifar")})


def _create(name: str, pretrained: bool, depth: int, alpha: float, options: dict[str, Any]) -> PyramidNet:
    if options.pop("features_only", False):
        raise RuntimeError(f"features_only is not implemented for {name}")
    return build_model_with_cfg(PyramidNet, name, pretrained, **({"depth": depth, "alpha": alpha} | options))


@register_model
def pyramidnet110_cifar(pretrained: bool = False, **kwargs: Any) -> PyramidNet:
    """PyramidNet-110, alpha 64, bottlenecks: 1.7 M parameters with 100 classes (CutMix paper, table 6)."""
    return _create("pyramidnet110_cifar", pretrained, 110, 64, kwargs)


@register_model
def pyramidnet200_cifar(pretrained: bool = False, **kwargs: Any) -> PyramidNet:
    """PyramidNet-200, alpha 240, bottlenecks: 26.8 M parameters with 100 classes (CutMix paper, table 5)."""
    return _create("pyramidnet200_cifar", pretrained, 200, 240, kwargs)
