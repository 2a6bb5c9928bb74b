"""Recipes and configuration files meet the checks of the command line."""

from pathlib import Path

import pytest
import yaml

from dali_mix.tools.recipes import recipes_page
from dali_mix.train.settings import build_parser, load_recipe, parse_args, recipe_names
from dali_mix.train.settings.recipes import ABOUT
from dali_mix.train.settings.sections import plain_settings


def parse(tmp_path, text, *flags):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return parse_args(["--config", str(path), *flags])


def test_a_file_sets_what_the_command_line_may_override(tmp_path):
    text = "data-dir: x\nlr: 0.002\nscale: [0.2, 0.9]\nmodel_kwargs: {depth: 2}\nsmmix: true\namp: true\ncrop_pct:\n"
    settings = parse(tmp_path, text, "--lr", "0.5", "--no-amp")
    found = settings.flags()
    expected = {"lr": 0.5, "scale": (0.2, 0.9), "model_kwargs": {"depth": 2}, "smmix": True, "amp": False}
    assert expected.items() <= found.items()
    assert settings.model.crop_pct is None


def test_a_recipe_is_overridden_by_the_file_and_that_by_the_command_line(tmp_path):
    settings = parse(tmp_path, "recipe: smmix_deit_small\nepochs: 20\ndata_dir: x\nmixup: 0.1\n", "--mixup", "0.3")
    expected = {"model": "deit_small_patch16_224", "epochs": 20, "mixup": 0.3, "smmix": True}
    assert expected.items() <= settings.flags().items()
    settings = parse_args("--recipe smmix_deit_small --data-dir x --no-smmix".split())
    assert not settings.short_forms["smmix"].on


def test_a_list_in_a_recipe_does_not_swallow_the_data_folder():
    settings = parse_args(["--recipe", "cutmix_cifar100_pyramidnet200", "folder"])
    assert str(settings.data.data_dir) == "folder"


def test_numbers_of_yaml_are_those_of_the_command_line(tmp_path):
    text = "data_dir: x\nmean: [-1.0e-5, 0.5, 1e-3]\nlr: 1e-3\nwandb_tags: []\nhead_init_bias: -6\n"
    expected = {"mean": (-1e-5, 0.5, 1e-3), "lr": 1e-3, "wandb_tags": (), "head_init_bias": -6.0}
    assert expected.items() <= parse(tmp_path, text).flags().items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wandb_tags: [--x]", "cannot hold '--x', which looks like a flag"),
        ("learning_rate: 1", "learning_rate is not a flag"),
        ("smmx: true", "did you mean smmix?"),
        ("epochs: 3\nlr: 1\nepochs: 4", "epochs is given twice"),
        ("batch-size: 3\nbatch_size: 4", "batch_size is given twice"),
        ('data_dir: x\nexperiment: "a\\0b"', r"--experiment holds a control character: 'a\x00b'"),
        ('data_dir: x\nmodel_kwargs: {depth: "2\\e"}', "--model-kwargs holds a control character"),
        ("[" * 3000, "is not YAML"),
        ("\x00", "is not YAML"),
        ("lr: fast", "'fast' is not a number >= 0"),
        ("sched: cosin", "invalid choice: 'cosin'"),
        ("epochs: 1.5", "'1.5' is not an integer from 1 to 1000000"),
        ("amp: 1", "amp must be true or false, got 1"),
        ("epochs: true", "epochs takes a value, got true"),
        ("epochs: [1, 2]", "epochs takes one value"),
        ("epochs: {a: 1}", "takes a value, not a mapping"),
        ("torchscript: true", "torchscript is not supported: use --torchcompile"),
        ("- a\n- b", "must hold lines of the form"),
        ("a: [", "is not YAML"),
        ("!!python/object/apply:os.system ['touch pwned']", "is not YAML"),
        ("recipe: smmix_deit_smal", "did you mean smmix_deit_small"),
    ],
)
def test_errors_name_the_file_or_flag_in_one_line(tmp_path, capsys, text, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        parse(tmp_path, text)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "pwned").exists()


def test_a_missing_file_is_said(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--config", "nowhere.yaml"])
    assert "--config nowhere.yaml cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["--recipe smmix_pvt_large", "--cutmix-minmax 0.2 0.8 --no-aug", "--recipe demo"])
def test_the_settings_of_a_run_make_the_same_run(tmp_path, flags):
    settings = parse_args(["--data-dir", "x", *flags.split()])
    path = tmp_path / "args.yaml"
    path.write_text(yaml.safe_dump(plain_settings(settings)))
    again = parse_args(["--config", str(path)])
    assert plain_settings(again) == plain_settings(settings)


def test_there_are_the_recipes_that_the_readme_promises():
    expected = "cutmix_cifar100_pyramidnet200 cutmix_resnet101 cutmix_resnet50 deit_small demo smmix_cait_xxs24 "
    expected += "smmix_cait_xxs36 smmix_deit_base smmix_deit_small smmix_deit_tiny smmix_pvt_large smmix_pvt_medium "
    expected += "smmix_pvt_small smmix_pvt_tiny"
    assert recipe_names() == expected.split()


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_where_it_comes_from(name):
    about, flags = load_recipe(name)
    assert tuple(about) == ABOUT
    assert f"--recipe {name}" in about["command"] or name == "demo"
    known = {action.dest for action in build_parser()._actions}
    assert set(flags) <= known
    assert flags["batch_size"] * about["gpus"] == about["batch"]


def test_the_page_of_recipes_is_up_to_date():
    page = Path(__file__).parents[3] / "docs" / "recipes.md"
    assert page.read_text() == recipes_page(), "run python -m dali_mix.tools.recipes > docs/recipes.md"
