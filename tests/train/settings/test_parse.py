import re

import pytest

from dali_mix.terminal import HelpFormatter
from dali_mix.train.settings import build_parser, parse_args
from dali_mix.train.settings.choices import shares


def choices_of(flags):
    return shares(parse_args(["--data-dir", "x", *flags.split()]))


@pytest.mark.parametrize(
    ("flags", "choices"),
    [
        ("", {}),
        ("--cutmix 1", {"cutmix": 1.0}),
        ("--mixup 0.8", {"mixup": 1.0}),
        ("--mixup 0.8 --cutmix 1", {"cutmix": 0.5, "mixup": 0.5}),
        ("--mixup 0.8 --cutmix 1 --mixup-switch-prob 0.9", {"cutmix": 0.9, "mixup": 0.1}),
        ("--mixup 0.8 --cutmix 1 --mixup-prob 0.5", {"cutmix": 0.25, "mixup": 0.25}),
        ("--smmix", {"smmix": 1.0}),
        ("--smmix --mixup 0.8", {"mixup": 0.5, "smmix": 0.5}),
        ("--smmix --mixup 0.8 --cutmix 1 --smmix-prob 0.2", {"cutmix": 0.4, "mixup": 0.4, "smmix": 0.2}),
        ("--smmix --smmix-prob 0.7", {"smmix": 0.7}),
        ("--cutmix-minmax 0.2 0.8", {"cutmix": 1.0}),
    ],
)
def test_choices_per_batch(flags, choices):
    assert choices_of(flags) == pytest.approx(choices)


