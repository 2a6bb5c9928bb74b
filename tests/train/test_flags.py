"""Every group of flags, used once on a tiny model: each has its effect."""

import csv
import logging
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.loss import BinaryCrossEntropy
from torch import nn

from dali_mix.errors import ConfigError
from dali_mix.train import loop, progress, run, training
from dali_mix.train import model as building
from dali_mix.train.settings import parse_args
from tests.train.conftest import FAST

CNN = "--model resnet10t --img-size 32 -b 10 -j 2 --epochs 1 --lr 0.01 --warmup-epochs 0 --device cpu".split()


def rows_of(folder):
    with (folder / "summary.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def seen(monkeypatch):
    """The trainer of the run, and every learning rate it used."""
    kept = {"rates": []}

    def build(*args, original=training.build_trainer):
        trainer, number = original(*args)
        kept["trainer"], kept["epochs"] = trainer, number
        return trainer, number

    def update(self, refused=None, original=loop.Updater.update):
        kept["rates"].append(self.optimizer.param_groups[0]["lr"])
        return original(self, refused)

    monkeypatch.setattr(training, "build_trainer", build)
    monkeypatch.setattr(loop.Updater, "update", update)
    return kept


@pytest.mark.parametrize(
    "flags",
    [
        "--grad-accum-steps 3 --smmix --mixup 0.8",
        "--clip-grad 1 --clip-mode agc --amp",
        "--layer-decay 0.7 --layer-decay-min-scale 0.1 --smmix",
        "--amp --amp-dtype bfloat16 --fast-norm --grad-checkpointing --smmix",
        "--cutmix-minmax 0.2 0.8 --mixup 0.4 --mixup-mode elem --mixup-prob 0.9",
        "--cutmix 1 --mixup-mode pair",
        "--aa rand-m9-mstd0.5-inc1 --reprob 0.25 --remode const --vflip 0.5 --train-interpolation bilinear",
        "--aa 3a --color-jitter 0.3 --grayscale-prob 0.2 --gaussian-blur-prob 0.2 --color-jitter-prob 0.8",
        "--no-aug --no-channels-last --synchronize-step",
        "--opt lamb --opt-eps 1e-7 --opt-betas 0.8 0.95 --opt-kwargs max_grad_norm=2.0",
        "--sched poly --lr-k-decay 0.9 --lr-noise 0.2 0.8 --warmup-prefix",
        "--smmix --smmix-min-side 0.5 --smmix-max-side 0.5 --smmix-loss-weights 1 0.5 0",
        "--drop 0.1 --drop-path 0.1 --gp avg --head-init-scale 0.1 --head-init-bias -2",
        "--dali-prefetch 3 --dali-device cpu -vb 4 --val-interval 2 --eval-metric loss",
    ],
)
def test_a_group_of_flags_trains(train, flags):
    code, _, err = train(*flags.split(), "--epochs", 2)
    assert code == 0, err


def test_accumulation_makes_fewer_updates_of_the_same_gradient(train, seen, tmp_path):
    """Seven batches by three: two full groups and one of a single batch."""
    train("--grad-accum-steps", 3, "--epochs", 1, "--warmup-epochs", 0)
    assert seen["trainer"].updates == 3
    assert len(seen["rates"]) == 3


def test_accumulated_gradients_are_those_of_the_whole_batch(train, monkeypatch):
    kept = []

    def update(self, refused=None, original=loop.Updater.update):
        kept.append([parameter.grad.clone() for parameter in self.clipped])
        return original(self, refused)

    monkeypatch.setattr(loop.Updater, "update", update)
    common = ["--epochs", 1, "--no-aug", "--bench-steps"]
    assert train(*common, 1, "-b", 10, "--grad-accum-steps", 2)[0] == 0
    of_the_second = len(kept)  # after the warm-up's, of which each run's first are of the same images and weights
    assert train(*common, 1, "-b", 20)[0] == 0
    for accumulated, whole in zip(kept[0], kept[of_the_second], strict=True):
        torch.testing.assert_close(accumulated, whole, rtol=1e-4, atol=1e-6)


def norms_of_updates(train, monkeypatch, *flags):
    """The gradient's norm before and after each clipping, and the number of clipped parameters."""
    norms = []

    def norm(parameters):
        return torch.stack([parameter.grad.norm() for parameter in parameters]).norm()

    def clip(self, original=loop.Updater.clip_gradients, **options):
        before = norm(self.clipped)
        finite = original(self, **options)
        norms.append((before, norm(self.clipped), len(self.clipped)))
        return finite

    monkeypatch.setattr(loop.Updater, "clip_gradients", clip)
    code, _, err = train(*flags, "--epochs", 1, "--smmix")
    assert code == 0, err
    assert len(norms) == 7
    return norms


def test_the_gradient_is_clipped_to_the_norm(train, monkeypatch):
    for before, after, _ in norms_of_updates(train, monkeypatch, "--clip-grad", 0.1):
        assert before > 0.1
        assert after == pytest.approx(0.1, rel=1e-3)


def test_adaptive_clipping_leaves_the_classifiers_alone(train, monkeypatch, seen):
    norms = norms_of_updates(train, monkeypatch, "--clip-grad", 0.01, "--clip-mode", "agc")
    everything = len(list(seen["trainer"].step.parameters()))
    assert {count for *_, count in norms} == {everything - 4}  # the model's and SMMix's, weight and bias each


def test_the_schedule_moves_at_every_update_or_epoch(train, seen):
    train("--epochs", 2, "--cooldown-epochs", 1, "--min-lr", 1e-5)
    assert seen["epochs"] == 3
    assert len(set(seen["rates"][7:14])) == 7
    assert set(seen["rates"][15:]) == {1e-5}
    seen["rates"].clear()
    train("--epochs", 3, "--no-sched-on-updates", "--sched", "multistep", "--decay-milestones", 2, 3,
          "--warmup-epochs", 0)  # fmt: skip
    assert seen["rates"] == pytest.approx([1e-3] * 7 + [1e-4] * 7 + [1e-5] * 7)


def test_layer_decay_reaches_the_groups(train, seen):
    train("--layer-decay", 0.5, "--epochs", 1)
    scales = {group["lr_scale"] for group in seen["trainer"].updater.optimizer.param_groups}
    assert scales == {0.125, 0.25, 0.5, 1.0}


def test_the_moving_average_moves_and_is_evaluated(train, tmp_path):
    code, out, err = train("--model-ema", "--model-ema-decay", 0.5, "--experiment", "run", "--smmix")
    assert code == 0, err
    plain, average = (load_file(tmp_path / "run" / name) for name in ("model.safetensors", "model_ema.safetensors"))
    assert plain.keys() == average.keys()
    assert not torch.equal(plain["head.weight"], average["head.weight"])
    last = rows_of(tmp_path / "run")[-1]
    assert re.search(rf"EMA top-1 +{float(last['eval_ema_top1']):.2f} %", out)
    assert re.search(r"best EMA top-1 .* in epoch [12], model_best.safetensors", out)
    code, out, _ = train("--eval-only", "--initial-checkpoint", tmp_path / "run" / "model_ema.safetensors")
    assert f"{float(last['eval_ema_loss']):.3f}" in out


def test_a_moving_average_of_decay_zero_is_the_model(train, tmp_path):
    train("--model-ema", "--model-ema-decay", 0, "--experiment", "run", "--epochs", 1)
    plain, average = (load_file(tmp_path / "run" / name) for name in ("model.safetensors", "model_ema.safetensors"))
    assert all(torch.equal(plain[name], average[name]) for name in plain)


def test_the_moving_average_on_the_cpu_is_not_evaluated(train, tmp_path):
    code, _, err = train("--model-ema", "--model-ema-force-cpu", "--experiment", "run", "--epochs", 1)
    assert code == 0, err
    assert rows_of(tmp_path / "run")[0]["eval_ema_top1"] == ""


def test_mixing_stops_at_an_epoch(train, monkeypatch):
    branches = []

    def watch(self, batch, plan):
        branches.append(batch.branch)

    monkeypatch.setattr("dali_mix.train.output.preview.Preview.watch", watch)
    code, _, err = train("--cutmix", 1, "--mixup-off-epoch", 1, "--epochs", 3)
    assert code == 0, err
    assert branches == ["cutmix"] * 7 + ["none"] * 14
    assert "epoch 2: mixing is off from here on" in err


def test_columns_never_shift_where_an_epoch_is_not_evaluated(train, tmp_path):
    code, out, err = train("--val-interval", 2, "--epochs", 3, "--experiment", "run")
    assert code == 0, err
    rows = rows_of(tmp_path / "run")
    assert [row["eval_top1"] != "" for row in rows] == [False, True, True]
    assert all(float(row["seconds"]) > 0 and 0 <= float(row["data_wait"]) <= 1 for row in rows)
    assert "best top-1" in out


def test_binary_cross_entropy_is_used(train, seen):
    code, _, err = train("--bce-loss", "--bce-target-thresh", 0.2, "--bce-sum", "--bce-pos-weight", 2, "--cutmix", 1,
                         "--epochs", 1)  # fmt: skip
    assert code == 0, err
    loss = seen["trainer"].step.method_of("cutmix").loss
    assert isinstance(loss, BinaryCrossEntropy)
    assert (loss.target_threshold, loss.sum_classes, loss.smoothing, float(loss.pos_weight)) == (0.2, True, 0.0, 2.0)


def test_batch_norm_is_set(train, seen):
    code, _, err = train("--bn-momentum", 0.3, "--bn-eps", 1e-2, "--sync-bn", "--dist-bn", "", "--cutmix", 1,
                         defaults=CNN)  # fmt: skip
    assert code == 0, err
    norms = [module for module in seen["trainer"].model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.3, 1e-2)}


