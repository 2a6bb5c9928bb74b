"""Models that timm lacks; importing this package makes them known to ``timm.create_model``."""

from dali_mix.models.pvt import PyramidVisionTransformer as PyramidVisionTransformer
from dali_mix.models.pvt import pvt_large as pvt_large
from dali_mix.models.pvt import pvt_medium as pvt_medium
from dali_mix.models.pvt import pvt_small as pvt_small
from dali_mix.models.pvt import pvt_tiny as pvt_tiny
from dali_mix.models.pyramidnet import PyramidNet as PyramidNet
from dali_mix.models.pyramidnet import pyramidnet110_cifar as pyramidnet110_cifar
from dali_mix.models.pyramidnet import pyramidnet200_cifar as pyramidnet200_cifar
