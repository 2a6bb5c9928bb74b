"""PVT v1, the Pyramid Vision Transformer, with timm's interface.

Four stages on ever coarser grids; all but the last attend to a shrunken set of keys and values, and
the class token joins in the last.  Names and shapes of the parameters are those of the authors'
classification models, so that their checkpoints load as they are.

Shapes: B batch, N tokens of a stage, M tokens that are attended to, A heads, D width of a stage,
h/w its grid, K classes.
Source: Wang et al., ICCV 2021, arXiv 2102.12122; behavior checked against whai362/PVT @57e2dfa,
``classification/pvt.py``, and ChenMnZ/SMMix @14b1edc, ``pvt.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, Mlp, calculate_drop_path_rates, resample_abs_pos_embed, to_2tuple, trunc_normal_
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs, register_model
from torch import Tensor, nn

STAGES = 4
_PATCHES = (4, 2, 2, 2)  # side of a stage's patches, in cells of the grid before it
_STRIDE = math.prod(_PATCHES)
_EPS = 1e-6  # of the norms around attention and MLP; those in embeddings and reductions keep torch's 1e-5


class Attention(nn.Module):
    """Multi-head attention whose keys and values may come from a coarser grid.

    Args:
        dim: D.
        num_heads: A.
        proj_drop: dropout after the output projection.
        sr_ratio: by how much each side of the grid shrinks for keys and values; above 1 every token
            must be an image token.

    Fields:
        sr, norm: the reduction, None without one.

    Raises:
        ValueError: if the heads do not divide D.
    """

    def __init__(self, dim: int, num_heads: int, proj_drop: float = 0.0, sr_ratio: int = 1) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"num_heads {num_heads} must divide embed_dim {dim}")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        self.sr = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio) if sr_ratio > 1 else None
        self.norm = nn.LayerNorm(dim) if sr_ratio > 1 else None

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D) for tokens (B, N, D) of a grid (h, w)."""
        batch, tokens, dim = x.shape
        q = self.q(x).reshape(batch, tokens, self.num_heads, self.head_dim).transpose(1, 2)
        kv = self.kv(self._reduced(x, grid)).reshape(batch, -1, 2, self.num_heads, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(batch, tokens, dim)))

    def _reduced(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, M, D): what keys and values are made from."""
        if self.sr is None or self.norm is None:
            return x
        image = x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *grid)
        return self.norm(self.sr(image).flatten(2).transpose(1, 2))


class Block(nn.Module):
    """Attention and MLP, each normed before and added to what it read.

    Args:
        dim: D.
        num_heads: A.
        mlp_ratio: width of the MLP's hidden layer, in D.
        drop: dropout after the attention's projection and in the MLP.
        drop_path: probability that a branch is skipped for a sample.
        sr_ratio: see :class:`Attention`.
    """

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, drop: float = 0.0, drop_path: float = 0.0, sr_ratio: int = 1
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=_EPS)
        self.attn = Attention(dim, num_heads, proj_drop=drop, sr_ratio=sr_ratio)
        self.norm2 = nn.LayerNorm(dim, eps=_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, D) for tokens (B, N, D) of a grid (h, w)."""
        x = x + self.drop_path(self.attn(self.norm1(x), grid))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Cut a feature map into patches that do not overlap, and make each a normed token.

    Args:
        patch_size: side of a patch.
        in_chans: channels of the map.
        dim: D.
    """

    def __init__(self, patch_size: int, in_chans: int, dim: int) -> None:
        super().__init__()
        self.patch_size = to_2tuple(patch_size)
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, h*w, D) in row order, and their grid (h, w)."""
        x = self.proj(x)
        height, width = x.shape[-2:]
        return self.norm(x.flatten(2).transpose(1, 2)), (height, width)