def test_synchronized_batch_norm_needs_gpus():
    with pytest.raises(ConfigError, match="--sync-bn works on GPUs only"):
        building.synchronized(nn.BatchNorm2d(1), run.World(0, 2, torch.device("cpu")))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo looks at it itself
def test_a_compiled_model_keeps_plain_names(train, tmp_path):
    code, _, err = train("--torchcompile", "aot_eager", "--smmix", "--mixup", 0.8, "--epochs", 1, "--experiment", "run")
    assert code == 0, err
    assert "head.weight" in load_file(tmp_path / "run" / "model.safetensors")
    code, _, err = train("--torchcompile", "nonsense")
    assert code == 2
    assert "--torchcompile nonsense is not a backend" in err


def test_image_sizes_change_during_the_run(train, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "dali_mix.train.output.preview.Preview.watch", lambda self, batch, plan: sizes.append(batch.images.shape[-1])
    )
    flags = "--train-img-sizes 16 24 32 --train-size-schedule progressive --train-size-random-mix 0 --epochs 5"
    dynamic = "--model-kwargs patch_size=8 embed_dim=16 depth=2 num_heads=2 dynamic_img_size=True --cutmix 1"
    code, _, err = train(*flags.split(), *dynamic.split())
    assert code == 0, err
    assert set(sizes[:7]) <= {16, 24}
    assert set(sizes[-7:]) <= {24, 32}
    assert set(sizes) == {16, 24, 32}
    code, _, err = train(*flags.split())
    assert code == 2
    assert "try --model-kwargs dynamic_img_size=True" in err


