import pytest

from dali_mix.train.arguments import build_parser, mixing_choices, parse_args


def choices_of(flags):
    return mixing_choices(parse_args(["--data-dir", "x", *flags.split()]))


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
    ],
)
def test_choices_per_batch(flags, choices):
    assert choices_of(flags) == pytest.approx(choices)


def test_demo_sets_defaults_that_flags_override():
    args = parse_args(["--demo", "--epochs", "3", "--model-kwargs", "depth=1"])
    assert args.epochs == 3
    assert args.model_kwargs == {"depth": 1}
    assert args.smmix
    assert args.img_size == 64


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "--data-dir is missing"),
        ("--demo --data-dir x", "leave out --data-dir"),
        ("--data-dir x --eval-only", "needs --checkpoint"),
        ("--data-dir x --smmix-prob 0.5", "no effect without --smmix"),
        ("--data-dir x --smmix --smmix-prob 0", "leave both out"),
        ("--data-dir x --mixup-prob 0.5", "no effect without --mixup or --cutmix"),
        ("--data-dir x --cutmix 1 --mixup-switch-prob 0.7", "unless both"),
        ("--data-dir x --lr 0.1 --lr-base 0.2", "no effect beside --lr"),
        ("--data-dir x --checkpoint nowhere.pt", "is not a file"),
        ("--data-dir x --scale 0.5 0.1", "MIN <= MAX"),
        ("--data-dir x --ratio 0 1", "--ratio"),
        ("--data-dir x -b 0", "'0' is not an integer >= 1"),
        ("--data-dir x --smoothing 2", r"'2' is not a number in [0, 1]"),
        ("--data-dir x --lr nan", "'nan' is not a number >= 0"),
        ("--data-dir x --img-size 22.4", "'22.4' is not an integer >= 1"),
        ("--data-dir x --epoch 3", "unrecognized arguments"),
    ],
)
def test_one_line_and_code_2(capsys, flags, message):
    with pytest.raises(SystemExit) as exit_:
        parse_args(flags.split())
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_every_flag_has_help():
    assert [action.dest for action in build_parser()._actions if not action.help] == []
