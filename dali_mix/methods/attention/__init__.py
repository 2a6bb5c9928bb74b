"""Which models SMMix can serve: one adapter per family, found by the model's type.

A new family is one file here: a subclass of :class:`Adapter`, decorated with ``@serves(ModelType)``,
and one import below.
"""

from dali_mix.methods.attention import cait as cait
from dali_mix.methods.attention import pyramid as pyramid
from dali_mix.methods.attention import vit as vit
from dali_mix.methods.attention.base import Adapter as Adapter
from dali_mix.methods.attention.base import adapter_for as adapter_for
