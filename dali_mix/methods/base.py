"""What a training step makes of a batch: a method is a task of timm, found by the branch that it serves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from timm.models import model_parameters
from timm.task import TrainingTask
from torch import Tensor, nn

from dali_mix import branches
from dali_mix.batch import Batch
from dali_mix.errors import ConfigError
from dali_mix.methods.picture import Row
from dali_mix.options import check_options


@dataclass(frozen=True)
class NoOptions:
    """The options of a method that has none."""


class StepMethod(TrainingTask):
    """Forward and losses of the batches of one branch; a ``timm.task.TrainingTask`` on a batch of ours.

    Args:
        model: the model under training, images (B, 3, H, W) to logits (B, K).
        num_classes: K.
        smoothing: label smoothing in [0, 1], for a method that makes targets itself.
        options: an ``Options``; None takes their defaults.

    Class fields:
        name: the branch it serves; "" serves all that have no method of their own.
        code: number of that branch in graphs and their states, given once and never reused; None computes one from
            the name.
        parts: further losses that :meth:`forward` returns.  Each has a column "train_PART" in the summary, a curve
            and TensorBoard's scalar; its mean is over the batches that have it.
        Options: a frozen dataclass whose fields are made by ``dali_mix.options.option``; they become the flags
            ``--NAME-FIELD``.
        prefixes: of the names that tensors of its own have where a file holds them beside the model's.
        average_note: what is to be said of a moving average in such a file.
        short_form: a sentence on what ``--NAME`` does, beside which there is ``--NAME-prob``; "" where the method is
            chosen by ``--mix NAME=SHARE`` alone.
        compiled_by_part: whether :meth:`forward` calls parts of the model instead of the model, so that
            ``--torchcompile`` has to compile them one by one.

    A method's own parameters and buffers, which are all that are not the model's, are trained, saved and continued.
    The trainer wraps all methods and the model together for distributed training, and calls no ``prepare_distributed``.
    """

    name: ClassVar[str] = ""
    code: ClassVar[int | None] = None
    parts: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type[Any]] = NoOptions
    prefixes: ClassVar[tuple[str, ...]] = ()
    average_note: ClassVar[str] = ""
    short_form: ClassVar[str] = ""
    compiled_by_part: ClassVar[bool] = False

    def __init__(self, model: nn.Module, num_classes: int, *, smoothing: float = 0.0, options: Any = None) -> None:
        parameter = next(model.parameters())
        super().__init__(device=parameter.device, dtype=parameter.dtype, verbose=False)
        self.trainable_module = model
        self.num_classes, self.smoothing = num_classes, smoothing
        self.options = self.Options() if options is None else options

    @property
    def model(self) -> nn.Module:
        """The model under training."""
        return self.trainable_module

    def plan(self, size_px: Sequence[int], rng: np.random.Generator) -> Any:
        """Draw what is alike on all ranks; :meth:`forward` gets it.

        Args:
            size_px: (H, W) of the batch's images.
            rng: gives the same numbers on every rank and after a resume.

        Raises:
            ConfigError: for a size that the method cannot serve; the trainer asks for every size before it begins.
        """
        return None

    def forward(self, batch: Batch, plan: Any = None) -> dict[str, Tensor]:  # type: ignore[override]
        """Compute the losses of a batch; the host must not wait for the device here.

        Args:
            batch: of the method's branch.
            plan: of :meth:`plan`.

        Returns:
            "loss" () to be minimized, "output" logits (B, K), and each of ``parts`` ().
        """
        raise NotImplementedError

    def classify(self, images: Tensor) -> Tensor:
        """``model(images)``; a method that is compiled by part calls the parts, which other batches then share."""
        return self.model(images)

    def idle(self) -> Tensor | float:
        """Return a term without weight for other branches' batches: DDP waits for a gradient of every parameter."""
        return sum(0.0 * parameter.sum() for parameter in self.own_parameters)

    def picture(self, batch: Batch, plan: Any) -> Sequence[Row]:
        """Make rows of ``preview.png`` that show what :meth:`forward` is about to do; the host must not wait."""
        return ()

    @cached_property
    def own_parameters(self) -> list[nn.Parameter]:
        """The tensors of :meth:`own_tensors` that are trained."""
        # Kept, as finding them takes longer than a small step: the modules of the model are many.
        own = self.own_tensors().values()
        return [tensor for tensor in own if isinstance(tensor, nn.Parameter) and tensor.requires_grad]

    def own_tensors(self) -> dict[str, Tensor]:
        """Find the parameters and buffers that are not the model's, by name."""
        others = {id(tensor) for tensor in chain(self.model.parameters(), self.model.buffers())}
        own = chain(self.named_parameters(), self.named_buffers())
        return {name: tensor for name, tensor in own if id(tensor) not in others}

    def get_task_state(self, module: nn.Module | None = None, ema: bool = False) -> dict[str, Any]:
        """Return the method's own tensors; an average has none."""
        return {} if ema else {name: tensor.detach() for name, tensor in self.own_tensors().items()}

    def load_task_state(
        self, state: Mapping[str, Any] | None, strict: bool = True, module: nn.Module | None = None, ema: bool = False
    ) -> None:
        """Take over a state.

        Args:
            state: of :meth:`get_task_state`; None or empty changes nothing.
            strict: unused, the names and shapes have to be the method's own.
            module, ema: as timm's.

        Raises:
            ValueError: for other names or shapes; nothing is changed then.
        """
        if not state or ema:
            return
        own = self.own_tensors()
        if misfits := _misfits(own, state):
            raise ValueError(f"{self.name} has no such {misfits[0]}")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def get_clip_parameters(self, exclude_head: bool = False) -> list[nn.Parameter]:
        """Return the parameters whose gradients are clipped; classifiers, the method's own too, can be left out."""
        return list(model_parameters(self.model, exclude_head=True) if exclude_head else self.parameters())

    def compile(  # type: ignore[override]  # timm overrides torch's so, untyped
        self, backend: str = "inductor", mode: str | None = None, **options: Any
    ) -> nn.Module:
        """Compile the model in place, for use of the method in timm's trainer; returns it."""
        self.model.compile(backend=backend, mode=mode, **options)
        return self.model


