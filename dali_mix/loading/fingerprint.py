"""Fingerprints: which loader a state belongs to."""

from __future__ import annotations

import logging
from typing import Any

from nvidia.dali.pipeline import Pipeline

from dali_mix.errors import ConfigError
from dali_mix.fn import implementation_of
from dali_mix.fn.implementation import AUGMENTATION, MIXING
from dali_mix.fn.outputs import image_type_of

UNKNOWN = "unknown"
"""Stands for the data of a pipeline of which they cannot be known."""

_log = logging.getLogger(__name__)


def fingerprint_of(pipeline: Pipeline, facts: dict[str, Any], last_batch: str) -> dict[str, Any]:
    """Return what must equal where a state is loaded, or DALI would accept it and diverge; plain types only.

    Args:
        pipeline: built.
        facts: of its stream.
        last_batch: of the loader.
    """
    return {
        **facts,
        "dataset": facts["dataset"] or UNKNOWN,
        "batch_size": int(pipeline.max_batch_size),
        "last_batch": last_batch,
        MIXING: implementation_of(pipeline, MIXING),
        AUGMENTATION: implementation_of(pipeline, AUGMENTATION),
        "images": image_type_of(pipeline),
    }


def check_fingerprint(saved: dict[str, Any], own: dict[str, Any], *, unknown_data: bool = False) -> None:
    """Refuse a state of another loader.

    Args:
        saved: of the state.
        own: of the loader that is to continue it.
        unknown_data: whether to take a state where it cannot be known if it belongs to the same data.

    Raises:
        ConfigError: naming what differs.
    """
    own = dict(own)
    data, here = saved.get("dataset"), own["dataset"]
    if data is None:
        # As versions saved it that knew the data of no other reader than read_images.
        _log.warning("the loader's state does not say which data it belongs to; only their number is compared")
        del own["dataset"]
    elif UNKNOWN in (data, here):
        whose = "the loader's state comes from a pipeline" if data == UNKNOWN else "the loader has a pipeline"
        if not unknown_data:
            raise ConfigError(
                f"{whose} whose data cannot be known, so that nothing tells whether they are the same; if they are, "
                f"load it with load_state_dict(state, unknown_data=True)"
            )
        _log.warning("%s whose data cannot be known; only their number is compared", whose)
        del own["dataset"]
    for part in (AUGMENTATION, MIXING):
        _check_implementation(part, saved, own.pop(part))
    _check_image_type(saved.get("images"), own.pop("images"))
    differing = [f"{key} {saved.get(key)!r} -> {own[key]!r}" for key in own if saved.get(key) != own[key]]
    if differing:
        raise ConfigError(f"the loader's state belongs to other data: {', '.join(differing)}")


def _check_implementation(part: str, saved: dict[str, Any], own: str | None) -> None:
    """Refuse a state whose random numbers for a part of the graph are those of another implementation.

    Args:
        part: :data:`MIXING` or :data:`AUGMENTATION`.
        saved: fingerprint of the state.
        own: of this loader.
    """
    # A graph that was deserialized does not say what it is made of; DALI then compares the operators' names.
    if own is None or saved.get(part, "") in (None, own):
        return
    if part in saved:
        switch = "on" if saved[part] == "native" else "off"
        raise ConfigError(
            f"the loader's state was saved by the {saved[part]} implementation of the {part}, here it is the {own} "
            f"one, and their random numbers differ: set DALI_MIX_NATIVE={switch}, or begin anew"
        )
    # Beside native mixing, what augmented was another than either is now.
    if part == AUGMENTATION and saved.get(MIXING) != "native":
        if own == "portable":
            return  # there was no other
        if MIXING in saved:
            raise ConfigError(
                "the loader's state was saved by another version, which augmented by the portable graph, here it is "
                "the native operators, and their random numbers differ: set DALI_MIX_NATIVE=off, or begin anew"
            )
    raise ConfigError(
        f"the loader's state was saved by another version, whose random numbers for the {part} differ: begin anew, "
        "or continue with the version that saved it"
    )


def _check_image_type(saved: str | None, own: str | None) -> None:
    """Refuse the state of a pipeline whose images were rounded otherwise."""
    if saved is None and own == "float16":
        _log.warning("the loader's state does not say whether its images were float32; from here on they are float16")
    elif None not in (saved, own) and saved != own:
        raise ConfigError(
            f"the loader's state was saved with {saved} images, here they are {own}: make the pipeline with "
            f"half={saved == 'float16'}, or begin anew"
        )