def test_demo_sets_defaults_that_flags_override():
    args = parse_args(["--demo", "--epochs", "3", "--model-kwargs", "depth=1"])
    assert args.schedule.epochs == 3
    assert args.model.model_kwargs == {"depth": 1}
    assert args.short_forms["smmix"].on
    assert args.model.img_size == 64


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "--data-dir is missing"),
        ("--demo --data-dir x", "leave out --data-dir"),
        ("--data-dir x --eval-only", "needs weights: --initial-checkpoint FILE"),
        ("--data-dir x --smmix-prob 0.5", "no effect without --smmix"),
        ("--data-dir x --smmix --smmix-prob 0", "leave both out"),
        ("--data-dir x --mixup-prob 0.5", "no effect without --mixup or --cutmix"),
        ("--data-dir x --cutmix 1 --mixup-switch-prob 0.7", "unless both"),
        ("--data-dir x --lr 0.1 --lr-base 0.2", "no effect beside --lr"),
        ("--data-dir x --initial-checkpoint nowhere.pt", "is not a file"),
        ("--data-dir x --scale 0.5 0.1", "MIN <= MAX"),
        ("--data-dir x --ratio 0 1", "--ratio"),
        ("--data-dir x -b 0", "'0' is not an integer from 1 to "),
        ("--data-dir x --smoothing 2", r"'2' is not a number in [0, 1]"),
        ("--data-dir x --lr nan", "'nan' is not a number >= 0"),
        ("--data-dir x --img-size 22.4", "'22.4' is not an integer from 1 to 8192"),
        ("--data-dir x --epoch 3", "unrecognized arguments: --epoch; did you mean --epochs?"),
        ("x --data-dir y", "given twice"),
        ("--data-dir x --seed 4294967296", "'4294967296' is not an integer from 0 to 4294967295"),
        ("--data-dir x --seed -1", "'-1' is not an integer from 0 to 4294967295"),
        ("--data-dir x --seed=--", "--seed takes a value, got --"),
        ("--data-dir x -b 1000000000000", "'1000000000000' is not an integer from 1 to 1048576"),
        ("--data-dir x -j 1000000", "is not an integer from 1 to 1024"),
        ("--data-dir x --img-size 1000000", "is not an integer from 1 to 8192"),
        ("--data-dir x --epochs 1000000000000000000", "is not an integer from 1 to 1000000"),
        ("--data-dir x --checkpoint-hist 0", "'0' is not an integer from 1 to "),
        ("--data-dir x --lr 1e400", "'1e400' is not a number >= 0"),
        ("--data-dir x --experiment ../y", "--experiment names a folder below --output"),
        ("--data-dir x --experiment /y", "--experiment names a folder below --output"),
        ("--data-dir x --experiment .", "--experiment names a folder below --output"),
        ("--data-dir x --experiment " + 300 * "y", "--experiment is too long for a path"),
        ("--data-dir x --class-map " + 5000 * "y", "--class-map is too long for a path"),
        ("--data-dir caf\udce9", r"--data-dir caf\xe9 is not UTF-8, and DALI, safetensors"),
        ("--data-dir x --output caf\udce9", r"--output caf\xe9 is not UTF-8"),
        ("--data-dir x --experiment y\x1b[2J", r"--experiment holds a control character: 'y\x1b[2J'"),
        ("--data-dir x --dataset torch/imagenet", "only image folders are: leave the flag out and give --data-dir"),
        ("--data-dir x --opt-kwargs lr", "take NAME=VALUE pairs"),
        ("--data-dir x --lr " + 5000 * "1x", "1x...' is not a number >= 0"),
        ("--data-dir x --kd-model-name y", "--kd-model-name is not supported: this trainer does not distil"),
        ("--data-dir x --aug-splits=3", "--aug-splits is not supported: a batch holds one view"),
        ("--data-dir x --recovery-interval 5", "--recovery-interval is not supported: use --checkpoint-steps"),
        ("--data-dir x --resume-relaxed", "no effect without --resume or --auto-resume"),
        (
            "--data-dir x --auto-resume --bench-steps 3",
            "--auto-resume continues a training; leave it out with --bench-steps",
        ),
        ("--data-dir x --img-size 32 --input-size 3 32 32", "leave one out"),
        ("--data-dir x --in-chans 1", "RGB images"),
        ("--data-dir x --mean 0.5 0.5", "--mean takes one number or three, got 2"),
        ("--data-dir x --std 0", "--std must be positive"),
        ("--data-dir x --amp-dtype float16", "--amp-dtype has no effect without --amp"),
        ("--data-dir x --torchcompile-mode default", "no effect without --torchcompile"),
        ("--data-dir x --clip-mode agc", "no effect without --clip-grad"),
        ("--data-dir x --model-ema-warmup", "no effect without --model-ema"),
        ("--data-dir x --bce-sum", "no effect without --bce-loss"),
        ("--data-dir x --bce-loss --smmix", "--bce-loss does not go with --smmix"),
        ("--data-dir x --cutmix-minmax 0.5 0.2", "MIN <= MAX"),
        ("--data-dir x --mixup-off-epoch 3", "no effect without --mixup, --cutmix or --smmix"),
        ("--data-dir x --smmix --smmix-min-side 0.8", "larger than --smmix-max-side"),
        ("--data-dir x --smmix-loss-weights 1 0 1", "no effect without --smmix"),
        ("--data-dir x --wandb-project y", "no effect without --log-wandb"),
        ("--data-dir x --train-size-probs 1 1", "no effect without --train-img-sizes"),
        ("--data-dir x --train-img-sizes 32 64 --train-size-probs 1", "a weight for each of 2 sizes"),
        ("--data-dir x --class-map nowhere.txt", "--class-map nowhere.txt is not a file"),
        ("--data-dir x --exclude-list nowhere.txt", "--exclude-list nowhere.txt is not a file"),
        ("--data-dir x --eval-only --pretrained --bench-steps 3", "leave out --eval-only"),
        ("--data-dir x --hw-decoder-load 2", "'2' is not a number in [0, 1]"),
        ("--data-dir x --host-memory-padding -1", "'-1' is not an integer from 0 to "),
        ("--data-dir x --preallocate-width-hint 70000", "must be an integer in [0, 65535], got 70000"),
        ("--data-dir x --device cpu --hw-decoder-load 0", "--hw-decoder-load has no effect with --device cpu"),
        (
            "--data-dir x --device cuda --dali-device cpu --device-memory-padding 0",
            "--device-memory-padding has no effect with --dali-device cpu: it is a setting of the decoder on the GPU",
        ),
    ],
)
def test_one_line_and_code_2(capsys, flags, message):
    with pytest.raises(SystemExit) as exit_:
        parse_args(flags.split())
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_every_help_is_a_sentence_that_stands_alone():
    actions = build_parser()._actions
    assert [action.dest for action in actions if not action.help] == []
    formatter = HelpFormatter("x")
    texts = [formatter._expand_help(action) for action in actions if action.dest != "help"]
    assert [text for text in texts if not (re.match("[A-Z]", text) and text.endswith("."))] == []
    assert [text for text in texts if "default: None" in text or "(default" in text] == []
    helps = dict(zip([action.dest for action in actions if action.dest != "help"], texts, strict=True))
    assert helps["batch_size"].endswith(" Default: 128.")
    assert helps["ratio"].endswith(" Default: 0.75 1.333.")
    assert helps["channels_last"].endswith(" Default: on.")
    assert "Default:" not in helps["num_classes"] + helps["amp"]
