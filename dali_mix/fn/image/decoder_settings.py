"""How images are decoded on the GPU: the settings of DALI's mixed decoder that a machine may want otherwise."""

from __future__ import annotations

import functools
import logging
from dataclasses import asdict, dataclass
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.options import integer, non_negative_int, option, probability

# hw_decoder_load is not free: it decides which images the GPU's engine decodes, whose pixels are not to the bit those
# of the other decoders.
_free = functools.partial(option, changes_weights=False)
_memory = integer(0, 2**63 - 1)

_log = logging.getLogger(__name__)

_LARGEST_SIDE = 65535  # of a JPEG
_LARGEST_BUFFER = 1 << 40
_LARGEST = {
    "preallocate_width_hint": _LARGEST_SIDE,
    "preallocate_height_hint": _LARGEST_SIDE,
    "device_memory_padding": _LARGEST_BUFFER,
    "host_memory_padding": _LARGEST_BUFFER,
}


@dataclass(frozen=True)
class DecoderSettings:
    """Settings of DALI's mixed decoder, with its names; None leaves a setting to DALI.  The CPU decoder has none.

    Fields:
        hw_decoder_load: share of the images, in [0, 1], that go to the GPU's JPEG engine; DALI's default is 0.65.
        preallocate_width_hint, preallocate_height_hint: in [0, 65535], width and height in pixels of the largest
            image, for which the engine takes memory at the start.
        device_memory_padding, host_memory_padding: up to 1 TiB, bytes that nvJPEG's buffers begin with, one on the GPU
            and two in pinned host memory for each thread; DALI's defaults are 16 and 8 MiB.

    Raises:
        ConfigError: for a value outside these ranges.

    Source: ``fn.decoders.image`` in DALI 2.4.  Its ``num_threads`` is the pipeline's.
    """

    hw_decoder_load: float | None = option(None, probability,
        "Share of the images that the GPU's JPEG engine decodes; DALI's default is 0.65.", metavar="F")  # fmt: skip
    preallocate_width_hint: int | None = _free(None, non_negative_int,
        "Width of the largest image, for which the JPEG engine takes memory at the start.", metavar="PX")  # fmt: skip
    preallocate_height_hint: int | None = _free(None, non_negative_int,
        "Height of the largest image, for which the JPEG engine takes memory at the start.", metavar="PX")  # fmt: skip
    device_memory_padding: int | None = _free(None, _memory,
        "GPU memory per thread that nvJPEG begins with; DALI's default is 16 MiB.", metavar="BYTES")  # fmt: skip
    host_memory_padding: int | None = _free(None, _memory,
        "Host memory per thread that nvJPEG begins with; DALI's default is 8 MiB.", metavar="BYTES")  # fmt: skip

    def __post_init__(self) -> None:
        load = self.hw_decoder_load
        # DALI takes any number, and a share above 1 or NaN silently becomes another one.
        if load is not None and not (_is_number(load, int, float) and 0 <= load <= 1):
            raise ConfigError(f"hw_decoder_load must be a number in [0, 1], got {load!r}")
        for name, value in self.given().items():
            largest = _LARGEST.get(name)
            if largest is not None and not (_is_number(value, int) and 0 <= value <= largest):
                raise ConfigError(f"{name} must be an integer in [0, {largest}], got {value!r}")

    def given(self) -> dict[str, Any]:
        """The settings that are not left to DALI, as arguments of its decoders."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def arguments(self, decoder: str) -> dict[str, Any]:
        """What to give a decoder.

        Args:
            decoder: "mixed" or "cpu"; for the latter nothing, and a warning where a setting is lost by that.
        """
        if decoder == "mixed":
            return self.given()
        if self.given():
            _say_lost_once(self)
        return {}


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


@functools.cache
def _say_lost_once(settings: DecoderSettings) -> None:
    """Once for training and validation, and not again when a pipeline is built anew around a bad file."""
    _log.warning("images are decoded on the CPU, where %s has no effect", ", ".join(settings.given()))
