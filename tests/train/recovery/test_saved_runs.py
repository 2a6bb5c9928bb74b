"""Runs that earlier versions left in the middle of their second epoch.

saved/before.tar.xz is one of commit 7591ee4, before_portable.tar.xz the same with ``--native off``, and first.tar.xz
one of commit dbbeb26, from before there were native operators.  Each was begun with ``FLAGS`` on the images of
data.tar.xz, stopped by SIGTERM in the third batch of the second epoch, and packed without its pictures and events.
In all of them a reader of DALI's chose the order of the images.
"""

import tarfile
from pathlib import Path

import pytest
import yaml

from tests.implementations import need_native
from tests.train.recovery.runs import change_run, rows_of

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


ORDER = (
    "train_imagenet.py: error: runs/saved/checkpoints/checkpoint-1-3 was made with other settings: order of the images "
    'was "that of DALI\'s reader", is "dali_mix\'s" (the version that saved it still continues it exactly); use the '
    "same, or --resume-relaxed to go on from the beginning of its epoch"
)


def assert_refused_for_its_order_alone(saved, resume, name, flags=(), change=lambda run: None):
    """In one line, whose advice works."""
    run = saved(name)
    change(run)
    code, _, err = resume(*flags)
    assert code == 2, err
    assert [line for line in err.splitlines() if not line.startswith(("training: ", "validation: "))] == [ORDER]
    before = rows_of(run)
    code, _, err = resume(*flags, "--resume-relaxed")
    assert code == 0, err
    assert "epoch 2 begins anew, its 3 batches that are trained already are repeated" in err
    rows = rows_of(run.with_name("saved-1"))
    assert rows[:1] == before
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]


@pytest.mark.parametrize(("name", "flags"), [("before", []), ("before_portable", ["--native", "off"])])
def test_a_run_of_before_is_refused_for_its_order_and_goes_on_from_its_epoch(saved, resume, name, flags):
    if not flags:
        need_native()
    assert_refused_for_its_order_alone(saved, resume, name, flags)


def test_a_run_that_knew_none_of_the_flags_it_was_not_given_differs_in_nothing_else(saved, resume):
    """As if all of them were new: a new flag makes no checkpoint of before refuse."""
    need_native()

    def forget_flags(run):
        gone = []

        def forget(facts):
            settings = facts["fingerprint"]
            gone.extend(settings.keys() - GIVEN - set(NO_SETTINGS))
            for name in gone:
                del settings[name]

        change_run(run / "checkpoints" / "checkpoint-1-3", forget)
        assert len(gone) > 50
        settings = yaml.safe_load((run / "args.yaml").read_text())
        (run / "args.yaml").write_text(yaml.safe_dump({name: settings[name] for name in GIVEN}))

    assert_refused_for_its_order_alone(saved, resume, "before", change=forget_flags)


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
