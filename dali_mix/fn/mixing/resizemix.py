"""ResizeMix (Qin et al., 2020, arXiv 2012.11101) as a DALI graph method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nvidia.dali import fn, types
from nvidia.dali import math as dali_math

from dali_mix.errors import ConfigError
from dali_mix.fn.mixing.base import GraphMethod, register
from dali_mix.fn.mixing.drawing import Drawing
from dali_mix.fn.mixing.params import Draw
from dali_mix.options import fraction, option

_START_AND_END = np.array([[0], [1]], np.float32)


@register
@dataclass(frozen=True)
class ResizeMix(GraphMethod):
    """The whole partner, shrunk to a box, is pasted on the image; the labels are mixed by area.

    Args:
        smallest, largest: in (0, 1], the shares of the image's sides between which those of the box are drawn
            uniformly, both by the same share; the paper's 0.1 and 0.8.

    Every box that fits is as likely as another; its sides are rounded up to whole pixels.

    Source: paper, section 3.2.
    Differs from the code of OpenMixup (openmixup/models/augments/resizemix.py): there the center is uniform and the
    box clipped at the edges, so that partners near them are squeezed; resized by the nearest pixel.
    """

    name = "resizemix"
    code = 4

    smallest: float = option(0.1, fraction, "Smallest side of the box, as a share of the image's.")
    largest: float = option(0.8, fraction, "Largest side of the box, as a share of the image's.")

    def __post_init__(self) -> None:
        """Check the options; see GraphMethod."""
        super().__post_init__()
        if self.smallest > self.largest:
            raise ConfigError(
                f"resizemix: smallest must be at most largest, got {self.smallest!r} and {self.largest!r}"
            )

    def draw(self, batch: Drawing) -> Draw:
        """See GraphMethod."""
        # Every node counts: a quarter of a millisecond of a CPU core for a batch of 256, whatever it computes.
        size = batch.size
        # A stretch of one number is none to draw from; the largest is excluded, and rounding up reaches it.
        smallest = min(self.smallest, float(np.nextafter(np.float32(self.largest), np.float32(0))))
        sides = dali_math.ceil(batch.uniform("scale", [1, 1], smallest, self.largest) * size)
        start = dali_math.floor(batch.uniform("place", [1, 2]) * (size - sides + 1.0))
        box = fn.cast(start + sides * types.Constant(_START_AND_END), dtype=types.INT32)
        shares = sides / size
        area = fn.reshape(shares, shape=[2, 1]) * shares
        return Draw(fn.reshape(box, shape=[4]), 1.0 - area[0, 1], source=batch.whole)
