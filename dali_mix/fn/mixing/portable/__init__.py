"""Mixing composed of DALI's own operators, for where the native ones cannot be had.

Nothing to compile, the same meaning; 40 to 100 small operators a batch, which can halve the speed of a loader on a GPU.
"""

from dali_mix.fn.mixing.portable.choice import mix_batch as mix_batch
from dali_mix.fn.mixing.portable.cutmix import apply_cutmix as apply_cutmix
from dali_mix.fn.mixing.portable.cutmix import draw_cutmix as draw_cutmix
from dali_mix.fn.mixing.portable.mixup import apply_mixup as apply_mixup
from dali_mix.fn.mixing.portable.mixup import draw_mixup as draw_mixup
from dali_mix.fn.mixing.portable.targets import soft_targets as soft_targets

NAME = "portable"
