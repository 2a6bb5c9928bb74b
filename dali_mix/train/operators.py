"""All ranks draw by the same operators: their random numbers differ between the implementations."""

from __future__ import annotations

import logging

from dali_mix import native
from dali_mix.errors import ConfigError
from dali_mix.train.distributed import World

_log = logging.getLogger(__name__)


def agree_on_operators(mode: str, device: str, world: World) -> tuple[str, str]:
    """Choose the implementation of mixing and augmentation; compiles the native one where that is still to be done.

    Args:
        mode: "on" insists on the native operators, "off" does without, "auto" takes them if every rank can have
            them, unless the environment decides (``DALI_MIX_NATIVE``).
        device: where the images are, "gpu" or "cpu".
        world: this rank; every rank must call.

    Returns:
        "on" or "off", and why: what :func:`dali_mix.native.using` takes.

    Raises:
        ConfigError: for "on", if a rank cannot have them.
    """
    try:
        own = native.current_mode() if mode == "auto" else mode
    except ConfigError as error:
        own, why = "none", str(error)
    else:
        why = "native operators are switched off" if own == "off" else native.why_not(device)
    # Every rank takes part, whatever it was told: the environment that tells them may differ from machine to machine.
    answers = world.broadcast(world.gather((own, why)))
    if illegal := [why for mode, why in answers if mode == "none"]:
        raise ConfigError(illegal[0])
    lacking = [(rank, why) for rank, (_, why) in enumerate(answers) if why]
    if not lacking:
        return "on", ""
    where = f" on rank {lacking[0][0]}" if world.size > 1 else ""
    text = f"the native operators cannot be had{where}: {lacking[0][1]}"
    if any(mode == "on" for mode, _ in answers):
        raise ConfigError(f"--native on: {text}")
    if any(mode != "off" for mode, _ in answers):
        _log.warning("%s; the portable graph stands in for them, which decides some ten times more slowly", text)
    return "off", text
