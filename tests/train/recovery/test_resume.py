"""A run that is continued ends as if it had never been stopped, wherever it was stopped."""

import pytest

from dali_mix.train.checkpoint.store import CheckpointStore, Position
from tests.ranks import run_ranks
from tests.train.conftest import FAST
from tests.train.recovery.runs import RICH, assert_same_result, cut_off
from tests.train.test_run import ENTRY

# Of 3 epochs of 7 batches; mixing ends with the second.
POSITIONS = [(0, 0), (0, 1), (0, 7), (1, 0), (1, 4), (1, 7), (2, 0), (2, 3), (2, 7), (3, 0)]


@pytest.mark.parametrize("position", [Position(*numbers) for numbers in POSITIONS], ids=lambda p: f"{p[0]}-{p[1]}")
def test_continuing_gives_the_same_bits(train, whole, tmp_path, position):
    cut_off(whole, tmp_path / "run", position)
    code, _, err = train(*RICH, "--experiment", "run", "--auto-resume")
    assert code == 0, err
    assert f"checkpoint-{position.epoch}-{position.batch} exactly" in err
    assert_same_result(tmp_path / "run", whole)


CNN = "--model test_efficientnet --img-size 32 -b 10 -j 2 --lr 0.01 --warmup-epochs 0 --device cpu".split()


@pytest.mark.parametrize(
    ("defaults", "flags"),
    [
        (FAST, "--amp --amp-dtype float16 --smmix"),  # the loss scaler
        (
            CNN,
            "--model resnet10t --model-ema --grad-accum-steps 3 --drop-block 0.2",
        ),  # BatchNorm, and a last group of one batch
        (FAST, "--opt adafactor --lr-noise 0.2 0.8 --sched-on-updates"),  # a schedule that draws
        (FAST, "--train-img-sizes 24 32 --model-kwargs dynamic_img_size=True patch_size=8 depth=2 num_heads=3"),
        (FAST, "--opt lamb --sched poly --cooldown-epochs 1 --val-interval 2 --model-ema --model-ema-force-cpu"),
    ],
)
def test_whatever_keeps_a_state_is_continued(train, tmp_path, defaults, flags):
    flags = ["--cutmix", 1, "--epochs", 3, "--checkpoint-steps", 1, "--checkpoint-hist", 100, *flags.split()]
    assert train(*flags, "--experiment", "whole", defaults=defaults)[0] == 0
    position = sorted(CheckpointStore(tmp_path / "whole" / "checkpoints").all())
    position = next(position for position in position if position.epoch == 1 and position.batch)
    cut_off(tmp_path / "whole", tmp_path / "run", position)
    code, _, err = train(*flags, "--experiment", "run", "--auto-resume", defaults=defaults)
    assert code == 0, err
    assert_same_result(tmp_path / "run", tmp_path / "whole", average="--model-ema" in flags)


@pytest.mark.distributed
def test_two_ranks_with_batch_norm_continue_exactly(tmp_path, image_folder):
    """Each has statistics of its own until the epoch ends."""
    own = "-b 5 --epochs 2 --cutmix 1 --checkpoint-steps 1 --checkpoint-hist 100 --no-ddp-bb --model-ema".split()
    flags = [*CNN, *own, "--data-dir", image_folder, "--output", tmp_path]
    result = run_ranks(ENTRY, *flags, "--experiment", "whole", ranks=2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    cut_off(tmp_path / "whole", tmp_path / "run", Position(0, 4))
    result = run_ranks(ENTRY, *flags, "--experiment", "run", "--auto-resume", ranks=2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "checkpoint-0-4 exactly" in result.stderr
    assert_same_result(tmp_path / "run", tmp_path / "whole")
