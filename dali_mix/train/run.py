"""A whole run: settings, data, model, epochs, results."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from timm.utils import random_seed
from torch import nn

from dali_mix import native
from dali_mix.errors import ConfigError, DataError
from dali_mix.loading.recovery import TolerantLoader
from dali_mix.terminal import forgiving
from dali_mix.text import OneLine, show
from dali_mix.train import model as building
from dali_mix.train.batch_norm import check_batch_norm
from dali_mix.train.checkpoint.identity import identify
from dali_mix.train.checkpoint.resume import ResumePoint, find_resume_point
from dali_mix.train.data import Data, IdleLoader, Loaders, Pipelines, open_data
from dali_mix.train.distributed import World, open_world
from dali_mix.train.evaluate import evaluate
from dali_mix.train.launcher import follow_launcher
from dali_mix.train.loop import TrainingError
from dali_mix.train.operators import agree_on_operators
from dali_mix.train.optimizer import Precision
from dali_mix.train.output import table
from dali_mix.train.output.folder import metric_rows
from dali_mix.train.output.preview import Preview
from dali_mix.train.output.stderr import quiet_decoders
from dali_mix.train.run_folder import Place, unlock_all
from dali_mix.train.settings import parse_args
from dali_mix.train.settings.sections import Precision as PrecisionSettings
from dali_mix.train.settings.sections import Settings
from dali_mix.train.signals import EXIT_INTERRUPTED, Stopped, starting_signals
from dali_mix.train.step import TrainStep
from dali_mix.train.training import TrainingRun

_log = logging.getLogger(__name__)


def main(pipelines: Pipelines, argv: Sequence[str] | None = None, *, prog: str = "train_imagenet.py") -> int:
    """Run the command line.

    Args:
        pipelines: name for ``--pipeline`` to two functions, which make the training and the validation
            pipeline and have parameters named as those of ``pipelines.imagenet``; what a pipeline has no parameter
            for cannot be set.
        argv: the command line, None for this process's own.
        prog: what the user calls the program.

    Returns:
        The exit code: 0 done, 1 training had to stop, 2 settings or data that cannot work, 75 stopped by SIGTERM,
        SIGUSR1 or SIGHUP and 130 by SIGINT, with a checkpoint.
    """
    with forgiving():
        settings = parse_args(argv, prog)
        return _main(settings, pipelines, partial(_complain, prog))


def _main(settings: Settings, pipelines: Pipelines, complain: Callable[[str], None]) -> int:
    try:
        with quiet_decoders(), starting_signals():
            follow_launcher()
            with open_world(settings.device.device, settings.device.deterministic) as world:
                _configure_logging(world)
                _run(settings, world, pipelines)
    except (ConfigError, DataError, TrainingError) as error:
        complain(f"error: {error}")
        return 1 if isinstance(error, TrainingError) else 2
    except Stopped as stopped:
        if _rank() == 0:  # all ranks stop at the same place
            complain(str(stopped))
        return stopped.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        complain(f"error: --deterministic: {str(error).splitlines()[0]}")
        return 2
    return 0


def _run(settings: Settings, world: World, pipelines: Pipelines) -> None:
    random_seed(settings.run.seed, world.rank)
    data = open_data(settings, world)
    step, config = _create_step(settings, data, world)
    loaders = Loaders(settings, data, config, world, pipelines)
    operators = agree_on_operators(settings.reading.native, loaders.backend, world)
    with ExitStack() as stack:
        stack.enter_context(native.using(*operators))
        validation = loaders.validation()
        stack.callback(validation.close)
        if settings.run.eval_only:
            _evaluate_only(settings.precision, step.model, validation, world)
            return
        identity = identify(settings, data, loaders, world)
        stack.callback(unlock_all)
        start = ResumePoint()
        if not settings.run.bench_steps:
            start = find_resume_point(Place.of(settings), settings.recovery, identity, world)
        training = TrainingRun(settings, world, data, step, loaders, validation, start, identity)
        stack.callback(training.close)
        if settings.run.bench_steps:
            training.bench(settings.run.bench_steps)
        else:
            training.train(Preview(data.val.classes, config["mean"], config["std"], settings.mixing.smoothing, step))


def _create_step(settings: Settings, data: Data, world: World) -> tuple[TrainStep, dict[str, Any]]:
    """Model and methods with their first weights, and the model's data config; what cannot work together is refused."""
    section, eval_only = settings.model, settings.run.eval_only
    model, config = building.create_model(
        section,
        data.num_classes,
        world.device,
        batch_norm=settings.batch_norm,
        channels_last=settings.device.channels_last,
        eval_only=eval_only,
    )
    sides = settings.sizes.train_img_sizes or ()
    building.check_sizes(model, section.model, sides)
    if settings.batch_norm.sync_bn:
        model = building.synchronized(model, world)
    if settings.reading.batch_size == 1 and not eval_only:
        check_batch_norm(model, section.model, [*sides, *config["input_size"][1:]])
    sizes_px = [config["input_size"][1:], *((side, side) for side in sides)]
    step = building.create_step(settings, model, data.num_classes, sizes_px)
    mapped = bool(settings.data.class_map)
    building.load_initial(section, step, data.val.classes, eval_only=eval_only, mapped=mapped)
    return step, config


def _evaluate_only(
    section: PrecisionSettings, model: nn.Module, loader: TolerantLoader | IdleLoader, world: World
) -> None:
    precision = Precision(world.device.type, section.amp, section.amp_dtype)
    metrics = evaluate(model, loader, world, precision.autocast)
    if world.is_main:
        print(table([("images", f"{metrics['images']:.0f}"), *metric_rows(metrics)]))


def _complain(prog: str, message: str) -> None:
    """Say why the run ends, once: what stops one rank mostly stops all.

    Rank 0 speaks first; the launcher then stops the others while they wait here.  If rank 0 is well,
    the others do speak.
    """
    if _rank():
        time.sleep(5)
    print(show(f"{prog}: {message}"), file=sys.stderr)


def _rank() -> int:
    """The rank of this process, also where the process group is gone."""
    return int(os.environ.get("RANK", "0"))


def _configure_logging(world: World) -> None:
    """Plain lines from the main rank; only errors from the others."""
    logging.basicConfig(level=logging.WARNING, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(OneLine("%(message)s"))
    logging.getLogger("dali_mix").setLevel(logging.INFO if world.is_main else logging.ERROR)
