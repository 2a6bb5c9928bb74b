"""Whole runs of the command line on real JPEG files."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from dali_mix.methods import losses
from tests.ranks import run_ranks
from tests.train.conftest import FAST, TINY

COLUMNS = (
    *("epoch", "train_loss", "train_classification", "train_fine_grained", "train_consistency"),
    *("eval_loss", "eval_top1", "eval_top5", "eval_ema_loss", "eval_ema_top1", "eval_ema_top5"),
    *("lr", "img_size", "img_per_s", "data_wait", "seconds"),
)
ENTRY = Path(__file__).parents[2] / "train_imagenet.py"


def summary_of(folder):
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_behind(train, tmp_path):
    code, out, err = train("--smmix", "--mixup", 0.8, "--cutmix", 1, "--experiment", "first", "--epochs", 3)
    assert code == 0, err
    folder = tmp_path / "first"
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        ".started",
        "args.yaml",
        "summary.csv",
        "preview.png",
        "classes.txt",
        "curves.png",
        "model.safetensors",
        "model_best.safetensors",
        "tensorboard",
        "checkpoints",
    }
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept == {"latest", *(f"checkpoint-{epoch}-0" for epoch in range(4))}
    args = yaml.safe_load((folder / "args.yaml").read_text())
    assert (args["smmix"], args["epochs"], args["model_kwargs"]["depth"]) == (True, 3, 2)
    rows = summary_of(folder)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert all(tuple(row) == COLUMNS for row in rows)
    assert float(rows[0]["train_loss"]) > 0
    assert float(rows[1]["lr"]) > float(rows[2]["lr"]) > 0
    for expected in ("top-1", "model.safetensors", "preview.png"):
        assert expected in out


@pytest.mark.parametrize("flags", [(), ("--cutmix", 1), ("--mixup", 0.2), ("--smmix",), ("--amp", "--smmix")])
def test_every_method_trains(train, tmp_path, flags):
    code, _, err = train(*flags, "--experiment", "run", "--epochs", 1)
    assert code == 0, err
    (row,) = summary_of(tmp_path / "run")
    assert (row["train_fine_grained"] != "") == ("--smmix" in flags)
    assert (tmp_path / "run" / "preview.png").exists() == bool(flags)


def test_a_cnn_trains_with_cutmix(train):
    defaults = "--model resnet10t --img-size 32 -b 10 -j 2 --epochs 1 --lr 0.01 --device cpu --cutmix 1".split()
    code, _, err = train(defaults=defaults)
    assert code == 0, err


def test_weights_load_in_plain_timm_and_evaluate_to_the_same(train, tmp_path):
    train("--smmix", "--experiment", "run")
    folder = tmp_path / "run"
    last = summary_of(folder)[-1]
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=10,
        checkpoint_path=str(folder / "model.safetensors"),
    )  # fmt: skip
    assert set(load_file(folder / "model.safetensors")) == set(model.state_dict())
    for name in ("model.safetensors", "checkpoints/checkpoint-2-0"):
        code, out, err = train("--eval-only", "--initial-checkpoint", folder / name)
        assert code == 0, err
        assert f"{float(last['eval_top1']):.2f} %" in out
        assert re.search(r"images +30\n", out)


def test_evaluation_alone_needs_no_training_images(train, tmp_path, image_folder):
    train("--experiment", "run", "--epochs", 1)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "val").symlink_to(image_folder / "val")
    code, out, err = train(
        "--eval-only", "--initial-checkpoint", tmp_path / "run/model.safetensors", data=tmp_path / "only"
    )
    assert code == 0, err
    assert "top-1" in out


def test_the_same_seed_gives_the_same_weights(train, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train("--smmix", "--mixup", 0.8, "--experiment", name, "--seed", seed)
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


def test_an_older_run_of_the_same_name_is_left_alone(train, tmp_path):
    for _ in range(2):
        train("--experiment", "run", "--epochs", 1)
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert (tmp_path / "run-1" / "model.safetensors").exists()


def test_old_checkpoints_make_room(train, tmp_path):
    train("--experiment", "run", "--epochs", 12, "--checkpoint-hist", 2)
    folder = tmp_path / "run"
    kept = {path.name for path in (folder / "checkpoints").iterdir()}
    assert kept == {"latest", "checkpoint-11-0", "checkpoint-12-0"}


def test_the_best_epoch_keeps_its_weights(train, tmp_path):
    for seed in range(8):  # until one in which the last epoch is not the best
        train("--experiment", f"run-{seed}", "--epochs", 4, "--lr", 0.5, "--seed", seed)
        best = max(summary_of(tmp_path / f"run-{seed}"), key=lambda row: float(row["eval_top1"]))
        if best["epoch"] != "3":
            break
    assert best["epoch"] != "3"
    _, out, _ = train("--eval-only", "--initial-checkpoint", tmp_path / f"run-{seed}" / "model_best.safetensors")
    assert f"{float(best['eval_loss']):.3f}" in out


@pytest.fixture
def broken(tmp_path, image_folder):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "noval").mkdir()
    (tmp_path / "noval" / "train").symlink_to(image_folder / "train")
    (tmp_path / "junk.pth.tar").write_bytes(b"junk")
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data-dir", "{broken}/nowhere"], "nowhere does not exist; give a folder with train/ and val/"),
        (["--data-dir", "{broken}/empty"], "empty of class folders; put the images in"),
        (["--data-dir", "{broken}/noval"], "noval/val does not exist"),
        (["--num-classes", "7"], "--num-classes 7 contradicts the 10 class folders"),
        (["--model", "deit_tinny_patch16_224"], "did you mean deit_tiny_patch16_224"),
        (["--model", "resnet18", "--model-kwargs", "--smmix"], "SMMix cannot serve ResNet"),
        (["--img-size", "36"], "the patch size 8 of the model does not divide it; use 32 or 40"),
        (["--img-size", "16", "--smmix"], "has no window of 0.25 of its side"),
        (["--batch-size", "71"], "do not fill one batch"),
        (["--opt", "adamx"], "not an optimizer of timm"),
        (["--opt", "sgd", "--momentum", "-1"], "refuses its settings"),
        (["--opt", "adahessian"], "second derivatives"),
        (["--model-kwargs", "depth"], "take NAME=VALUE pairs"),
        (["--model-kwargs", "in_chans=1"], "three channels"),
        (["--model-kwargs", "num_classes=5"], "use --num-classes"),
        (["--model-kwargs", "nonsense=1"], "refuses its options"),
        (["--initial-checkpoint", "{broken}/junk.pth.tar"], "cannot be read as weights"),
        (["--opt-kwargs", "lr=0.1"], "--opt-kwargs lr has a flag of its own"),
        (["--model-kwargs", "norm_layer=foo"], "refuses its options"),
        (["--model-kwargs", "num_heads=0"], "refuses its options"),
        (["--torchcompile", "--torchcompile-mode", "foo"], "--torchcompile-mode foo is refused"),
        (["--img-size", "36", "--model-kwargs", "patch_size=8", "dynamic_img_pad=True"], "use 32 or 40"),
        (["--output", "/proc/none"], "cannot be written"),
        (["--device", "cuda"], "no CUDA GPU found"),
    ],
)
def test_what_cannot_work_is_said_in_one_line_with_code_2(train, broken, flags, message):
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("needs a machine without a CUDA GPU")
    code, _, err = train(*(flag.format(broken=broken) for flag in flags))
    assert code == 2
    *before, error = err.splitlines()
    assert message in error
    assert all(re.match(r"(training|validation): \d+ images of ", line) for line in before)


def test_a_demo_that_cannot_write_says_so(train):
    code, _, err = train("--demo", "--output", "/proc/none", data=None, defaults=())
    assert code == 2
    assert "--output /proc/none cannot be written" in err
    assert err.count("\n") == 1


def test_overlapping_patches_may_leave_a_rest(train):
    defaults = "--model pvt_v2_b0 --model-kwargs depths=1,1,1,1 --img-size 64 -b 10 --epochs 1 --device cpu".split()
    code, _, err = train("--lr", 0.01, "--warmup-epochs", 0, defaults=defaults)
    assert code == 0, err


def test_a_warm_up_that_never_ends_is_mentioned(train):
    _, _, err = train("--warmup-epochs", 5, "--epochs", 1)
    assert "--warmup-epochs 5 is not shorter than --epochs 1: --lr is never reached" in err


def test_mixed_precision_is_used(train, monkeypatch):
    seen = []

    def spy(logits, targets, original=losses.soft_cross_entropy):
        seen.append(logits.dtype)
        return original(logits, targets)

    monkeypatch.setattr("dali_mix.train.model.soft_cross_entropy", spy)
    train("--epochs", 1)
    train("--epochs", 1, "--amp")
    assert set(seen[:7]) == {torch.float32}
    assert set(seen[7:]) == {torch.bfloat16}


def test_weights_of_another_model_are_refused(train, tmp_path):
    train("--experiment", "run", "--epochs", 1)
    code, _, err = train(
        "--model-kwargs", "patch_size=8", "embed_dim=32", "depth=2", "num_heads=2",
        "--initial-checkpoint", tmp_path / "run" / "model.safetensors",
    )  # fmt: skip
    assert code == 2
    assert "does not fit the model" in err


def test_a_diverging_run_stops_with_code_1(train):
    code, _, err = train("--opt", "sgd", "--lr", 1e30, "--warmup-epochs", 0, "--epochs", 3)
    assert code == 1
    assert "the loss or its gradient was not finite in 10 updates in a row, the last at epoch" in err
    assert "Traceback" not in err


def command(*flags, ranks=1, entry=ENTRY):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return [sys.executable, *launcher, str(entry), *map(str, flags)]


def run_command(*flags, ranks=1, cwd, entry=ENTRY):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*flags, ranks=ranks, entry=entry), cwd=cwd, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.distributed
def test_two_ranks_train_one_model(tmp_path, image_folder, train):
    flags = [*FAST, "--data-dir", image_folder, "--smmix", "--mixup", 0.8, "--experiment", "two"]
    result = run_ranks(ENTRY, *flags, "-b", 5, "--output", tmp_path, ranks=2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("best top-1") == 1
    assert [path.name for path in tmp_path.glob("two*")] == ["two"]
    last = summary_of(tmp_path / "two")[-1]
    # The two ranks' counts together are those of one rank that sees every image.
    _, out, _ = train("--eval-only", "--initial-checkpoint", tmp_path / "two" / "model.safetensors")
    assert f"{float(last['eval_top1']):.2f} %" in out
    assert f"{float(last['eval_loss']):.3f}" in out


@pytest.mark.distributed
def test_two_ranks_evaluate_what_they_save(tmp_path, image_folder, train):
    """BatchNorm statistics are each rank's own until they are averaged."""
    model = "--model resnet10t --img-size 32 --device cpu --crop-pct 1.0 -j 2".split()
    flags = [*model, "-b", 5, "--epochs", 1, "--lr", 0.01, "--warmup-epochs", 0, "--experiment", "two"]
    result = run_ranks(ENTRY, *flags, "--data-dir", image_folder, "--output", tmp_path, ranks=2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (row,) = summary_of(tmp_path / "two")
    _, out, _ = train("--eval-only", "--initial-checkpoint", tmp_path / "two" / "model.safetensors", defaults=model)
    assert f"validation loss  {float(row['eval_loss']):.3f}" in out


@pytest.mark.distributed
def test_an_error_on_two_ranks_is_said_once(tmp_path, image_folder):
    flags = [*TINY, "--data-dir", image_folder, "--num-classes", 7, "--device", "cpu"]
    result = run_ranks(ENTRY, *flags, ranks=2, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count("contradicts the 10 class folders") == 1


def test_the_demo_as_a_user_runs_it(tmp_path):
    """From another folder, and small: one epoch of a narrow model."""
    flags = ["--demo", "--epochs", 1, "--model-kwargs", "patch_size=16", "embed_dim=32", "depth=2", "num_heads=2"]
    result = run_command(*flags, "--device", "cpu", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "output" / "demo"
    assert "preview" in result.stdout
    with Image.open(folder / "preview.png") as preview:
        assert preview.size[1] > 1000  # five rows: CutMix, Mixup, and three of SMMix
    assert len(list((tmp_path / "output" / "demo-data" / "train").glob("*/*.jpg"))) == 3000


def test_ctrl_c_ends_with_one_line(tmp_path, image_folder):
    flags = [*FAST, "--data-dir", image_folder, "--output", tmp_path, "--epochs", 5000]
    # A shell that starts the tests in the background has SIGINT ignored, and children inherit that.
    heed_sigint = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command(*flags), stderr=subprocess.PIPE, text=True, preexec_fn=heed_sigint) as process:
        try:
            while "epoch 1/" not in process.stderr.readline():
                assert process.poll() is None
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "stopped by SIGINT at epoch" in err
