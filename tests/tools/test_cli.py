import argparse
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dali_mix import __version__
from dali_mix.tools.cli import TOOLS, main


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_tool_on_a_line(capsys, arguments):
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "usage: dali-mix NAME ARGS..."
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(TOOLS)


@pytest.mark.parametrize(
    ("name", "hint"), [("scna", "did you mean scan?"), ("xyz", f"there are {', '.join(TOOLS)}"), ("", "there are")]
)
def test_an_unknown_name_is_one_line(capsys, name, hint):
    assert main([name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"dali-mix: error: no tool {name!r}; {hint}")
    assert len(err.splitlines()) == 1


def test_the_version_is_the_package_s(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dali_mix {__version__}\n"


def test_help_sentences_stand_alone():
    assert [about for _, about in TOOLS.values() if not (about[0].isupper() and about.endswith("."))] == []


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_takes_its_arguments(capsys, name):
    with pytest.raises(SystemExit) as exit_:
        main([name, "--help"])
    assert exit_.value.code == 0
    assert "usage: " in capsys.readouterr().out


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    def interrupted(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("dali_mix.tools.export"), "main", interrupted)
    assert main(["export"]) == 130
    assert capsys.readouterr().err == "dali-mix export: interrupted\n"


def test_only_the_tool_that_is_called_is_imported():
    code = (
        "import sys; from dali_mix.tools.cli import main; main([])\n"
        "sys.exit(sorted(name for name in sys.modules if name.startswith(('dali_mix.train', 'dali_mix.tools.'))))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == "['dali_mix.tools.cli']"


def test_the_command_passes_exit_codes_on(image_folder):
    command = shutil.which("dali-mix", path=str(Path(sys.executable).parent))
    start = [command] if command else [sys.executable, "-m", "dali_mix.tools.cli"]  # not installed
    good = subprocess.run([*start, "scan", image_folder], capture_output=True, text=True)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("train       70 images in 10 classes")
    bad = subprocess.run([*start, "scan", image_folder / "gone"], capture_output=True, text=True)
    assert bad.returncode == 2
    assert bad.stderr.startswith(f"dali-mix scan: error: {image_folder / 'gone'} does not exist; ")
    assert len(bad.stderr.splitlines()) == 1


def subparsers(parser):
    yield parser
    for action in parser._actions:
        for command in (action.choices or {}).values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from subparsers(command)


@pytest.mark.parametrize(
    "module",
    [*(module for module, _ in TOOLS.values()), "dali_mix.native.__main__", "pipelines.imagenet"],
)
def test_every_help_of_every_tool_is_a_sentence(monkeypatch, registry, module):
    """Each parser of a tool, as it is when it parses; the descriptions too."""
    parsers = []
    real = argparse.ArgumentParser.parse_known_args

    def parse(self, *args, **options):
        if not self.add_help:  # one that looks for --import first
            return real(self, *args, **options)
        parsers.extend(subparsers(self))
        raise SystemExit

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
    with pytest.raises(SystemExit):
        importlib.import_module(module).main([])
    assert parsers
    texts = [parser.description for parser in parsers]
    for parser in parsers:
        formatter = parser._get_formatter()
        shown = [action for action in parser._actions if action.dest not in ("help", "name")]
        texts += [formatter._expand_help(action) for action in shown if action.help != argparse.SUPPRESS]
    assert [text for text in texts if not re.fullmatch(r"[A-Z].*\.", text or "")] == []
    assert [text for text in texts if "efault: None" in text or "(default" in text or "``" in text] == []
