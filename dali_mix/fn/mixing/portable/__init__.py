"""Mixing composed of DALI's own operators, for where the native ones cannot be had.

Nothing to compile, the same meaning; 40 to 100 small operators a batch, which can halve the speed of a loader on a GPU.
"""

from dali_mix.fn.mixing.portable.choice import mix_batch as mix_batch
from dali_mix.fn.mixing.portable.draws import draw as draw
from dali_mix.fn.mixing.portable.pixels import pixels as pixels
from dali_mix.fn.mixing.portable.targets import soft_targets as soft_targets

NAME = "portable"
