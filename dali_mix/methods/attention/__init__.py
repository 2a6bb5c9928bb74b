"""What a method asks of a model: its attention, by one adapter per family, found by the model's type.

A new family is one file here, or a user's own: a subclass of :class:`Adapter`, decorated with
``@serves(ModelType)``, and one import below.
"""

from dali_mix.methods.attention import cait as cait
from dali_mix.methods.attention import pyramid as pyramid
from dali_mix.methods.attention import vit as vit
from dali_mix.methods.attention.base import Adapter as Adapter
from dali_mix.methods.attention.base import adapter_for as adapter_for
from dali_mix.methods.attention.base import attend as attend
from dali_mix.methods.attention.base import joint_query_key_value as joint_query_key_value
from dali_mix.methods.attention.base import mean_received as mean_received
from dali_mix.methods.attention.base import serves as serves
from dali_mix.methods.attention.base import softmax_attention as softmax_attention
