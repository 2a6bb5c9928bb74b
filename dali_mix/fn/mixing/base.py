"""What a mixing method is, and which there are."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar, cast

from dali_mix import branches
from dali_mix.errors import ConfigError
from dali_mix.fn.graph import Node
from dali_mix.fn.implementation import implementation_for
from dali_mix.fn.mixing.drawing import Drawing
from dali_mix.fn.mixing.params import Draw, Planned
from dali_mix.options import check_options

_USED_BY_THE_GRAPH = ("mix", "branch")
"""What the operators of ``random_mix`` itself are called by."""

_methods: dict[str, type[GraphMethod]] = {}


class GraphMethod(ABC):
    """A way to mix the images of a batch in the graph.

    A subclass is a frozen dataclass below ``@register``; its fields, each made by ``option``, are its options.

    Class fields:
        name: the branch of the batches that are mixed so; an identifier in lower case.
        code: the branch's number, which no branch had before; leave it out to have it computed from the name.
    """

    name: ClassVar[str]
    code: ClassVar[int]

    def __post_init__(self) -> None:
        """Refuse options that are not legal.

        Raises:
            ConfigError: naming the method and the option.
        """
        check_options(self, self.name)

    @property
    def planned(self) -> Planned | None:
        """How the native operator draws this method; None for one that it does not know, which :meth:`draw` draws."""
        return None

    @abstractmethod
    def draw(self, batch: Drawing) -> Draw:
        """Decide for every sample what is mixed, without knowing its partner.

        It is drawn for every batch, whether this method is chosen or not, so that the random streams do not depend on
        the choice.

        Args:
            batch: the size of the images, random numbers and who shares them.
        """

    def apply(self, images: Node, partner: Node, draw: Draw) -> Node:
        """Mix the images as drawn.  What is drawn as boxes and weights needs no other than this.

        Args:
            images: uint8 or float32 (H, W, C), CPU or GPU.
            partner: int32 (), the place in the batch of the sample that is mixed in.
            draw: what :meth:`draw` has returned.

        Returns:
            Node like ``images``.  One that replaces this sees the batches of its branch only, and must not use
            constant nodes, which would have the size of the whole batch.
        """
        mixed: Node = implementation_for(images).pixels(images, partner, draw)
        return mixed

    @property
    def applies_itself(self) -> bool:
        """Whether the method has an :meth:`apply` of its own."""
        return type(self).apply is not GraphMethod.apply

    def drawn(self, batch: Drawing) -> Draw:
        """:meth:`draw`, checked.

        Raises:
            TypeError: if it is not a Draw, or one of the whole image without a weight.
        """
        draw = self.draw(batch)
        if not isinstance(draw, Draw):
            raise TypeError(f"{type(self).__name__}.draw must return a mix.Draw, got {type(draw).__name__}")
        if draw.box is None and (draw.weight is None or draw.source is not None):
            raise TypeError(f"{type(self).__name__}.draw must give a box, or a weight to blend whole images with")
        return draw


Method = TypeVar("Method", bound=type[GraphMethod])


def register(method: Method) -> Method:
    """Make a method known by its name, as a class decorator above ``@dataclass(frozen=True)``.

    Raises:
        TypeError: for what is not a frozen dataclass of options below GraphMethod, with a name.
        ConfigError: for a name or code that means another method or branch already.
    """
    what = f"@register takes a GraphMethod: {getattr(method, '__name__', method)!r}"
    if not (isinstance(method, type) and issubclass(method, GraphMethod)):
        raise TypeError(f"{what} is none")
    parameters = method.__dict__.get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise TypeError(f"{what} must be a frozen dataclass: put @dataclass(frozen=True) between it and @register")
    name = method.__dict__.get("name")
    if not isinstance(name, str):
        raise TypeError(f'{what} has no name: write `name = "..."`')
    for field in dataclasses.fields(cast(Any, method)):
        if "check" not in field.metadata:
            raise TypeError(f"{what} has the field {field.name}, which is no option: give it mix.option(...)")
    # Defined once more, as in a notebook's cell, it replaces itself.
    if name in _USED_BY_THE_GRAPH or _place(_methods.get(name, method)) != _place(method):
        raise ConfigError(f"the name {name!r} is taken; give the method another")
    method.code = branches.register(name, method.__dict__.get("code"))
    _methods[name] = method
    return method


def _place(method: type[GraphMethod]) -> tuple[str, str]:
    return method.__module__, method.__qualname__


def methods() -> dict[str, type[GraphMethod]]:
    """Every registered method by its name."""
    return dict(_methods)
