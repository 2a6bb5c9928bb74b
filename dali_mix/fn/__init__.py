"""Mixing and augmentation for anyone's DALI graph: ``from dali_mix import fn as mix``.

Data nodes in, data nodes out; the device follows the input.  They work in pipelines with and
without ``enable_conditionals``, run no Python while the pipeline runs, and so can be serialized
and checkpointed.  Of dali_mix this package imports the native operators only.
"""

from dali_mix.branches import BRANCHES as BRANCHES
from dali_mix.fn.graph import methods_of as methods_of
from dali_mix.fn.image.augment import augment as augment
from dali_mix.fn.image.augment import auto_augment as auto_augment
from dali_mix.fn.image.augment import color_jitter as color_jitter
from dali_mix.fn.image.augment import draw_hflip as draw_hflip
from dali_mix.fn.image.augment import rand_augment as rand_augment
from dali_mix.fn.image.augment import random_erasing as random_erasing
from dali_mix.fn.image.normalize import normalize as normalize
from dali_mix.fn.image.settings import Augmentation as Augmentation
from dali_mix.fn.implementation import implementation_of as implementation_of
from dali_mix.fn.mixing.base import GraphMethod as GraphMethod
from dali_mix.fn.mixing.base import methods as methods
from dali_mix.fn.mixing.base import register as register
from dali_mix.fn.mixing.cutmix import CutMix as CutMix
from dali_mix.fn.mixing.cutmix import apply_cutmix as apply_cutmix
from dali_mix.fn.mixing.cutmix import cutmix as cutmix
from dali_mix.fn.mixing.cutmix import draw_cutmix as draw_cutmix
from dali_mix.fn.mixing.drawing import Drawing as Drawing
from dali_mix.fn.mixing.mixup import Mixup as Mixup
from dali_mix.fn.mixing.mixup import apply_mixup as apply_mixup
from dali_mix.fn.mixing.mixup import draw_mixup as draw_mixup
from dali_mix.fn.mixing.mixup import mixup as mixup
from dali_mix.fn.mixing.params import Draw as Draw
from dali_mix.fn.mixing.params import MixParams as MixParams
from dali_mix.fn.mixing.random_mix import random_mix as random_mix
from dali_mix.fn.mixing.recipe import MixedBatch as MixedBatch
from dali_mix.fn.mixing.recipe import Normalization as Normalization
from dali_mix.fn.mixing.resizemix import ResizeMix as ResizeMix
from dali_mix.fn.mixing.targets import soft_targets as soft_targets
from dali_mix.native import load_existing
from dali_mix.options import option as option

load_existing()  # so that a graph with native operators can be deserialized; nothing is compiled
