"""Architectures that timm lacks, registered so that ``timm.create_model`` finds them once this is imported."""

from dali_mix.models.pvt import PyramidVisionTransformer as PyramidVisionTransformer
from dali_mix.models.pvt import pvt_large as pvt_large
from dali_mix.models.pvt import pvt_medium as pvt_medium
from dali_mix.models.pvt import pvt_small as pvt_small
from dali_mix.models.pvt import pvt_tiny as pvt_tiny