def test_image_sizes_go_on_where_mixing_stops(train, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "dali_mix.train.output.preview.Preview.watch", lambda self, batch, plan: sizes.append(batch.images.shape[-1])
    )
    flags = "--train-img-sizes 16 32 --train-size-schedule progressive --train-size-random-mix 0 --epochs 4 --cutmix 1"
    dynamic = "--mixup-off-epoch 3 --train-size-schedule-spread 0.05 --model-kwargs patch_size=8 embed_dim=16 depth=2"
    code, _, err = train(*flags.split(), *dynamic.split(), "num_heads=2", "dynamic_img_size=True")
    assert code == 0, err
    assert sizes[-7:] == [32] * 7


def test_lookahead_evaluates_the_slow_weights(train, monkeypatch):
    calls = []
    monkeypatch.setattr("timm.optim.Lookahead.sync_lookahead", lambda self: calls.append("sync"))
    monkeypatch.setattr(
        training, "evaluate", lambda *args, original=training.evaluate: calls.append("evaluate") or original(*args)
    )
    code, _, err = train("--opt", "lookahead_adamw", "--smmix", "--epochs", 2)
    assert code == 0, err
    assert calls == ["sync", "evaluate"] * 2


def test_pretrained_weights_from_a_file_get_a_new_head(train, tmp_path):
    train("--experiment", "run", "--epochs", 1)
    weights = tmp_path / "run" / "model.safetensors"
    code, _, err = train("--pretrained-path", weights, "--experiment", "tuned", "--epochs", 1, "--lr", 0,
                         "--warmup-epochs", 0)  # fmt: skip
    assert code == 0, err
    before, after = load_file(weights), load_file(tmp_path / "tuned" / "model.safetensors")
    assert torch.equal(before["blocks.0.attn.qkv.weight"], after["blocks.0.attn.qkv.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_an_excluded_file_is_left_out(train, tmp_path, image_folder):
    first = next((image_folder / "train").glob("*/*.jpg"))
    (tmp_path / "bad.txt").write_text(f"{first.relative_to(image_folder)}\nval/none.jpg\n")
    code, _, err = train("--exclude-list", tmp_path / "bad.txt", "-b", 70)
    assert code == 2
    assert "69 images in 1 shard(s) do not fill one batch of 70" in err


def test_a_class_map_orders_the_classes(train, tmp_path, image_folder):
    names = sorted(path.name for path in (image_folder / "train").iterdir())
    (tmp_path / "classes.txt").write_text("\n".join(reversed(names)))
    code, _, err = train("--class-map", tmp_path / "classes.txt", "--epochs", 1, "--experiment", "run")
    assert code == 0, err
    assert (tmp_path / "run" / "classes.txt").read_text().split() == names[::-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_settings_of_a_decoder_that_is_not_there_are_a_warning(train):
    code, _, err = train("--dali-device", "gpu", "--hw-decoder-load", 0.5, "--epochs", 1)
    assert code == 0, err
    assert err.count("images are decoded on the CPU, where hw_decoder_load has no effect\n") == 1


def test_the_cifar_pipeline_takes_only_its_own_flags(train, small_images):
    flags = "--pipeline cifar --epochs 1 --cutmix 1 --mixup-prob 0.5 --mixup-mode elem --dali-prefetch 3"
    defaults = [flag for flag in FAST if flag not in ("--crop-pct", "1.0")]
    code, _, err = train(*flags.split(), data=small_images, defaults=defaults)
    assert code == 0, err
    for flag, value in (("--reprob", 0.2), ("--train-interpolation", "bilinear"), ("--crop-pct", 0.9)):
        code, _, err = train(*flags.split(), flag, value, data=small_images, defaults=defaults)
        assert code == 2
        assert f"{flag} has no effect with --pipeline cifar" in err
    mixed = min(small_images.glob("val/*/*.jpg"))
    Image.open(mixed).resize((40, 40)).save(mixed)
    code, _, err = train(*flags.split(), data=small_images, defaults=defaults)
    assert code == 2
    assert "has 40 x 40 pixels, not the 32 x 32 that are wanted" in err
    code, _, err = train("--pipeline", "cifer")
    assert "--pipeline cifer is unknown; there are imagenet, cifar" in err


def test_a_benchmark_says_how_fast_and_writes_nothing(train, tmp_path):
    code, out, err = train("--bench-steps", 3, "--smmix")
    assert code == 0, err
    assert "img/s" in out
    assert "data wait" in out
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_the_same_flags_give_the_same_bits(train, tmp_path):
    flags = "--deterministic --smmix --mixup 0.8 --cutmix 1 --aa rand-m9-mstd0.5-inc1 --reprob 0.3 --model-ema".split()
    for name in ("first", "second"):
        code, _, err = train(*flags, "--experiment", name)
        assert code == 0, err
    for name in ("model.safetensors", "model_ema.safetensors"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    train(*flags, "--seed", 1, "--experiment", "other")
    assert (tmp_path / "first" / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


def test_log_wandb_without_wandb_is_one_line(train, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    code, _, err = train("--log-wandb")
    assert code == 2
    assert "pip install wandb" in err


def test_curves_are_drawn(train, tmp_path):
    train("--experiment", "run", "--cutmix", 1)
    with Image.open(tmp_path / "run" / "curves.png") as curves:
        assert curves.width > 600


def test_the_loss_is_shown_at_log_intervals(train, monkeypatch):
    """It is read when the next update is on its way; at the end of an epoch at once."""
    shown = []
    monkeypatch.setattr(progress.Progress, "show", lambda self, epoch, share, *_, **__: shown.append(round(share * 7)))
    for limit in (0, 10):
        shown.clear()
        train("--log-interval", 3, "--epochs", 1, "--nonfinite-limit", limit)
        assert shown == [1, 4, 7]


def test_augmentation_takes_timms_flags():
    made = parse_args([*FAST, *"--data-dir x --aa 3a --reprob 0.1 --recount 2 --hflip 0.2".split()]).augmentation
    assert (made.aa, made.reprob, made.recount, made.hflip, made.color_jitter) == ("3a", 0.1, 2, 0.2, 0.4)


def test_only_the_main_rank_speaks(caplog):
    run._configure_logging(run.World(1, 2, torch.device("cpu")))
    assert logging.getLogger("dali_mix").level == logging.ERROR
    run._configure_logging(run.World(0, 2, torch.device("cpu")))
    assert logging.getLogger("dali_mix").level == logging.INFO
