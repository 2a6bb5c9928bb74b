"""What settings must agree on; one that would do nothing is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dali_mix.errors import ConfigError
from dali_mix.options import Needs
from dali_mix.train.settings.choices import check_mix, how_to_choose, shares, short_forms
from dali_mix.train.settings.methods import step_methods
from dali_mix.train.settings.sections import Settings, all_settings
from dali_mix.train.settings.sections.data import Data
from dali_mix.train.settings.sections.model import Model
from dali_mix.train.settings.sections.run import Recovery, Run
from dali_mix.train.settings.sections.training import Schedule, Sizes
from dali_mix.train.settings.values import check_values


def check(settings: Settings) -> None:
    """Check settings against each other.

    Raises:
        ConfigError: for the first that cannot work or would have no effect.
    """
    check_values(settings)
    _check_data(settings.data, settings.entry.demo)
    _check_decoder(settings)
    _check_needs(settings.flags())
    _check_model(settings.model, settings.run)
    _check_methods(settings)
    _check_schedule(settings.schedule)
    _check_run(settings.run, settings.recovery)
    _check_sizes(settings.sizes, settings.crop.no_aug)


def _check_data(data: Data, demo: bool) -> None:
    if demo and data.data_dir:
        raise ConfigError("--demo makes its own data; leave out --data-dir, or use --recipe demo")
    if not (demo or data.data_dir):
        raise ConfigError("--data-dir is missing: give a folder with train/ and val/, or run --demo to see it work")
    _check_file("--class-map", data.class_map)
    _check_file("--exclude-list", data.exclude_list)


def _check_decoder(settings: Settings) -> None:
    """Where a GPU is only missing, and not refused, the pipelines warn instead, and the same command runs anywhere."""
    model, images = settings.device.device, settings.reading.dali_device
    on_cpu = "--dali-device cpu" if images == "cpu" else "--device cpu" if model == "cpu" else None
    given = settings.decoder.given()
    if given and on_cpu and images != "gpu":
        raise ConfigError(f"{_shown(next(iter(given)))} has no effect with {on_cpu}: it is a setting of the decoder on "
                          "the GPU")  # fmt: skip


def _check_needs(flags: Mapping[str, Any]) -> None:
    """Refuse what was changed and has no effect without another setting."""
    for each in all_settings():
        needs = each.option.needs
        if needs is None or flags[each.flag] == each.default or _any_on(needs, flags):
            continue
        *others, last = [_shown(needed) for needed in needs.names]
        listed = f"{', '.join(others)} or {last}" if others else last
        raise ConfigError(f"{_shown(each.flag)} has no effect without {listed}")


def _any_on(needs: Needs, flags: Mapping[str, Any]) -> bool:
    for needed in (*needs.names, *needs.unsaid):
        name, _, value = needed.partition("=")
        if flags[name] == value if value else flags[name]:
            return True
    return False


def _check_model(model: Model, run: Run) -> None:
    if run.eval_only and not (model.initial_checkpoint or model.pretrained or model.pretrained_path):
        raise ConfigError("--eval-only needs weights: --initial-checkpoint FILE or --pretrained")
    if not (Path(model.initial_checkpoint) / "model.safetensors").is_file():  # of a checkpoint's folder
        _check_file("--initial-checkpoint", model.initial_checkpoint)
    _check_file("--pretrained-path", model.pretrained_path)
    if model.in_chans not in (None, 3) or (model.input_size and model.input_size[0] != 3):
        raise ConfigError("the pipeline makes RGB images: --in-chans and the first of --input-size must be 3")
    if model.input_size and model.img_size:
        raise ConfigError("--img-size and --input-size both give the image size; leave one out")
    for name in ("mean", "std"):
        values = getattr(model, name)
        if values is not None and len(values) != 3:
            raise ConfigError(f"--{name} takes one number or three, got {len(values)}")
    if model.std is not None and min(model.std) <= 0:
        raise ConfigError(f"--std must be positive, got {' '.join(map(str, model.std))}")


def _check_methods(settings: Settings) -> None:
    methods, flags = settings.methods, settings.flags()
    check_mix(methods.mix)
    short = [name for name in short_forms() if flags[name]]
    if methods.mix and short:
        off = " ".join(f"--no-{name}" if flags[name] is True else f"{_shown(name)} 0" for name in short)
        raise ConfigError(
            f"--mix and {_shown(short[0])} both choose methods; leave one of them out, or add {off} where a recipe or "
            f"a file gives them"
        )
    for name, form in settings.short_forms.items():
        if form.on and form.prob == 0:
            raise ConfigError(f"{_shown(name)} has no effect with {_shown(name)}-prob 0; leave both out")
    both = methods.mixup and (methods.cutmix or methods.cutmix_minmax)
    if _is_changed("mixup_switch_prob", methods.mixup_switch_prob) and not both:
        raise ConfigError("--mixup-switch-prob has no effect unless both --mixup and --cutmix are on")
    chosen = shares(settings)
    if sum(chosen.values()) > 1 + 1e-6:
        raise ConfigError(f"the methods' shares are {sum(chosen.values()):g} together; they may be 1 at most")
    if methods.mixup_off_epoch and not chosen:
        *others, last = [_shown(name) for name in short_forms()]
        raise ConfigError(f"--mixup-off-epoch has no effect without {', '.join(others)} or {last}")
    for each in all_settings():
        if each.section == "options" and flags[each.flag] != each.default:
            if each.method not in chosen:
                raise ConfigError(f"{_shown(each.flag)} has no effect without {how_to_choose(each.method)}")
            if each.field.name == "alpha" and not methods.mix:
                raise ConfigError(f"{_shown(each.flag)} has no effect beside --{each.method}, which gives alpha itself")
    served = sorted(step_methods() & chosen.keys())
    if _is_changed("mixup_mode", settings.mixing.mode) and chosen and len(served) == len(chosen):
        raise ConfigError(f"--mixup-mode has no effect on {', '.join(served)}, which the training step mixes")
    if settings.loss.bce_loss and served:
        raise ConfigError(f"--bce-loss does not go with {how_to_choose(served[0])}, whose losses are its own")


def _check_schedule(schedule: Schedule) -> None:
    bases = ("lr_base", "lr_base_size", "lr_base_scale")
    if schedule.lr is not None and any(_is_changed(name, getattr(schedule, name)) for name in bases):
        raise ConfigError("--lr-base, --lr-base-size and --lr-base-scale have no effect beside --lr")


def _check_run(run: Run, recovery: Recovery) -> None:
    if run.eval_only and run.bench_steps:
        raise ConfigError("--bench-steps times training; leave out --eval-only")
    for name in ("resume", "auto_resume"):
        if getattr(recovery, name) and (run.eval_only or run.bench_steps):
            mode = "--eval-only" if run.eval_only else "--bench-steps"
            raise ConfigError(f"{_shown(name)} continues a training; leave it out with {mode}")


def _check_sizes(sizes: Sizes, no_aug: bool) -> None:
    if sizes.train_img_sizes and no_aug:
        raise ConfigError("--train-img-sizes changes the random crop; it does not go with --no-aug")
    probs = sizes.train_size_probs
    if probs is not None and sizes.train_img_sizes:
        number = len(sizes.train_img_sizes)
        if len(probs) != number or sum(probs) == 0:
            raise ConfigError(f"--train-size-probs needs a weight for each of {number} sizes, one of them above 0")


def _is_changed(name: str, value: Any) -> bool:
    return any(each.flag == name and value != each.default for each in all_settings())


def _shown(name: str) -> str:
    """A setting as one writes it: "mixup_mode" as "--mixup-mode", "sched=step" as "--sched step"."""
    name, _, value = name.partition("=")
    return f"--{name.replace('_', '-')}" + (f" {value}" if value else "")


def _check_file(flag: str, path: str | Path | None) -> None:
    if path and not Path(path).is_file():
        raise ConfigError(f"{flag} {path} is not a file")