def stage_grids(size_px: Sequence[int]) -> list[tuple[int, int]]:
    """The grid (h, w) of each stage for images of (H, W) pixels.

    Raises:
        ValueError: if 32, the stride of the last stage, does not divide both sides.
    """
    height, width = size_px
    if min(height, width) < _STRIDE or height % _STRIDE or width % _STRIDE:
        raise ValueError(f"PVT needs images whose sides are multiples of {_STRIDE} pixels, got {height} x {width}")
    strides = [math.prod(_PATCHES[: stage + 1]) for stage in range(STAGES)]
    return [(height // stride, width // stride) for stride in strides]


def _resampled(pos_embed: Tensor, new: tuple[int, int], old: tuple[int, int], prefix: int) -> Tensor:
    """A position embedding (1, prefix + h*w, D) for another grid, bilinear without antialiasing as the authors'."""
    return resample_abs_pos_embed(pos_embed, list(new), list(old), prefix, interpolation="bilinear", antialias=False)


class PyramidVisionTransformer(nn.Module):
    """PVT v1 as an image classifier.

    Images of any size that 32 divides will do: where it differs from ``img_size`` the position
    embeddings are interpolated.  They also are when a checkpoint of square images of another size is
    loaded; one with as many tokens as the model is taken for one of the model's own shape.

    Args:
        img_size: side, or (H, W), in pixels, that the position embeddings are made for.
        in_chans: channels of the images.
        num_classes: K; 0 leaves the head out.
        global_pool: "token", the only one there is.
        embed_dims, num_heads, mlp_ratios, depths, sr_ratios: of each of the four stages; the last
            ``sr_ratios`` must be 1, as its class token belongs to no grid.
        drop_rate: dropout after the position embeddings, after each attention and in each MLP.
        drop_path_rate: of the last block; rises linearly from 0 at the first.

    Fields:
        embed_dim, num_features, head_hidden_size: D of the last stage.
        num_prefix_tokens: 1, the class token.

    Raises:
        ValueError: for a size that 32 does not divide, and for options that fit no PVT.
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        img_size: int | Sequence[int] = 224,
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
        _check_pool(global_pool)
        per_stage = {"embed_dims": embed_dims, "num_heads": num_heads, "mlp_ratios": mlp_ratios}
        for name, values in (per_stage | {"depths": depths, "sr_ratios": sr_ratios}).items():
            if len(values) != STAGES:
                raise ValueError(f"{name} needs {STAGES} entries, one for each stage, got {values!r}")
        if sr_ratios[-1] != 1:
            raise ValueError(f"the last of sr_ratios must be 1, got {sr_ratios!r}")
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.global_pool = global_pool
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dims[-1]
        self.grad_checkpointing = False
        self._grids = stage_grids(to_2tuple(img_size))

        drop_paths: Any = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        channels = [in_chans, *embed_dims]
        for stage, dim in enumerate(embed_dims):
            number = stage + 1  # the authors count stages from 1, and so do the keys of a checkpoint
            blocks = [
                Block(dim, num_heads[stage], mlp_ratios[stage], drop_rate, drop_path, sr_ratios[stage])
                for drop_path in drop_paths[stage]
            ]
            tokens = math.prod(self._grids[stage]) + self._prefix(stage)
            setattr(self, f"patch_embed{number}", PatchEmbed(_PATCHES[stage], channels[stage], dim))
            setattr(self, f"pos_embed{number}", nn.Parameter(torch.zeros(1, tokens, dim)))
            setattr(self, f"pos_drop{number}", nn.Dropout(drop_rate))
            setattr(self, f"block{number}", nn.ModuleList(blocks))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dim))
        self.norm = nn.LayerNorm(self.embed_dim, eps=_EPS)
        self.head = self._make_head()
        self._init_weights()

    def _prefix(self, stage: int) -> int:
        return self.num_prefix_tokens if stage == STAGES - 1 else 0

    def _make_head(self) -> nn.Module:
        if self.num_classes <= 0:
            return nn.Identity()
        return nn.Linear(self.embed_dim, self.num_classes, device=self.cls_token.device, dtype=self.cls_token.dtype)

    def _init_weights(self) -> None:
        """Initialize as the authors do: linear layers and embeddings from a normal of 0.02, convolutions as torch."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters(recurse=False):  # cls_token and pos_embed1 to 4
            assert name == "cls_token" or name.startswith("pos_embed")
            trunc_normal_(parameter, std=0.02)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # An override, not a hook: a hook bound to this model would follow it into copies, such as an EMA.
        for stage, grid in enumerate(self._grids):
            key, first = f"{prefix}pos_embed{stage + 1}", self._prefix(stage)
            if key not in state_dict:
                continue
            tokens = state_dict[key].shape[1] - first
            side = math.isqrt(max(tokens, 0))
            # Otherwise the grid it was made for is not known; torch then reports the two shapes.
            if tokens != math.prod(grid) and side > 0 and side * side == tokens:
                state_dict[key] = _resampled(state_dict[key], grid, (side, side), first)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters that timm's optimizers do not decay; as the authors, not the position embeddings."""
        return {"cls_token"}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> Mapping[str, Any]:
        """timm's rules for layer decay: a block is a layer, or a stage if ``coarse``.

        A patch embedding goes with the first block that reads it, as does the class token.
        """
        embedding = r"^(?:patch_embed|pos_embed)(\d+)"
        blocks: list[tuple[str, tuple[int, ...] | None]]
        if coarse:
            blocks = [(r"^block(\d+)\.", None), (embedding, None), (r"^cls_token", (STAGES,))]
        else:
            blocks = [(r"^block(\d+)\.(\d+)", None), (embedding, (0,)), (r"^cls_token", (STAGES, 0))]
        last = (r"^norm\.", (99999,))  # timm's mark for "in the group before"
        return {"stem": r"^(?:patch_embed|pos_embed)1(?:\.|$)", "blocks": [*blocks, last]}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The head: linear, or an identity without classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new head in place.

        Args:
            num_classes: K; 0 leaves the head out.
            global_pool: None or "token".
        """
        _check_pool(global_pool or "token")
        self.num_classes = num_classes
        self.head = self._make_head().train(self.training)

    def forward_features(self, x: Tensor) -> Tensor:
        """Tokens of the last stage after the final norm.

        Args:
            x: (B, C, H, W).

        Returns:
            (B, 1 + h*w, D), class token first.

        Raises:
            ValueError: if 32 does not divide H and W.
        """
        grid = stage_grids(x.shape[-2:])[-1]
        return self.norm(self._run(self._blocks(STAGES - 1)[-1:], self.forward_trunk(x), grid))

    def forward_trunk(self, x: Tensor) -> Tensor:
        """What enters the last block, (B, 1 + h*w, D); otherwise like :meth:`forward_features`."""
        batch = x.shape[0]
        grids = stage_grids(x.shape[-2:])
        for stage in range(STAGES):
            if stage > 0:
                x = x.transpose(1, 2).reshape(batch, -1, *grids[stage - 1])
            blocks = self._blocks(stage)[: -1 if stage == STAGES - 1 else None]
            x = self._run(blocks, self._embed(x, stage), grids[stage])
        return x

    def _embed(self, x: Tensor, stage: int) -> Tensor:
        """Tokens (B, N, D) that enter a stage from the feature map before it."""
        number, prefix = stage + 1, self._prefix(stage)
        x, grid = getattr(self, f"patch_embed{number}")(x)
        if prefix:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        pos_embed = _resampled(getattr(self, f"pos_embed{number}"), grid, self._grids[stage], prefix)
        return getattr(self, f"pos_drop{number}")(x + pos_embed)

    def _blocks(self, stage: int) -> list[nn.Module]:
        return list(getattr(self, f"block{stage + 1}"))

    def _run(self, blocks: Sequence[nn.Module], x: Tensor, grid: tuple[int, int]) -> Tensor:
        for block in blocks:
            x = checkpoint(block, x, grid) if self.grad_checkpointing and self.training else block(x, grid)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, K) from :meth:`forward_features`, or the class token (B, D) if ``pre_logits``."""
        x = x[:, 0]
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) for images (B, C, H, W)."""
        return self.forward_head(self.forward_features(x))


def _check_pool(global_pool: str) -> None:
    if global_pool != "token":
        raise ValueError(f"PVT classifies by its class token: global_pool must be 'token', got {global_pool!r}")


def _cfg() -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,  # the authors resize to 256 and crop 224
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed1.proj",
        "classifier": "head",
        "paper_ids": "arXiv:2102.12122",
        "origin_url": "https://github.com/whai362/PVT",
    }


# timm's decorator looks these up by the name of the function; none has weights that could be fetched.
default_cfgs = generate_default_cfgs({name: _cfg() for name in ("pvt_tiny", "pvt_small", "pvt_medium", "pvt_large")})


def _create(name: str, pretrained: bool, depths: Sequence[int], options: dict[str, Any]) -> PyramidVisionTransformer:
    if options.pop("features_only", False):
        raise RuntimeError(f"features_only is not implemented for {name}")
    return build_model_with_cfg(PyramidVisionTransformer, name, pretrained, **({"depths": depths} | options))


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Tiny, 13.2 M parameters."""
    return _create("pvt_tiny", pretrained, (2, 2, 2, 2), kwargs)


@register_model
def pvt_small(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Small, 24.5 M parameters."""
    return _create("pvt_small", pretrained, (3, 4, 6, 3), kwargs)


@register_model
def pvt_medium(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Medium, 44.2 M parameters."""
    return _create("pvt_medium", pretrained, (3, 4, 18, 3), kwargs)


@register_model
def pvt_large(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Large, 61.4 M parameters."""
    return _create("pvt_large", pretrained, (3, 8, 27, 3), kwargs)
