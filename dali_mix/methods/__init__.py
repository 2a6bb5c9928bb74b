"""What a training step can do with a batch; a new method is one file here, or a user's own, and one import below."""

from dali_mix.methods.base import StepMethod as StepMethod
from dali_mix.methods.base import known_parts as known_parts
from dali_mix.methods.base import register as register
from dali_mix.methods.base import registered as registered
from dali_mix.methods.picture import Frame as Frame
from dali_mix.methods.picture import Row as Row
from dali_mix.methods.plain import Plain as Plain
from dali_mix.methods.smmix.method import SMMixStep as SMMixStep
