"""Which models SMMix can serve: one adapter per family, found by the model's type.

A new family is one file here: a subclass of :class:`Adapter`, decorated with ``@serves(ModelType)``,
and one import below.
"""

from dali_mix.smmix.families import cait as cait
from dali_mix.smmix.families import pyramid as pyramid
from dali_mix.smmix.families import vit as vit
from dali_mix.smmix.families.base import Adapter as Adapter
from dali_mix.smmix.families.base import adapter_for as adapter_for
