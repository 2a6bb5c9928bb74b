"""The operators that DALI lacks, in C++ and CUDA: what is decided per batch, and the pixels of a mix.

``fn.dali_mix.plan``, ``fn.dali_mix.soft_targets`` and ``fn.dali_mix.pixels`` stand in ``nvidia.dali.fn`` once the
library is loaded.  It is compiled for the installed DALI, once: ``python -m dali_mix.native`` does it ahead.
"""

from dali_mix.native.library import MODES as MODES
from dali_mix.native.library import current_mode as current_mode
from dali_mix.native.library import describe as describe
from dali_mix.native.library import implementation as implementation
from dali_mix.native.library import load_existing as load_existing
from dali_mix.native.library import operators as operators
from dali_mix.native.library import use as use
from dali_mix.native.library import using as using
from dali_mix.native.library import why_not as why_not
