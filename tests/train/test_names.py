"""Names that are no text, on their way through a run's own files."""

import os
from pathlib import Path

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dali_mix.train.output import Trackers
from dali_mix.train.settings import parse_args
from dali_mix.train.settings.sections import plain_settings


def test_a_list_whose_name_is_not_utf8(tmp_path):
    """It is read like any other; the settings name it, for --config and for TensorBoard."""
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    Path(name).write_text("a\n")
    flags = ["--data-dir", "x", "--model", "resnet18"]
    settings = plain_settings(parse_args([*flags, "--class-map", name]))
    (tmp_path / "args.yaml").write_text(yaml.safe_dump(settings))
    assert parse_args(["--config", str(tmp_path / "args.yaml")]).data.class_map == name
    Trackers(tmp_path, settings, wandb=None).close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (shown,) = events.Tensors("settings/text_summary")
    assert b"caf\\xe9.txt\n" in shown.tensor_proto.string_val[0]
