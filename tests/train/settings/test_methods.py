"""``--mix`` chooses among all methods, and ``--import`` adds a stranger's, whose options are flags like our own."""

from pathlib import Path

import pytest
import torch
import yaml

from dali_mix import fn as mix
from dali_mix.train.checkpoint.identity import differences
from dali_mix.train.model import create_model
from dali_mix.train.settings import parse_args
from dali_mix.train.settings.choices import choices
from dali_mix.train.settings.sections import plain_settings

EXAMPLES = Path(__file__).parents[3] / "examples"
STEP, GRAPH = EXAMPLES / "step_method.py", EXAMPLES / "graph_method.py"

BROKEN = {
    "raises.py": "import math\nmath.sqrt(-1)",
    "exits.py": "raise SystemExit('two\\nlines')",
    "syntax.py": "def",
    "empty.py": "raise ValueError",
    "name.py": "from dali_mix import branches\nbranches.code_of('nothing of the kind')",
}


def parse(*flags):
    return parse_args(["--data-dir", "x", *map(str, flags)])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("--mix cutmix=0.5 mixup=0.25", {mix.CutMix(): 0.5, mix.Mixup(): 0.25}),
        ("--mix cutmix=0.5 --cutmix-alpha 0.3", {mix.CutMix(alpha=0.3): 0.5}),
        ("--mix cutmix=1 --cutmix-minmax 0.2 0.8", {mix.CutMix(minmax=(0.2, 0.8)): 1.0}),
        ("--mix resizemix=1 --resizemix-smallest 0.2", {mix.ResizeMix(smallest=0.2): 1.0}),
        ("--mix smmix=0.5 resizemix=0.5 --mixup-mode elem", {"smmix": 0.5, mix.ResizeMix(): 0.5}),
        ("--cutmix 0.4", {mix.CutMix(alpha=0.4): 1.0}),
        ("--cutmix-minmax 0.2 0.8 --mixup 0.3", {mix.CutMix(minmax=(0.2, 0.8)): 0.5, mix.Mixup(alpha=0.3): 0.5}),
        ("--smmix --mixup 0.8", {mix.Mixup(alpha=0.8): 0.5, "smmix": 0.5}),
    ],
)
def test_what_is_mixed(flags, expected):
    assert choices(parse(*flags.split())) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--mix cutmx=0.5", "--mix: 'cutmx' is not a method; did you mean cutmix?"),
        (
            "--mix q=0.5",
            "--mix: 'q' is not a method; there are cutmix, mixup, resizemix, smmix; --import FILE adds others",
        ),
        ("--mix cutmix=0.7 smmix=0.5", "--mix: the shares are 1.2 together; they may be 1 at most"),
        ("--mix cutmix=0", "argument --mix: '0' is not a number in (0, 1]"),
        ("--mix cutmix", "argument --mix: 'cutmix' is not NAME=SHARE"),
        ("--mix cutmix=0.1 cutmix=0.2", "argument --mix: cutmix is given twice"),
        ("--mix cutmix=0.5 --mixup 0.8", "--mix and --mixup both choose methods; leave one of them out"),
        (
            "--recipe smmix_deit_small --mix cutmix=0.5",
            "leave one of them out, or add --mixup 0 --no-smmix where a recipe or a file gives them",
        ),
        ("--mix smmix=1 --mixup-mode elem", "--mixup-mode has no effect on smmix, which the training step mixes"),
        ("--mix resizemix=1 --smmix", "--mix and --smmix both choose methods; leave one of them out"),
        ("--cutmix 1 --resizemix-smallest 0.2", "--resizemix-smallest has no effect without --mix resizemix=SHARE"),
        ("--cutmix 1 --cutmix-alpha 0.2", "--cutmix-alpha has no effect beside --cutmix, which gives alpha itself"),
        ("--mix cutmix=1 --smmix-min-side 0.3", "--smmix-min-side has no effect without --smmix"),
        ("--mix cutmix=1 --mixup-prob 0.5", "--mixup-prob has no effect without --mixup or --cutmix"),
        ("--mix smmix=1 --bce-loss", "--bce-loss does not go with --smmix"),
        ("--mix resizemix=1 --resizemix-smallest 0.9", "error: resizemix: smallest must be at most largest"),
    ],
)
def test_what_cannot_be_chosen(registry, capsys, flags, message):
    with pytest.raises(SystemExit) as exit_:
        parse(*flags.split())
    error = capsys.readouterr().err
    assert (exit_.value.code, error.count("\n")) == (2, 1)
    assert message in error


