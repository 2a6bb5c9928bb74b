"""CutMix inside NVIDIA DALI's graph, SMMix in the training step.

``from dali_mix import fn as mix`` gives the graph operators, :class:`MixLoader` feeds a pipeline's
batches to PyTorch, ``dali_mix.smmix`` holds the SMMix stage and ``dali_mix.train`` the trainer.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    import nvidia.dali as _dali  # noqa: F401
except ImportError as error:
    raise ImportError(
        "dali_mix needs NVIDIA DALI, which comes as an extra: pip install 'dali_mix[cuda13]' for a CUDA 13 "
        "driver or no GPU at all, 'dali_mix[cuda12]' for a CUDA 12 driver"
    ) from error

from dali_mix.errors import ConfigError as ConfigError
from dali_mix.errors import DataError as DataError
from dali_mix.helpers import require_temporary_folder

require_temporary_folder()  # before PyTorch is imported

if TYPE_CHECKING:
    from dali_mix.loading.loader import Batch as Batch
    from dali_mix.loading.loader import MixLoader as MixLoader

try:
    __version__ = version("dali_mix")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """The loader when it is first asked for: the operators alone need no PyTorch, which takes seconds to import."""
    if name in ("Batch", "MixLoader"):
        from dali_mix.loading import loader

        return getattr(loader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
