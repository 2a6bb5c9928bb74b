"""Runs that earlier versions left in the middle of their second epoch, and what they came to there.

saved/before.tar.xz is one of commit 7591ee4, before_portable.tar.xz the same with ``--native off``, and first.tar.xz
one of commit dbbeb26, from before there were native operators.  Each was begun with ``FLAGS`` on the images of
data.tar.xz, stopped by SIGTERM in the third batch of the second epoch, and packed without its pictures and events;
expected/summary.csv is what the same commit and the same command made of it in the end.
"""

import tarfile
from pathlib import Path

import pytest
import yaml

from tests.implementations import need_native
from tests.train.recovery.runs import change_facts, rows_of

SAVED = Path(__file__).with_name("saved")
FLAGS = (
    "--model vit_tiny_patch16_224 --img-size 32 --model-kwargs patch_size=8 embed_dim=4 depth=2 num_heads=2 "
    "--batch-size 8 --workers 2 --epochs 3 --opt lookahead_adamw --lr 1e-2 --warmup-epochs 1 --clip-grad 1 --seed 1 "
    "--device cpu --crop-pct 1.0 --aa rand-m5-inc1 --reprob 0.3 --smmix --mixup 0.8 --cutmix 1 --mixup-off-epoch 2 "
    "--drop 0.1 --drop-path 0.1 --model-ema --model-ema-warmup --checkpoint-hist 1 --auto-resume --experiment saved "
    "--output runs --data-dir data"
).split()
GIVEN = {flag.removeprefix("--").replace("-", "_") for flag in FLAGS if flag.startswith("--")}
NO_SETTINGS = ("training images", "training data", "ranks", "DALI backend", "augmentation operators",
               "mixing operators")  # fmt: skip
LOSSES = ("loss", "classification", "fine_grained", "consistency")


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Unpack a run and its images into the working folder."""
    monkeypatch.chdir(tmp_path)

    def unpack(name):
        for archive in ("data", name):
            with tarfile.open(SAVED / f"{archive}.tar.xz") as file:
                file.extractall(tmp_path, filter="data")
        return tmp_path / "runs" / "saved"

    return unpack


@pytest.fixture
def resume(train):
    return lambda *flags: train(*FLAGS, *flags, data=None, defaults=[])


def assert_as_expected(run):
    """Losses but for what processors round otherwise, all else to the digit."""
    expected = figures_of(run.parents[1] / "expected")
    for row in expected:
        row |= {name: pytest.approx(row[name], rel=1e-5, abs=1e-7) for name in row if isinstance(row[name], float)}
    assert figures_of(run) == expected


def figures_of(folder):
    """The rows of a summary, of which losses are numbers, and all else is text."""
    return [
        {name: float(value) if value and name.endswith(LOSSES) else value for name, value in row.items()}
        for row in rows_of(folder)
    ]


@pytest.mark.parametrize(("name", "flags"), [("before", []), ("before_portable", ["--native", "off"])])
def test_a_run_of_before_goes_on_to_what_it_came_to_then(saved, resume, name, flags):
    if not flags:
        need_native()
    run = saved(name)
    code, _, err = resume(*flags)
    assert code == 0, err
    assert "continuing runs/saved/checkpoints/checkpoint-1-3 exactly, at epoch 2, 3 batches" in err
    assert_as_expected(run)


def test_a_run_that_knew_none_of_the_flags_it_was_not_given_goes_on(saved, resume):
    """As if all of them were new: a new flag makes no checkpoint of before refuse."""
    need_native()
    run = saved("before")
    gone = []

    def forget(facts):
        settings = facts["fingerprint"]
        gone.extend(settings.keys() - GIVEN - set(NO_SETTINGS))
        for name in gone:
            del settings[name]

    change_facts(run / "checkpoints" / "checkpoint-1-3", forget)
    assert len(gone) > 50
    settings = yaml.safe_load((run / "args.yaml").read_text())
    (run / "args.yaml").write_text(yaml.safe_dump({name: settings[name] for name in GIVEN}))
    code, _, err = resume()
    assert code == 0, err
    assert "continuing runs/saved/checkpoints/checkpoint-1-3 exactly" in err
    assert_as_expected(run)


@pytest.mark.parametrize("flags", [[], ["--native", "off"]])
def test_a_run_of_other_operators_is_refused_in_one_line_whose_advice_works(saved, resume, flags):
    run = saved("first")
    code, _, err = resume(*flags)
    assert code == 2, err
    (line,) = (line for line in err.splitlines() if not line.startswith(("training: ", "validation: ")))
    assert line.startswith("train_imagenet.py: error: runs/saved/checkpoints/checkpoint-1-3 was made with other ")
    assert "mixing operators was None" in line
    assert line.endswith("or --resume-relaxed to go on from the beginning of its epoch")
    assert len(rows_of(run)) == 1
    code, _, err = resume(*flags, "--resume-relaxed")
    assert code == 0, err
    assert [row["epoch"] for row in rows_of(run.with_name("saved-1"))] == ["0", "1", "2"]
