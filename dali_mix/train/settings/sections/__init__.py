"""All settings of a run, in sections: each is taken by the part that uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dali_mix.errors import ConfigError
from dali_mix.fn.image.decoder_settings import DecoderSettings
from dali_mix.fn.image.settings import Augmentation, Crop
from dali_mix.fn.sections import Mixing
from dali_mix.options import Option, default_of, flag_default_of, flag_of, options_of
from dali_mix.train.settings.methods import option_kinds, short_form_kinds
from dali_mix.train.settings.sections.data import Data, Entry, Reading
from dali_mix.train.settings.sections.model import BatchNorm, Device, Ema, Model, Precision
from dali_mix.train.settings.sections.run import Log, Recovery, Run
from dali_mix.train.settings.sections.training import Loss, Methods, Optimizer, Schedule, Sizes

_OF_THE_PARSER = ("help", "version", "data", "local_rank")
"""Names that the parser has beside all settings."""


def _section(kind: type, group: str) -> Any:
    return dataclasses.field(default_factory=kind, metadata={"kind": kind, "group": group})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a run.

    Each field is a section, whose own fields are settings; "group" is where ``--help`` shows them.
    """

    entry: Entry = _section(Entry, "")
    data: Data = _section(Data, "data")
    reading: Reading = _section(Reading, "data")
    decoder: DecoderSettings = _section(DecoderSettings, "data")
    model: Model = _section(Model, "model")
    device: Device = _section(Device, "device and precision")
    precision: Precision = _section(Precision, "device and precision")
    batch_norm: BatchNorm = _section(BatchNorm, "batch norm and moving average")
    ema: Ema = _section(Ema, "batch norm and moving average")
    optimizer: Optimizer = _section(Optimizer, "optimizer")
    schedule: Schedule = _section(Schedule, "learning rate schedule")
    crop: Crop = _section(Crop, "augmentation")
    augmentation: Augmentation = _section(Augmentation, "augmentation")
    methods: Methods = _section(Methods, "mixing and loss")
    mixing: Mixing = _section(Mixing, "mixing and loss")
    loss: Loss = _section(Loss, "mixing and loss")
    sizes: Sizes = _section(Sizes, "progressive image size")
    run: Run = _section(Run, "run")
    log: Log = _section(Log, "run")
    recovery: Recovery = _section(Recovery, "recovery")

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The options of every known method, by its name: what it declares itself."""

    short_forms: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The short form of every step method that has one, by its name: whether it is "on", and its "prob"."""

    @classmethod
    def of(cls, flags: Mapping[str, Any] | None = None) -> Settings:
        """The settings of some flags, by their names with "_"; the others have the command line's defaults.

        Raises:
            ConfigError: for values that cannot work.
        """
        values = {each.flag: flag_default_of(each.field) for each in all_settings()} | dict(flags or {})
        return cls(
            **{section.name: _filled(section.metadata["kind"], values) for section in sections()},
            options={name: _filled(kind, values, f"{name}_") for name, kind in option_kinds().items()},
            short_forms={name: _filled(kind, values) for name, kind in short_form_kinds().items()},
        )

    def changed(self, **flags: Any) -> Settings:
        """The same but for some flags, by their names with "_"."""
        return Settings.of(self.flags() | flags)

    def flags(self) -> dict[str, Any]:
        """All settings, by the names of their flags with "_"."""
        return {each.flag: each.value(self) for each in all_settings()}


class Setting(NamedTuple):
    """A setting among all others.

    Fields:
        flag: its name on the command line and in files, with "_".
        field: of its section.
        option: what that says of itself.
        section: name in :class:`Settings`.
        method: whose option or short form it is; "" for none.
    """

    flag: str
    field: dataclasses.Field[Any]
    option: Option
    section: str
    method: str = ""

    @property
    def default(self) -> Any:
        """The value of its flag where that is not given."""
        return flag_default_of(self.field)

    def value(self, settings: Settings) -> Any:
        """What it is set to."""
        section = getattr(settings, self.section)
        return getattr(section[self.method] if self.method else section, self.field.name)


def sections() -> list[dataclasses.Field[Any]]:
    """The fields of :class:`Settings` that are sections; their metadata hold its class and its group in ``--help``."""
    return [field for field in dataclasses.fields(Settings) if "kind" in field.metadata]


def all_settings() -> list[Setting]:
    """Every setting: those of the sections, then those that methods declare."""
    found = {
        flag_of(field): Setting(flag_of(field), field, option, section.name)
        for section in sections()
        for field, option in options_of(section.metadata["kind"])
    }
    for name, kind in short_form_kinds().items():
        for field, option in options_of(kind):
            if flag_of(field) in (*found, *_OF_THE_PARSER):
                raise ConfigError(f"the method {name} would have the flag --{flag_of(field)}, which there is already")
            found[flag_of(field)] = Setting(flag_of(field), field, option, "short_forms", name)
    for name, kind in option_kinds().items():
        for field, option in options_of(kind):
            flag = f"{name}_{field.name}"
            if flag not in (*found, *_OF_THE_PARSER):
                found[flag] = Setting(flag, field, option, "options", name)
            elif name not in found or found[flag].section != "methods":  # timm's short form of an option is its flag
                raise ConfigError(
                    f"the option {field.name} of {name} would be the flag --{flag.replace('_', '-')}, which there is "
                    "already; give one of them another name"
                )
    return list(found.values())


def _filled(kind: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    given = {}
    for field, _ in options_of(kind):
        value = values[prefix + field.name if prefix else flag_of(field)]
        # A flag that was left out leaves the value to the field.
        given[field.name] = default_of(field) if value is None else tuple(value) if isinstance(value, list) else value
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"--{prefix.replace('_', '-')}...: {error}" if prefix else str(error)) from error


def plain_settings(settings: Settings) -> dict[str, Any]:
    """The settings as YAML and ``torch.load(weights_only=True)`` can read them, and ``--config`` takes them."""
    return {each.flag: as_plain(each.value(settings)) for each in all_settings() if each.option.saved}


def as_plain(value: Any) -> Any:
    """Paths as text and tuples as lists."""
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
