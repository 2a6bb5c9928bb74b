"""Settings as values: frozen dataclasses whose fields say, once, what flags, files, checks and checkpoints need.

    @dataclass(frozen=True, kw_only=True)
    class Ema:
        model_ema: bool = option(False, help="Keep a moving average of the weights, and evaluate it.")
        model_ema_decay: float = option(0.9998, probability, "Decay of the average per update.", needs="model_ema")

Name, type and default are the field's own; the rest is its :class:`Option`, or what is legal its :class:`Check`.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dali_mix.errors import ConfigError

_AS_FIELD = object()


@dataclass(frozen=True)
class Check:
    """What a number may be; called with a text it reads one.

    Fields:
        kind: int or float.
        legal: in words, to be put after "must be".
        holds: whether a number is legal.
    """

    kind: Callable[[Any], Any]
    legal: str
    holds: Callable[[Any], bool]

    def __call__(self, text: str) -> Any:
        """The number in a text.

        Raises:
            ArgumentTypeError: if there is none, or it is not legal.
        """
        try:
            value = self.kind(text)
        except ValueError:
            value = None
        if value is None or not self.holds(value):
            raise argparse.ArgumentTypeError(f"{shortened(text)!r} is not {self.legal}")
        return value

    def require(self, name: str, value: Any) -> None:
        """Refuse a value, or one of a tuple's.

        Raises:
            ConfigError: if it is not legal.
        """
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if not isinstance(each, (int, float)) or isinstance(each, bool) or not self.holds(each):
                raise ConfigError(f"{name} must be {self.legal}, got {each!r}")


def shortened(text: str, longest: int = 80) -> str:
    """Cut what is too long for a line."""
    return text if len(text) <= longest else text[:longest] + "..."


def integer(lowest: int, highest: int) -> Check:
    """Make the check of an integer in [lowest, highest]."""
    return Check(int, f"an integer from {lowest} to {highest}", lambda value: lowest <= value <= highest)


positive_int = integer(1, 2**31 - 1)  # what DALI's and timm's own counters hold
non_negative_int = integer(0, 2**31 - 1)
finite = Check(float, "a finite number", lambda value: abs(value) < math.inf)
probability = Check(float, "a number in [0, 1]", lambda value: 0 <= value <= 1)
fraction = Check(float, "a number in (0, 1]", lambda value: 0 < value <= 1)
positive = Check(float, "a number > 0", lambda value: 0 < value < math.inf)
non_negative = Check(float, "a number >= 0", lambda value: 0 <= value < math.inf)


@dataclass(frozen=True)
class Needs:
    """What another setting must be on for a setting to have an effect.

    Fields:
        names: settings of which one is enough; "name=value" wants that value.
        unsaid: more of them, which the error does not name.
    """

    names: tuple[str, ...]
    unsaid: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """What a field says of itself besides name, type and default.

    Fields:
        help: a sentence that stands alone.
        check: what is legal, or another function that makes a value of a text; None for text and switches.
        needs: without which the setting has no effect.
        changes_weights: whether two runs that differ in it may have other weights.
        flag: its name on the command line and in files, where that is not the field's; with "_".
        flag_default: on the command line, where that is not the field's default; None leaves it to the field.
        aliases: more flags, with their dashes, after the one that its name makes.
        metavar, choices, nargs, const: as in argparse.
        negatable: whether a switch has a "--no-" form.
        pairs: whether it takes NAME=VALUE.
        path: whether a text is a path.
        any_bytes: whether a path need not be text.
        saved: whether it belongs into the settings that a run writes down.
    """

    help: str
    check: Callable[[str], Any] | None = None
    needs: Needs | None = None
    changes_weights: bool = True
    flag: str = ""
    flag_default: Any = _AS_FIELD
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    choices: Sequence[str] | None = None
    nargs: str | int | None = None
    const: Any = None
    negatable: bool = True
    pairs: bool = False
    path: bool = False
    any_bytes: bool = False
    saved: bool = True


def option(
    default: Any,
    check: Callable[[str], Any] | None = None,
    help: str = "",
    *,
    needs: str | Needs | None = None,
    **more: Any,
) -> Any:
    """Make a field of a section.

    Args:
        default: of the setting, None for one that may be left out; a dict is copied for each section.
        check: see :class:`Option`.
        help: see :class:`Option`.
        needs: see :class:`Option`; a text is one setting.
        more: other fields of :class:`Option`.
    """
    wanted = Needs((needs,)) if isinstance(needs, str) else needs
    metadata = {"option": Option(help, check, wanted, **more), "check": check}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options_of(section: Any) -> Iterator[tuple[dataclasses.Field[Any], Option]]:
    """List the fields of a section, or of its class, that are settings, each with its option."""
    for field in dataclasses.fields(section):
        if "option" in field.metadata:
            yield field, field.metadata["option"]


def flag_of(field: dataclasses.Field[Any]) -> str:
    """Return the name of a setting on the command line and in files, with "_"."""
    own: Option = field.metadata["option"]
    return own.flag or field.name


def flags_of(section: Any) -> tuple[str, ...]:
    """List the names of all settings of a section, or of its class."""
    return tuple(flag_of(field) for field, _ in options_of(section))


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the value that a field has where none is given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def flag_default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the value that a flag has where it is not given; None may leave it to the field's default."""
    own: Option = field.metadata["option"]
    return default_of(field) if own.flag_default is _AS_FIELD else own.flag_default


def check_options(options: Any, owner: str) -> None:
    """Check every option of a method, for ``__post_init__``.

    Args:
        options: a dataclass; fields that are not made by :func:`option` are left alone.
        owner: the method's name, for the message.

    Raises:
        ConfigError: for the first value that is not legal.
    """
    for field in dataclasses.fields(options):
        check, value = field.metadata.get("check"), getattr(options, field.name)
        if isinstance(check, Check) and not (value is None and field.default is None):
            check.require(f"{owner}: {field.name}", value)