def _misfits(own: Mapping[str, Tensor], state: Mapping[str, Any]) -> list[str]:
    """Names that one of the two lacks, or whose shapes differ."""
    names = dict.fromkeys([*own, *state])
    return [name for name in names if _shape(own.get(name)) != _shape(state.get(name))]


def _shape(tensor: Any) -> torch.Size | None:
    return getattr(tensor, "shape", None)


Kind = TypeVar("Kind", bound=type[StepMethod])

_registered: dict[str, type[StepMethod]] = {}
_RESERVED = {"loss", "output"}


def register(method: Kind) -> Kind:
    """Make a method known by its name; a decorator.

    Raises:
        ConfigError: if the name is no identifier in lower case or is another method's, a part has a reserved name,
            there is no ``forward``, or an option is none that can be a flag.

    A file that is run again puts its method in the place of its earlier one.
    """
    name = method.name
    earlier = _registered.get(name, method)
    if (earlier.__module__, earlier.__qualname__) != (method.__module__, method.__qualname__):
        raise ConfigError(f"there is a step method {name} already, {_registered[name].__qualname__}; use another name")
    if name == branches.NONE:
        raise ConfigError(f"a step method cannot be called {name!r}, as batches that nothing mixes are; rename it")
    if method.forward is StepMethod.forward:
        raise ConfigError(f"{method.__qualname__} has no forward; define forward(self, batch, plan), which mixes")
    if isinstance(method.parts, str):
        raise ConfigError(f"{name}: parts must be a tuple, got {method.parts!r}; write ({method.parts!r},)")
    if unfit := [part for part in method.parts if part in _RESERVED or not part.isidentifier()]:
        raise ConfigError(f"{name}: a part cannot be called {unfit[0]!r}; use an identifier, not 'loss' or 'output'")
    _check_options(method)
    # A branch of the graph may be served too: its number is the graph's.
    if name and (method.code is not None or name not in branches.names()):
        branches.register(name, method.code)
    _registered[name] = method
    return method


def _check_options(method: type[StepMethod]) -> None:
    kind, what = method.Options, f"{method.__qualname__}.Options"
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise ConfigError(f"{what} must be a dataclass, got {kind!r}; put @dataclass(frozen=True) above it")
    for field in dataclasses.fields(kind):
        if "option" not in field.metadata:
            raise ConfigError(f"{what} has the field {field.name}, which is no option: give it option(...)")
    check_options(kind(), method.name)


def known_parts() -> tuple[str, ...]:
    """List the parts of all registered methods, each once."""
    return tuple(dict.fromkeys(part for method in registered() for part in method.parts))


def registered() -> list[type[StepMethod]]:
    """List all methods in the order in which they were registered, the plain one first."""
    return list(_registered.values())


def owner_of(tensor: str) -> type[StepMethod] | None:
    """Find the method to which a tensor of a weights file belongs; None for the model's."""
    return next((method for method in registered() if method.prefixes and tensor.startswith(method.prefixes)), None)
