"""Pyramid Vision Transformer, version 1 (Wang et al., ICCV 2021, arXiv 2102.12122).

timm has version 2 only.  Parameter names and shapes are those of the authors' classification models
(whai362/PVT ``classification/pvt.py``), so that their checkpoints load.

Shapes: B batch, N tokens, D width, h/w token grid, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp, to_2tuple, trunc_normal_
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs, register_model
from torch import Tensor, nn

_NORM = partial(nn.LayerNorm, eps=1e-6)
_STRIDES = (4, 2, 2, 2)


class Attention(nn.Module):
    """Attention of every token to a grid of keys that is ``sr_ratio`` times coarser.

    Args:
        dim: D.
        num_heads: divides D.
        sr_ratio: 1 attends to every token.
        proj_drop: dropout after the projection.
    """

    def __init__(self, dim: int, num_heads: int, sr_ratio: int = 1, proj_drop: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, dim * 2)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.sr = nn.Conv2d(dim, dim, sr_ratio, sr_ratio) if sr_ratio > 1 else None
        self.norm = nn.LayerNorm(dim) if sr_ratio > 1 else None

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        batch, tokens, width = x.shape
        q = self.q(x).reshape(batch, tokens, self.num_heads, self.head_dim).transpose(1, 2)
        if self.sr is not None and self.norm is not None:
            x = self.sr(x.transpose(1, 2).reshape(batch, width, *grid)).flatten(2).transpose(1, 2)
            x = self.norm(x)
        k, v = self.kv(x).reshape(batch, -1, 2, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(batch, tokens, width)))


class Block(nn.Module):
    """Attention and MLP, each behind a norm, with stochastic depth; arguments as for :class:`Attention`."""

    def __init__(
        self, dim: int, num_heads: int, sr_ratio: int, mlp_ratio: float, proj_drop: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = _NORM(dim)
        self.attn = Attention(dim, num_heads, sr_ratio, proj_drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = _NORM(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches of a map to tokens, (B, C, H, W) to (B, h*w, D) and (h, w)."""

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens in row order, and their grid."""
        x = self.proj(x)
        grid = (x.shape[2], x.shape[3])
        return self.norm(x.flatten(2).transpose(1, 2)), grid


class PyramidVisionTransformer(nn.Module):
    """PVT v1: four stages at 1/4, 1/8, 1/16 and 1/32 of the image; a class token joins in the last.

    Args:
        img_size: side or (H, W) in pixels that the position embeddings are made for, multiples of 32; other
            sizes run with interpolated ones.
        in_chans: channels of the images.
        num_classes: K; 0 for none.
        global_pool: "token", the only way the authors have, or "" for no pooling.
        embed_dims, num_heads, mlp_ratios, depths, sr_ratios: per stage.
        drop_rate: dropout of tokens and of the projections; drop_path_rate: largest stochastic depth.

    Raises:
        ValueError: for sizes that 32 does not divide, here or in a forward, or another ``global_pool``.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        depths: Sequence[int] = (3, 4, 6, 3),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.img_size = to_2tuple(img_size)
        _check_size(*self.img_size)
        _check_pool(global_pool)
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dims[-1]
        self.num_prefix_tokens = 1
        self.grad_checkpointing = False
        self.feature_info: list[dict[str, Any]] = []
        rates = torch.linspace(0, drop_path_rate, sum(depths)).tolist()
        chans, reduction = in_chans, 1
        for stage, (dim, stride) in enumerate(zip(embed_dims, _STRIDES, strict=True), 1):
            reduction *= stride
            tokens = (self.img_size[0] // reduction) * (self.img_size[1] // reduction)
            blocks = [
                Block(dim, num_heads[stage - 1], sr_ratios[stage - 1], mlp_ratios[stage - 1], drop_rate, rates.pop(0))
                for _ in range(depths[stage - 1])
            ]
            setattr(self, f"patch_embed{stage}", PatchEmbed(stride, chans, dim))
            setattr(self, f"pos_embed{stage}", nn.Parameter(torch.zeros(1, tokens + (stage == 4), dim)))
            setattr(self, f"pos_drop{stage}", nn.Dropout(drop_rate))
            setattr(self, f"block{stage}", nn.ModuleList(blocks))
            self.feature_info.append({"module": f"block{stage}", "num_chs": dim, "reduction": reduction})
            chans = dim
        self.norm = _NORM(self.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        self._init_weights()
        self.register_load_state_dict_pre_hook(_resize_loaded_positions)

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith(("pos_embed", "cls_token")):
                trunc_normal_(parameter, std=0.02)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """The class token, as the authors have it."""
        return {"cls_token"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's groups for layer decay."""
        blocks = r"^block(\d)" if coarse else r"^block(\d)\.(\d+)"
        return {
            "stem": r"^cls_token|^pos_embed1|^patch_embed1",
            "blocks": [(r"^pos_embed(\d)|^patch_embed(\d)", (0,)), (blocks, None), (r"^norm", (99999,))],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: compute the blocks again in the backward pass."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The linear head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for another number of classes; 0 for none."""
        if global_pool is not None:
            _check_pool(global_pool)
            self.global_pool = global_pool
        self.num_classes = num_classes
        weight = self.cls_token
        self.head = (
            nn.Linear(self.embed_dim, num_classes, device=weight.device, dtype=weight.dtype)
            if num_classes > 0
            else nn.Identity()
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to the last stage's tokens (B, 1 + h*w, D) after the final norm, class token first."""
        _check_size(*x.shape[-2:])
        for stage in range(1, 5):
            x, grid = getattr(self, f"patch_embed{stage}")(x)
            if stage == 4:
                x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1)
            x = getattr(self, f"pos_drop{stage}")(x + self._positions(stage, grid))
            for block in getattr(self, f"block{stage}"):
                recompute = self.grad_checkpointing and not torch.jit.is_scripting()
                x = checkpoint(block, x, grid) if recompute else block(x, grid)
            if stage < 4:
                x = x.transpose(1, 2).reshape(len(x), -1, *grid)
        return self.norm(x)

    def _positions(self, stage: int, grid: tuple[int, int]) -> Tensor:
        reduction = self.feature_info[stage - 1]["reduction"]
        made_for = (self.img_size[0] // reduction, self.img_size[1] // reduction)
        return _resize_positions(getattr(self, f"pos_embed{stage}"), made_for, grid)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens of :meth:`forward_features` to logits (B, K)."""
        if self.global_pool == "token":
            x = x[:, 0]
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        return self.forward_head(self.forward_features(x))


def _check_size(height: int, width: int) -> None:
    if height % 32 or width % 32 or not height or not width:
        raise ValueError(f"PVT needs image sides that are multiples of 32 pixels, got {height} x {width}")


def _check_pool(global_pool: str) -> None:
    if global_pool not in ("token", ""):
        raise ValueError(f"PVT pools by its class token: global_pool must be 'token' or '', got {global_pool!r}")


def _resize_positions(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Position embeddings (1, [1 +] h*w, D) for another grid, bilinear as in the authors' code."""
    if old == new:
        return positions
    prefix = positions.shape[1] - old[0] * old[1]
    of_class, of_grid = positions[:, :prefix], positions[:, prefix:]
    of_grid = of_grid.reshape(1, *old, -1).permute(0, 3, 1, 2)
    of_grid = F.interpolate(of_grid, size=new, mode="bilinear").flatten(2).transpose(1, 2)
    return torch.cat((of_class, of_grid), 1)


def _resize_loaded_positions(model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Fit the position embeddings of a checkpoint for another, square, image size to the model."""
    assert isinstance(model, PyramidVisionTransformer)
    for stage, info in enumerate(model.feature_info, 1):
        name = f"{prefix}pos_embed{stage}"
        if name not in state:
            continue
        height, width = (side // info["reduction"] for side in model.img_size)
        tokens = state[name].shape[1] - (stage == 4)
        side = round(tokens**0.5)
        if tokens != height * width and side * side == tokens:
            state[name] = _resize_positions(state[name], (side, side), (height, width))


def _cfg() -> dict[str, Any]:
    return {
        "url": "",  # the authors' files are on no hub; load them with checkpoint_path=
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.875,  # 256 -> 224 px in the authors' datasets.py
        "interpolation": "bicubic",
        "fixed_input_size": False,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "first_conv": "patch_embed1.proj",
        "classifier": "head",
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs({f"pvt_{size}": _cfg() for size in ("tiny", "small", "medium", "large")})


def _create(name: str, pretrained: bool, depths: tuple[int, ...], **kwargs: Any) -> PyramidVisionTransformer:
    return build_model_with_cfg(PyramidVisionTransformer, name, pretrained, **({"depths": depths} | kwargs))


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Tiny, 13.2 M parameters, 75.1 % top-1 by the authors."""
    return _create("pvt_tiny", pretrained, (2, 2, 2, 2), **kwargs)


@register_model
def pvt_small(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Small, 24.5 M parameters, 79.8 % top-1 by the authors."""
    return _create("pvt_small", pretrained, (3, 4, 6, 3), **kwargs)


@register_model
def pvt_medium(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Medium, 44.2 M parameters, 81.2 % top-1 by the authors."""
    return _create("pvt_medium", pretrained, (3, 4, 18, 3), **kwargs)


@register_model
def pvt_large(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Large, 61.4 M parameters, 81.7 % top-1 by the authors."""
    return _create("pvt_large", pretrained, (3, 8, 27, 3), **kwargs)
