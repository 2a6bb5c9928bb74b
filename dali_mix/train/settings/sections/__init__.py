"""All settings of a run, in sections: each is taken by the part that uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dali_mix.fn.image.decoder_settings import DecoderSettings
from dali_mix.fn.image.settings import Augmentation, Crop
from dali_mix.fn.sections import Mixing
from dali_mix.options import Option, default_of, flag_default_of, flag_of, options_of
from dali_mix.train.settings.sections.data import Data, Entry, Reading
from dali_mix.train.settings.sections.model import BatchNorm, Device, Ema, Model, Precision
from dali_mix.train.settings.sections.run import Log, Recovery, Run
from dali_mix.train.settings.sections.training import Loss, Methods, Optimizer, Schedule, Sizes


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

    @classmethod
    def of(cls, flags: Mapping[str, Any] | None = None) -> Settings:
        """The settings of some flags, by their names with "_"; the others have the command line's defaults."""
        values = {name: flag_default_of(field) for name, field, _ in all_options()} | dict(flags or {})
        return cls(**{section.name: _filled(section.metadata["kind"], values) for section in sections()})

    def changed(self, **flags: Any) -> Settings:
        """The same but for some flags, by their names with "_"."""
        return Settings.of(self.flags() | flags)

    def flags(self) -> dict[str, Any]:
        """All settings, by the names of their flags with "_"."""
        return {
            flag_of(field): getattr(getattr(self, section.name), field.name)
            for section in sections()
            for field, _ in options_of(section.metadata["kind"])
        }


def sections() -> Iterator[dataclasses.Field[Any]]:
    """The fields of :class:`Settings`; their metadata hold the section's class and its group in ``--help``."""
    yield from dataclasses.fields(Settings)


def all_options() -> Iterator[tuple[str, dataclasses.Field[Any], Option]]:
    """Each setting: name of its flag with "_", its field, and what that says of itself."""
    for section in sections():
        for field, own in options_of(section.metadata["kind"]):
            yield flag_of(field), field, own


def _filled(kind: type, values: Mapping[str, Any]) -> Any:
    given = {}
    for field, _ in options_of(kind):
        value = values[flag_of(field)]
        # A flag that was left out leaves the value to the field.
        given[field.name] = default_of(field) if value is None else tuple(value) if isinstance(value, list) else value
    return kind(**given)


def plain_settings(settings: Settings) -> dict[str, Any]:
    """The settings as YAML and ``torch.load(weights_only=True)`` can read them, and ``--config`` takes them."""
    saved = {name for name, _, own in all_options() if own.saved}
    return {name: as_plain(value) for name, value in settings.flags().items() if name in saved}


def as_plain(value: Any) -> Any:
    """Paths as text and tuples as lists."""
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
