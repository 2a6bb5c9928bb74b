"""Numbers of the device that the host reads when they are there, instead of waiting for them."""

from __future__ import annotations

import torch
from torch import Tensor


class Reading:
    """Numbers on their way from the device to the host.

    Args:
        values: float, one dimension; what is done to it later does not count.
    """

    def __init__(self, values: Tensor) -> None:
        self._arrived: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._host = values.to("cpu", non_blocking=True)  # to pinned memory, in the order of the stream
            # Blocking: a wait that spins would take a core from the threads that decode.
            self._arrived = torch.cuda.Event(blocking=True)
            self._arrived.record(torch.cuda.current_stream(values.device))
        else:
            self._host = values.detach().clone()

    def wait(self) -> list[float]:
        """Wait until the device has computed the numbers, and return them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [float(value) for value in self._host.numpy()]
