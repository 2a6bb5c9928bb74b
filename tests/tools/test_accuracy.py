"""The table of methods and seeds, on tiny runs of the real command line."""

import os
import runpy
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from dali_mix.tools import accuracy
from dali_mix.tools.accuracy import Result, find_result, format_spread, format_table, main, read_result
from tests.ranks import run_ranks

ENTRY = Path(__file__).parents[2] / "train_imagenet.py"
TINY = "--model-kwargs patch_size=8 embed_dim=16 depth=2 num_heads=2 -b 10 --device cpu".split()
HEAD = "epoch,train_loss,train_classification,eval_top1,img_per_s,seconds\r\n"
SUMMARY = HEAD + "0,9,2.5,30,100,60\r\n1,9,2.0,50,200,30\r\n2,9,1.5,40,220,30\r\n"


@pytest.fixture
def prepared(monkeypatch):
    """Trainings in processes that need not import PyTorch first; one test has them as they are."""

    def run(command, *, stdout, stderr, env, check):
        assert (command[0], stdout) == (sys.executable, subprocess.DEVNULL)
        result = run_ranks(*command[1:], cwd=Path.cwd(), env=env)
        stderr.write(result.stderr)
        return result

    monkeypatch.setattr(accuracy.subprocess, "run", run)


@pytest.fixture
def make(tmp_path, image_folder, capfd, monkeypatch):
    """Run the tool in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))

    def run(*flags, data=image_folder, extra=TINY):
        argv = ["--data-dir", data, "--output", tmp_path / "out", "--entry", ENTRY, "--epochs", 1, *flags, "--", *extra]
        capfd.readouterr()
        try:
            code = main([str(word) for word in argv])
        except SystemExit as exit_:
            code = exit_.code
        return code, *capfd.readouterr()

    return run


def test_a_table_is_made_and_continued(make, tmp_path, request):
    code, out, err = make("--methods", "none", "--seeds", 1)
    assert code == 0, err
    assert out == (tmp_path / "out" / "accuracy.md").read_text()
    (row,) = [line.split(" | ") for line in out.splitlines() if line.startswith("| none")]
    assert row[1] == "1"
    # The second time there is nothing to train, but for the method that is new.
    request.getfixturevalue("prepared")
    code, again, err = make("--methods", "none", "mixup_smmix", "--seeds", 1)
    assert code == 0, err
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {"none-seed1", "mixup_smmix-seed1"}
    assert "none-seed1: training" not in err
    assert "mixup_smmix-seed1: training" in err
    assert set(out.splitlines()) < set(again.splitlines())
    # Other settings are not mixed into it.
    code, _, err = make(extra=[*TINY, "--smoothing", 0])
    assert code == 2
    assert "holds runs with other settings" in err
    assert err.count("\n") == 1


def test_a_failed_run_is_shown_and_marked(make, prepared):
    # SMMix is refused where its tokens are too few, and the plain run is not.
    code, out, err = make(
        "--methods", "smmix", "none", "--seeds", 1, extra=[*TINY, "--img-size", 16, "--drop-path", "0.1"]
    )  # fmt: skip
    assert code == 1
    assert "smmix-seed1: failed with code 2: train_imagenet.py: error:" in err
    assert "| smmix | 0 (**1 failed**) |" in out
    assert "| none | 1 |" in out


@pytest.mark.parametrize(
    ("flags", "extra", "message"),
    [
        (["--data-dir", "nowhere"], [], "nowhere does not exist"),
        (["--entry", "nothing.py"], [], "nothing.py is not a file"),
        (["--epochs", "0"], [], "--epochs must be at least 1"),
        (["--seeds", "-1"], [], "--seeds"),
        (["--methods", "cutout"], [], "invalid choice: 'cutout'"),
        ([], ["--epochs=3"], "--epochs=3 after -- contradicts"),
        ([], ["--cutmix", "1"], "--cutmix after -- contradicts"),
        (["--output", "/proc/none"], [], "/proc/none"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_with_code_2(make, flags, extra, message):
    code, _, err = make(*flags, extra=extra)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_ctrl_c_ends_with_one_line(make, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy.subprocess, "run", interrupt)
    code, _, err = make("--methods", "none")
    assert code == 130
    assert "interrupted; the same command continues" in err


def test_a_training_ends_with_the_process_that_wants_its_figures(make, monkeypatch):
    given = []

    def run(*_, env, **__):
        given.append(env)
        raise KeyboardInterrupt

    monkeypatch.setattr(accuracy.subprocess, "run", run)
    make("--methods", "none")
    assert given[0]["DALI_MIX_LAUNCHER"] == str(os.getpid())  # see tests/train/recovery/test_launcher.py


@pytest.mark.parametrize("method", accuracy.METHODS)
def test_the_trainer_takes_the_flags_of_every_method(method, tmp_path, capfd, monkeypatch):
    flags = [*accuracy.RECIPE, *accuracy.METHODS[method], "--device", "cpu"]
    # The data are looked for when every flag has been found legal.
    monkeypatch.setattr(sys, "argv", [str(ENTRY), "--data-dir", str(tmp_path / "nowhere"), *flags])
    with pytest.raises(SystemExit) as exit_:
        runpy.run_path(str(ENTRY), run_name="__main__")
    assert exit_.value.code == 2
    assert "nowhere does not exist" in capfd.readouterr().err
    assert {flag[2:] for flag in flags if flag[2:] in ("mixup", "cutmix", "smmix")} == set(method.split("_")) - {"none"}


def test_a_summary_gives_the_figures_of_a_run():
    assert read_result(SUMMARY, 3) == Result(40, 50, 2.5, 1.5, 200, 2.0)


def test_epochs_that_were_not_evaluated_are_passed_over():
    result = read_result(SUMMARY.replace("2.0,50,", "2.0,,"), 3)
    assert result is not None
    assert (result.top1, result.best) == (40, 40)


@pytest.mark.parametrize(
    "text",
    ["", HEAD, SUMMARY[:-2], SUMMARY.rpartition("2,9")[0], SUMMARY + "3,9,1,40,1,1\r\n", HEAD + "0,9,2,,1,1\r\n" * 3],
)
def test_a_summary_without_all_epochs_is_no_result(text):
    assert read_result(text, 3) is None


def test_a_finished_run_is_found_beside_one_that_was_cut_off(tmp_path):
    for name, text in (("none-seed1", HEAD), ("none-seed1-1", SUMMARY), ("none-seed10", SUMMARY)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.csv").write_text(text)
    assert find_result(tmp_path, "none-seed1", 3)
    (tmp_path / "none-seed1-1" / "summary.csv").unlink()
    assert find_result(tmp_path, "none-seed1", 3) is None


def test_spread_is_mean_and_sample_deviation():
    assert format_spread([40.0]) == "40.00"
    assert format_spread([40.0, 42.0, 44.0]) == "42.00 ± 2.00"
    assert format_spread([1.0, 2.0], 3) == f"1.500 ± {statistics.stdev([1, 2]):.3f}"


def test_the_table_has_a_row_per_method():
    runs = [Result(40, 50, 2.5, 1.5, 100, 2), Result(42, 52, 2.7, 1.7, 120, 4)]
    *_, first, second, third = format_table({"none": runs, "mixup": [runs[0], None], "smmix": [None]}).splitlines()
    assert first == "| none | 2 | 41.00 ± 1.41 | 51.00 ± 1.41 | 2.600 | 1.600 | 110 | 3.0 |"
    assert second.startswith("| mixup | 1 (**1 failed**) | 40.00 | 50.00 |")
    assert third.startswith("| smmix | 0 (**1 failed**) |")
    assert first.count("|") == second.count("|") == third.count("|") == 9