def test_a_strangers_methods_are_chosen_and_written_down(registry, tmp_path, capsys):
    flags = ("--import", GRAPH, STEP, "--mix", "halfmix=0.5", "ict=0.5", "--halfmix-left", 0.2, "--ict-weight", 2)
    settings = parse(*flags)
    (halfmix, half), (ict, _) = choices(settings).items()
    assert (type(halfmix).__name__, halfmix.left, half, ict) == ("HalfMix", 0.2, 0.5, "ict")
    assert settings.options["ict"].weight == 2
    written = tmp_path / "args.yaml"
    written.write_text(yaml.safe_dump(plain_settings(settings)))
    assert plain_settings(parse_args(["--config", str(written)])) == plain_settings(settings)
    with pytest.raises(SystemExit):
        parse_args(["--import", str(GRAPH), "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--halfmix-left F How often it is the left half. Default: 0.5." in shown


def test_methods_and_shares_are_part_of_a_run(registry):
    plain, own = (
        plain_settings(parse(*flags)) for flags in ((), ("--mix", "resizemix=0.5", "--resizemix-largest", 0.7))
    )
    assert differences(plain, own) == ["--mix was {}, is {'resizemix': 0.5}", "--resizemix-largest was 0.8, is 0.7"]
    # A run of before --mix, and one that knew fewer methods.
    older = {name: value for name, value in plain.items() if name != "mix" and not name.startswith("resizemix")}
    assert differences(older, plain) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raises.py", "--import raises.py fails, line 2: ValueError: math domain error (see --help)"),
        ("exits.py", "--import exits.py fails, line 1: SystemExit: two (see --help)"),
        ("syntax.py", "--import syntax.py fails: SyntaxError: "),
        ("name.py", "--import name.py fails, line 2: KeyError: "),
        ("empty.py", "--import empty.py fails, line 1: ValueError (see --help)"),
        ("missing.py", "--import missing.py is not a file; give a Python file that registers what you want to use"),
        ("text.txt", "--import text.txt is not a Python file: its name must end in .py"),
    ],
)
def test_a_file_that_cannot_be_imported_is_one_line(registry, tmp_path, capsys, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    if name != "missing.py":
        Path(name).write_text(BROKEN.get(name, "words"))
    with pytest.raises(SystemExit) as exit_:
        parse("--import", name)
    error = capsys.readouterr().err
    assert (exit_.value.code, error.count("\n")) == (2, 1)
    assert message in error


def test_a_flag_of_a_method_that_is_another_flag_already_is_refused(registry, tmp_path, capsys):
    (tmp_path / "bad.py").write_text(GRAPH.read_text().replace('"halfmix"', '"train"').replace("left", "split"))
    with pytest.raises(SystemExit):
        parse("--import", tmp_path / "bad.py")
    assert (
        "the option split of train would be the flag --train-split, which there is already" in capsys.readouterr().err
    )


STEP_METHOD = """
from dataclasses import dataclass
from dali_mix.methods import StepMethod, register
from dali_mix.options import option, positive

@dataclass(frozen=True)
class Options:
    {option}: {kind} = option({default}, {check}, "100% of {name}.")

@register
class Toy(StepMethod):
    name, Options, short_form = "{name}", Options, "{short}"

    def forward(self, batch, plan): ...
"""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "no", "option": "amp"}, "the method no would have a flag that there is already: argument --no-amp"),
        ({"name": "help", "short": "Help."}, "the method help would have the flag --help, which there is already"),
        ({"name": "version", "short": "V."}, "the method version would have the flag --version, which there is"),
        ({"name": "data", "short": "Data."}, "the method data would have the flag --data, which there is already"),
        ({"name": "local", "option": "rank"}, "would be the flag --local-rank, which there is already"),
        ({"name": "mixup_off", "option": "epoch"}, "would be the flag --mixup-off-epoch, which there is already"),
        ({"name": "cutmix"}, "cutmix is a method of the graph and of the step, and both have options"),
        ({"default": -1}, "line 10: ConfigError: toy: weight must be a number > 0, got -1"),
    ],
)
def test_a_step_method_whose_flags_cannot_be_is_one_line(registry, tmp_path, capsys, changes, message):
    whole = {"name": "toy", "option": "weight", "kind": "float", "default": 1.0, "check": "positive", "short": ""}
    (tmp_path / "toy.py").write_text(STEP_METHOD.format(**whole | changes))
    with pytest.raises(SystemExit) as exit_:
        parse("--import", tmp_path / "toy.py")
    error = capsys.readouterr().err
    assert (exit_.value.code, error.count("\n")) == (2, 1)
    assert message in error


def test_a_percent_sign_in_a_methods_help_is_shown(registry, tmp_path, capsys):
    whole = {"name": "toy", "option": "weight", "kind": "float", "default": 1.0, "check": "positive", "short": ""}
    (tmp_path / "toy.py").write_text(STEP_METHOD.format(**whole))
    with pytest.raises(SystemExit) as exit_:
        parse("--import", tmp_path / "toy.py", "--help")
    assert exit_.value.code == 0
    assert "100% of toy." in capsys.readouterr().out


def test_import_may_be_given_more_than_once(registry):
    settings = parse("--import", GRAPH, "--import", STEP, "--mix", "halfmix=0.5", "ict=0.5")
    assert settings.entry.imports == (GRAPH, STEP)


def test_a_model_of_a_strangers_is_made(registry, tmp_path):
    (tmp_path / "model.py").write_text(
        "import torch\nfrom timm.models import register_model\n\n"
        "@register_model\ndef stranger(pretrained=False, num_classes=1000, **_):\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, num_classes))\n"
    )
    settings = parse("--import", tmp_path / "model.py", "--model", "stranger", "--img-size", 8)
    model, config = create_model(settings.model, 5, torch.device("cpu"))
    assert (model[1].out_features, config["input_size"]) == (5, (3, 8, 8))
