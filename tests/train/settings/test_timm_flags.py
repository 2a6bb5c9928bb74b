"""Our flags have timm's names, types and defaults; every difference is listed here, with its reason."""

import argparse
from pathlib import Path

import pytest
from timm.utils import ParseKwargs

from dali_mix.options import Check
from dali_mix.train.settings import build_parser
from dali_mix.train.settings.refused import reason_to_refuse
from dali_mix.train.settings.sections.data import dataset
from tests.train.settings.timm_flags import REFUSED, TIMM_FLAGS

OTHER_DEFAULT = {
    "--config": "a path, so None instead of an empty text",
    "--device": "cuda where there is one",
    "--channels-last": "the pipeline's images are channels_last already",
    "--amp-dtype": "bfloat16 where the device has it",
    "--sched-on-updates": "the schedule is smooth",
    "--output": "runs go into a folder of their own",
}
OURS = {
    "--version", "--recipe", "--demo", "--pipeline", "--exclude-list", "--dali-device", "--dali-prefetch",
    "--deterministic", "--use-ema",
    "--smmix", "--smmix-prob", "--smmix-min-side", "--smmix-max-side", "--smmix-loss-weights", "--eval-only",
    "--bench-steps", "--checkpoint-steps", "--auto-resume", "--resume-relaxed", "--nonfinite-limit", "--on-bad-image",
    "--max-bad-fraction", "--hw-decoder-load", "--preallocate-width-hint", "--preallocate-height-hint",
    "--device-memory-padding", "--host-memory-padding", "--native", "--mix", "--import", "--cutmix-alpha",
    "--mixup-alpha", "--resizemix-smallest", "--resizemix-largest",
}  # fmt: skip


def own_flags():
    return {
        next(name for name in action.option_strings if name.startswith("--")): action
        for action in build_parser()._actions
        if action.option_strings and action.dest != "help"
    }


def kind_of(action):
    if isinstance(action, ParseKwargs):
        return "pairs"
    if action.nargs == 0:
        return "switch"
    if action.type is int or (isinstance(action.type, Check) and action.type.kind is int):
        return "int"
    return "str" if action.type in (None, str, Path, dataset) else "float"


def plain(value):
    return list(value) if isinstance(value, (tuple, list)) else value


@pytest.mark.parametrize("name", TIMM_FLAGS)
def test_name_type_and_default_are_timms(name):
    kind, values, default = TIMM_FLAGS[name]
    action = own_flags()[name]
    assert kind_of(action) == kind
    if kind not in ("switch", "pairs"):
        assert action.nargs == values
    assert (plain(action.default) == default) != (name in OTHER_DEFAULT)


def test_no_flag_of_ours_is_unlisted(registry):
    assert set(own_flags()) - set(TIMM_FLAGS) == OURS


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_of_timms_flags_is_refused_with_a_reason(name):
    assert reason_to_refuse(name)


@pytest.mark.parametrize("name", ["-b", "-vb", "-j", "-c", "--dr"])
def test_timms_short_names(name):
    assert isinstance(build_parser()._option_string_actions[name], argparse.Action)
