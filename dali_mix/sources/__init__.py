"""The places that images come from: one file a source, and the order in which they are read."""

from dali_mix.sources import filelist as filelist
from dali_mix.sources import folder as folder
from dali_mix.sources.base import Source as Source
from dali_mix.sources.base import open_source as open_source
from dali_mix.sources.base import register as register
