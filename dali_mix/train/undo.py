"""An update taken back where it should not have been made, without waiting to learn whether it should.

The device decides: it puts tensors back, or leaves them, by a flag that it holds itself.  What an optimizer keeps on
the host, such as a count of its steps, is put back by the host once it has read the flag.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Kept:
    """Copies of tensors, to put them back as they were.

    Args:
        tensors: on one device, of any types; one that is there twice, or shares its memory, counts once.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        by_type = defaultdict(list)
        # By memory: tied weights are several tensors.
        unique = {(tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()): tensor for tensor in tensors}
        for tensor in unique.values():
            integers = tensor.detach().view(_INTEGERS[tensor.element_size()])
            by_type[integers.dtype].append(integers)
        self._live: list[list[Tensor]] = list(by_type.values())
        self._copies = [[torch.empty_like(tensor) for tensor in tensors] for tensors in self._live]
        self.keep()

    def keep(self) -> None:
        """Copy the tensors as they are now."""
        for copies, live in zip(self._copies, self._live, strict=True):
            torch._foreach_copy_(copies, live)

    def put_back(self, where: Tensor) -> None:
        """Make the tensors what they were when they were kept, to the bit, or leave them; the copies are then spent.

        Args:
            where: one number on the device of the tensors, 1 to put back and 0 to leave.

        As ``new + where * (old - new)`` over the bits read as integers, which wrap around: with floats a zero would
        not silence what is not a number.
        """
        for copies, live in zip(self._copies, self._live, strict=True):
            torch._foreach_sub_(copies, live)
            torch._foreach_mul_(copies, where.to(copies[0].dtype))
            torch._foreach_add_(live, copies)


class RevocableOptimizer:
    """An optimizer whose newest step the device takes back if told to.

    Speaks the protocol by which ``torch.amp.GradScaler`` hands ``found_inf`` to an optimizer that skips by itself, so
    that the scaler does not wait for the device either.  Torch's fused optimizers do skip by themselves, and for them
    nothing is copied; of others the weights and the state are kept during the step.

    Args:
        optimizer: any of timm's or torch's.

    Fields:
        found_inf: of the loss scaler, only while it has its step made.
        refused: float32 (), 1 to take the next step back; None to make it unless ``found_inf`` is set.
        revoked: the same of the newest step, with ``found_inf``.
    """

    _step_supports_amp_scaling = True

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.refused: Tensor | None = None
        self.revoked: Tensor | None = None
        self._before: _HostState | None = None

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        return self.optimizer.param_groups

    @torch.no_grad()
    def step(self) -> None:
        """Make one step, which leaves no trace on the device if it is refused."""
        flags = [flag for flag in (self.refused, getattr(self, "found_inf", None)) if flag is not None]
        if not flags:
            self.revoked = self._before = None
            self.optimizer.step()
            return
        # Exactly 1: that is what fused kernels compare with.
        self.revoked = torch.stack(flags).amax(0).clamp(max=1)
        if _skips_itself(self.optimizer):
            # Its state is as it was, but for what a first step has added to it.
            complete = all(parameter in self.optimizer.state for parameter in self._parameters)
            self._before = None if complete else _HostState(self.optimizer, self.revoked.device)
            self.optimizer.found_inf = self.revoked  # type: ignore[attr-defined]
            self.optimizer.step()
            del self.optimizer.found_inf  # type: ignore[attr-defined]
            return
        self._before = _HostState(self.optimizer, self.revoked.device)
        kept = Kept([*self._parameters, *self._before.tensors])
        self.optimizer.step()
        self._before.note_changes()
        kept.put_back(self.revoked)

    @property
    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def forget(self) -> None:
        """Take back on the host what the device has taken back; to be called before the next step."""
        if self._before is not None:
            self._before.restore()


def _skips_itself(optimizer: Optimizer) -> bool:
    """Whether the kernels of its step heed ``found_inf``."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return fused and getattr(optimizer, "_step_supports_amp_scaling", False)


class _HostState:
    """What an optimizer keeps that the device cannot put back: numbers, and which tensors there are.

    Args:
        optimizer: before a step.
        device: of the weights.

    Fields:
        tensors: those of its state that lie on the device.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        # Lookahead keeps all it knows with the optimizer that it wraps.
        self._optimizer = getattr(optimizer, "_base_optimizer", optimizer)
        self._device = device
        self.tensors: list[Tensor] = []
        self._state = {parameter: self._kept(state) for parameter, state in self._optimizer.state.items()}
        self._groups = [
            {name: self._kept(value) for name, value in group.items() if name != "params"}
            for group in self._optimizer.param_groups
        ]
        self._numbers = _numbers(self._optimizer)
        self._generators = _generators(self._optimizer)
        self._changed: list[tuple[dict[str, Any], str, Any]] = []
        self._added: list[tuple[dict[str, Any], str]] = []

    def note_changes(self) -> None:
        """Tell what the step has changed in the groups from what a schedule changes there afterwards."""
        pairs = [*zip(self._optimizer.param_groups, self._groups, strict=True), (vars(self._optimizer), self._numbers)]
        for now, before in pairs:
            self._changed += [(now, name, value) for name, value in before.items() if not _same(now.get(name), value)]
        for now, before in pairs[:-1]:
            self._added += [(now, name) for name in now if name not in before and name != "params"]

    def restore(self) -> None:
        """Make the optimizer what it was; tensors on the device keep their contents."""
        for parameter in [parameter for parameter in self._optimizer.state if parameter not in self._state]:
            del self._optimizer.state[parameter]
        for parameter, state in self._state.items():
            self._optimizer.state[parameter].clear()
            self._optimizer.state[parameter].update(state)
        for now, name, value in self._changed:
            now[name] = value
        for now, name in self._added:
            del now[name]
        for generator, state in self._generators:
            generator.setstate(state)

    def _kept(self, value: Any) -> Any:
        """A copy that the step cannot change; tensors on the device are listed, and stay themselves."""
        if isinstance(value, Tensor):
            if value.device != self._device:
                return value.clone()
            self.tensors.append(value)
        elif isinstance(value, dict):
            return {name: self._kept(entry) for name, entry in value.items()}
        elif type(value) in (list, tuple):
            return type(value)(self._kept(entry) for entry in value)
        return value


def _numbers(optimizer: Optimizer) -> dict[str, Any]:
    return {name: value for name, value in vars(optimizer).items() if isinstance(value, bool | int | float)}


def _generators(optimizer: Optimizer) -> list[tuple[random.Random, Any]]:
    generators = (value for value in vars(optimizer).values() if isinstance(value, random.Random))
    return [(generator, generator.getstate()) for generator in generators]


def _same(now: Any, before: Any) -> bool:
    if isinstance(now, Tensor) or isinstance(before, Tensor):
        return now is before
    if isinstance(now, Sequence) and isinstance(before, Sequence) and not isinstance(now, str):
        return len(now) == len(before) and all(map(_same, now, before))
    return bool(now == before)
