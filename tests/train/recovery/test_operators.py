"""All ranks mix by the same operators, and a run goes on with those that it began with."""

import pytest

from dali_mix.train.checkpoint.state import read_run
from dali_mix.train.checkpoint.store import Position
from tests.implementations import need_native
from tests.train.conftest import FAST
from tests.train.recovery.runs import RICH, assert_same_result, change_run, cut_off
from tests.train.test_run import run_command

NEWEST = "checkpoint-1-4"

WITHOUT = """
import os
if os.environ.get("RANK") == "1":
    os.environ |= {"CXX": "no-such-compiler", "DALI_MIX_CACHE": "/dev/null/none"}
"""
"""What Python runs at its start: rank 1 has no compiler and finds no library."""


@pytest.fixture
def cut(whole, tmp_path):
    """A run that was killed in the middle of its second epoch."""
    need_native()
    cut_off(whole, tmp_path / "run", Position(1, 4))
    return tmp_path / "run"


@pytest.fixture
def resume(train):
    return lambda *flags: train(*RICH, "--experiment", "run", "--auto-resume", *flags)


def test_the_other_implementation_is_refused_in_one_line(resume, cut):
    code, _, err = resume("--native", "off")
    assert code == 2
    assert "mixing operators was 'native', is 'portable' (--native on takes the saved ones); use the same" in err
    assert err.splitlines()[-1].startswith("train_imagenet.py: error: ")


def test_a_run_from_before_there_were_two_is_refused_in_one_line(resume, cut):
    change_run(cut / "checkpoints" / NEWEST, lambda facts: facts["fingerprint"].pop("mixing operators"))
    code, _, err = resume()
    assert code == 2
    assert "mixing operators was None, is 'native' (saved before there was a choice)" in err
    assert "--resume-relaxed" in err


def test_an_older_run_that_augments_is_refused_in_one_line(resume, cut):
    """Its augmentation was the portable graph, whatever mixed."""
    change_run(cut / "checkpoints" / NEWEST, lambda facts: facts["fingerprint"].pop("augmentation operators"))
    code, _, err = resume()
    assert code == 2
    assert "augmentation operators was 'portable', is 'native' (saved before there was a choice); use the same" in err
    assert "mixing operators" not in err


def test_insisting_on_what_is_there_changes_nothing(resume, cut, whole):
    code, _, err = resume("--native", "on")
    assert code == 0, err
    assert_same_result(cut, whole)


def test_the_portable_graph_trains_and_its_checkpoints_say_so(train, tmp_path):
    code, _, err = train("--native", "off", "--cutmix", 1, "--mixup", 0.8, "--epochs", 1, "--experiment", "portable")
    assert code == 0, err
    assert operators_of(tmp_path / "portable") == ("portable", "portable")


@pytest.mark.parametrize(
    ("flags", "augmentation"),
    [(["--color-jitter", 0.2], "native"), (["--color-jitter", 0], None)],
)
def test_checkpoints_say_what_augments(train, tmp_path, flags, augmentation):
    need_native()
    code, _, err = train(*flags, "--epochs", 1, "--experiment", "run")
    assert code == 0, err
    assert operators_of(tmp_path / "run") == ("native", augmentation)


def operators_of(folder):
    fingerprint = read_run(folder / "checkpoints" / "checkpoint-1-0")["fingerprint"]
    return fingerprint["mixing operators"], fingerprint["augmentation operators"]


@pytest.mark.distributed
@pytest.mark.parametrize("mode", ["auto", pytest.param("on", marks=pytest.mark.long)])
def test_a_rank_without(tmp_path, image_folder, monkeypatch, mode):
    need_native()
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    flags = [*FAST, "--data-dir", image_folder, "--cutmix", 1, "-b", 5, "--epochs", 1, "--native", mode]
    result = run_command(*flags, "--output", tmp_path, "--experiment", "two", ranks=2, cwd=tmp_path)
    told = [
        line
        for line in result.stderr.splitlines()
        if "cannot be had on rank 1: CXX=no-such-compiler is no command" in line
    ]
    if mode == "on":
        assert result.returncode != 0
        assert told[0].startswith("train_imagenet.py: error: --native on: ")
        return
    assert result.returncode == 0, result.stderr
    assert len(told) == 1
    facts = read_run(tmp_path / "two" / "checkpoints" / "checkpoint-1-0")
    assert facts["fingerprint"]["mixing operators"] == "portable"
