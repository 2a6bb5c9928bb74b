"""SMMix: the attention of the ViT under training chooses what is mixed."""

from dali_mix.methods.smmix.regions import max_min_mix as max_min_mix
from dali_mix.methods.smmix.stage import SMMix as SMMix
from dali_mix.methods.smmix.stage import SMMixOutput as SMMixOutput
