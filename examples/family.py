"""A model of one's own, and what SMMix asks of it.

``python train_imagenet.py --import examples/family.py --model plain_vit --smmix --data-dir imagenet``
"""

import torch
from timm.layers import Attention, Mlp, PatchEmbed
from timm.models import register_model
from torch import nn

from dali_mix.methods.attention import Adapter, attend, joint_query_key_value, mean_received, serves, softmax_attention


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, qkv_bias=True)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 4 * width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainVit(nn.Module):
    """A ViT without a class token: the mean of the tokens is classified."""

    def __init__(self, num_classes=1000, img_size=224, patch_size=16, width=192, depth=4, heads=3):
        super().__init__()
        self.num_classes = num_classes
        self.embed = PatchEmbed(img_size, patch_size, 3, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, self.embed.num_patches, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, images):
        return self.head(self.norm(self.blocks(self.embed(images) + self.position)).mean(1))


@register_model
def plain_vit(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **options):
    return PlainVit(**options)


@serves(PlainVit)
class PlainVitAdapter(Adapter):
    examples = "plain_vit"

    def __init__(self, model):
        self.model, self.prefix, self.width = model, 0, model.head.in_features
        self.cell_px = model.embed.patch_size

    def trunk(self, images):
        return self.model.blocks[:-1](self.model.embed(images) + self.model.position)

    def finish(self, hidden, grid):
        tokens = self.model.norm(self.model.blocks[-1](hidden))
        return self.model.head(tokens.mean(1)), tokens

    def observe(self, hidden, grid):
        block = self.model.blocks[-1]
        query, key, value = joint_query_key_value(block.attn, block.norm1(hidden))
        weights = softmax_attention(query, key, block.attn.scale)
        x = hidden + block.attn.proj(attend(weights, value, slice(None)))
        x = x + block.mlp(block.norm2(x))
        return self.model.head(self.model.norm(x).mean(1)), mean_received(weights, prefix=0)
