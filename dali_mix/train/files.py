"""Files that are whole or absent; see :mod:`dali_mix.files`."""

from dali_mix.files import replace_file as replace_file
from dali_mix.files import sync_folder as sync_folder
from dali_mix.files import write_synced as write_synced
