"""``tests/gpu/measure.sh`` with a Python that notes what it is asked for, so that it takes seconds."""

import argparse
import os
import shlex
import stat
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from dali_mix.tools.bench.__main__ import BENCHMARKS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "gpu" / "measure.sh"
NOTE = """#!/usr/bin/env bash
printf '%s\\n' "$(printf '%q ' "$@")" >>"$NOTES"
case "$*" in *"$FAILING"*) exit 3 ;; esac
exit 0
"""


@pytest.fixture
def measured(tmp_path):
    """Run the script: its exit code, report, and the commands that it gave to Python."""

    def run(block, failing="nothing that is ever run", **settings):
        python = tmp_path / "python"
        python.write_text(NOTE)
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        photographs = tmp_path / "photographs" / "a"
        photographs.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(photographs / "0.jpg")
        notes = tmp_path / "notes"
        notes.unlink(missing_ok=True)
        environment = {"MEASURE_PYTHON": str(python), "MEASURE_BLOCKS": block, "MEASURE_DEVICE": "cpu"}
        environment |= {"NOTES": str(notes), "FAILING": failing, **settings}
        done = subprocess.run(
            ["bash", str(SCRIPT), str(tmp_path / "out"), str(photographs.parent)],
            env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        report = (tmp_path / "out" / "report.txt").read_text()
        return done.returncode, report, [shlex.split(line) for line in notes.read_text().splitlines()]

    return run


def benchmarks(commands):
    """Name and parsed flags of each benchmark among the commands; illegal flags end the test."""
    found = []
    for command in commands:
        if command[:2] == ["-m", "dali_mix.tools.bench"]:
            parser = argparse.ArgumentParser(exit_on_error=False)
            BENCHMARKS[command[2]].add_arguments(parser)
            parser.add_argument("--json")
            found.append((command[2], parser.parse_args(command[3:])))
    return found


def test_the_block_of_the_augmentation_measures_all_of_it(measured):
    code, report, commands = measured("augment", MEASURE_THREADS="16")
    assert code == 0
    assert [name for name, _ in benchmarks(commands)] == ["loader", "loader", "overhead", "step"]
    own, rivals, operators, step = (args for _, args in benchmarks(commands))
    assert (own.recipe, own.workers, own.baseline) == ("deit_small", 16, ["decode", "flip"])
    assert {"recipe", "recipe_half"} < set(own.only)
    assert rivals.only == ["recipe", "nvidia_recipe", "timm_recipe", "torchvision_recipe"]
    assert (operators.img_size, operators.only[-1]) == (32, "recipe")
    assert (step.recipe, step.model, step.only) == ("deit_small", "deit_small_patch16_224", ["mixup"])
    assert step.torchcompile == "inductor"
    assert step.data_dir is not None
    assert any(command[:5] == ["-m", "pytest", "-m", "gpu", "-q"] and "augment" in command for command in commands)
    assert "== sanitizer: left out, there is no GPU" in report


def test_the_limits_of_the_block_are_six_minutes_together(measured):
    _, report, _ = measured("augment")
    parts = [
        line for line in report.splitlines() if " of " in line and line.startswith("== ") and "machine" not in line
    ]
    limits = [int(line.split(" of ")[1].split()[0]) for line in parts]
    assert len(limits) == 5
    assert sum(limits) + 55 <= 360  # with the sanitizer's


def test_a_part_that_fails_stops_no_other(measured):
    code, report, commands = measured("augment", failing="--recipe")
    assert code == 1
    assert "== recipe: exit code 3" in report
    assert "== augment-overhead: exit code 0" in report
    assert len(benchmarks(commands)) == 4


def test_the_sanitizer_runs_where_there_is_one(measured, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    sanitizer = tools / "compute-sanitizer"
    sanitizer.write_text('#!/usr/bin/env bash\necho sanitized "$@"\n')
    sanitizer.chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    _, report, _ = measured("augment", MEASURE_DEVICE="gpu", PATH=path)
    assert "sanitized --tool memcheck" in report
    assert "-m pytest -m gpu" in report.partition("sanitized")[2]
    without = [
        folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / sanitizer.name).exists()
    ]
    _, report, _ = measured("augment", MEASURE_DEVICE="gpu", PATH=os.pathsep.join(without))
    assert "sanitizer: left out, there is no compute-sanitizer" in report


def test_by_default_all_blocks_run_and_their_flags_are_legal(measured):
    code, report, commands = measured("")
    assert code == 0
    parts = [line.split(":")[0].removeprefix("== ") for line in report.splitlines() if line.startswith("== ")]
    for first, second in (("augment-tests", "doctor"), ("doctor", "synthetic"), ("loop", "resnet50")):
        assert parts.index(first) < parts.index(second)
    assert len(benchmarks(commands)) == 16
