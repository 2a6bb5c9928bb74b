"""What differs between a checkpoint's run and this one, and what can be done about it."""

from pathlib import Path

import pytest
import torch

from dali_mix.train.checkpoint import resume
from dali_mix.train.checkpoint.identity import differences
from dali_mix.train.checkpoint.state import read_run
from dali_mix.train.checkpoint.store import Position
from dali_mix.train.settings.sections import Settings, plain_settings
from tests.train.recovery.runs import RICH, cut_off

MIXING, AUGMENTATION = "mixing operators", "augmentation operators"


@pytest.mark.parametrize(
    ("saved", "own", "told"),
    [
        # A run from before augmentation had native operators.
        ({MIXING: "native"}, {AUGMENTATION: None, MIXING: "native"}, []),
        ({MIXING: "portable"}, {AUGMENTATION: "portable", MIXING: "portable"}, []),
        (
            {MIXING: "native"},
            {AUGMENTATION: "native", MIXING: "native"},
            ["augmentation operators was 'portable', is 'native' (saved before there was a choice)"],
        ),
        # What neither switch takes: "on" would make both native.
        (
            {MIXING: "native"},
            {AUGMENTATION: "portable", MIXING: "portable"},
            ["mixing operators was 'native', is 'portable' (saved before there was a choice)"],
        ),
        (
            {MIXING: "native"},
            {AUGMENTATION: None, MIXING: "portable"},
            ["mixing operators was 'native', is 'portable' (--native on takes the saved ones)"],
        ),
        (
            {MIXING: "portable"},
            {AUGMENTATION: "native", MIXING: "native"},
            [
                "augmentation operators was 'portable', is 'native' (--native off takes the saved ones)",
                "mixing operators was 'portable', is 'native' (--native off takes the saved ones)",
            ],
        ),
        # Runs of today.
        ({AUGMENTATION: "native", MIXING: "native"}, {AUGMENTATION: "native", MIXING: "native"}, []),
        (
            {AUGMENTATION: "native", MIXING: "native"},
            {AUGMENTATION: "portable", MIXING: "portable"},
            [
                "augmentation operators was 'native', is 'portable' (--native on takes the saved ones)",
                "mixing operators was 'native', is 'portable' (--native on takes the saved ones)",
            ],
        ),
    ],
)
def test_the_operators(saved, own, told):
    assert differences(saved, own) == told


def test_a_flag_that_the_saved_run_did_not_know_had_the_effect_of_its_default():
    """So that a new flag makes no checkpoint of before refuse."""
    saved = {"batch_size": 128, MIXING: "native", AUGMENTATION: None}
    own = saved | {
        "smoothing": 0.1,
        "model_kwargs": {},
        "scale": [0.08, 1.0],
        "hflip": 0.5,
        "color_jitter": 0.4,
        "aa": "",
    }
    assert own.items() <= (plain_settings(Settings.of()) | saved).items()
    assert differences(saved, own) == []
    assert differences(saved, own | {"smoothing": 0.3}) == ["--smoothing was 0.1, is 0.3"]
    # Flags with a default of None had that written down.
    assert differences(saved | {"aa": None, "grayscale_prob": None}, own | {"grayscale_prob": 0.0}) == []
    assert differences(saved | {"aa": "3a"}, own) == ["--aa was '3a', is ''"]
    assert differences(saved, own | {"training images": 70}) == ["training images was None, is 70"]


def test_what_changes_bits_is_told_but_not_what_the_saved_run_did_not_know(whole, train, tmp_path, monkeypatch):
    computed_by = read_run(whole / "checkpoints" / "checkpoint-1-4")["computed_by"]
    assert computed_by["threads of torch"] == torch.get_num_threads()
    assert computed_by["CPU instructions"] == torch.backends.cpu.get_cpu_capability()
    cut_off(whole, tmp_path / "run", Position(2, 6))
    before = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    code, _, err = train(*RICH, "--experiment", "run", "--auto-resume")
    assert code == 0, err
    told = f"not computed as before, so results may differ in the last bits: threads of torch {before} -> 5\n"
    assert told in err


def test_a_checkpoint_that_knows_less_is_continued_without_a_word(caplog):
    facts = {"position": [1, 4], "computed_by": {"torch": "1"}, "rows": []}
    resume._exactly(None, Path("checkpoint"), facts, {"computed_by": {"torch": "1", "threads of torch": 5}})
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
