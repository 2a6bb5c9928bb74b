"""Where stdout or stderr fails, or cannot show a name, a good run is a good run."""

import io
import sys

import pytest

from dali_mix.train import main
from tests.train.conftest import FAST
from train_imagenet import PIPELINES


@pytest.fixture
def run(image_folder):
    def run(output):
        return main(PIPELINES, [*FAST, "--epochs", "1", "--data-dir", str(image_folder), "--output", str(output)])

    return run


def test_a_table_that_nobody_can_read(run, tmp_path, monkeypatch, capfd):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(tmp_path / "out") == 0
        monkeypatch.undo()
    assert list(tmp_path.glob("out/*/model.safetensors"))
    err = capfd.readouterr().err
    assert "standard output could not be written: No space left on device; its lines are lost" in err
    assert "final weights" not in err


def test_no_stderr_and_a_stdout_without_the_letter(run, tmp_path, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", None)
    assert run(tmp_path / "modèles") == 0
    monkeypatch.undo()
    stdout.flush()
    assert rb"mod\xe8les/" in stdout.buffer.getvalue()
    assert list(tmp_path.glob("modèles/*/model.safetensors"))


class Gone(io.StringIO):
    """A terminal whose window was closed."""

    encoding = "utf-8"

    def write(self, text):
        raise OSError(5, "Input/output error")

    def isatty(self):
        return True


def test_a_terminal_that_goes_away(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone())
    assert run(tmp_path / "out") == 0
    assert list(tmp_path.glob("out/*/model.safetensors"))
