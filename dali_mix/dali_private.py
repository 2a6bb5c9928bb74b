"""All that is used of DALI's private parts: what to look at first when a new version of DALI breaks something."""

from __future__ import annotations

import ctypes
from typing import Any

from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from nvidia.dali.plugin.base_iterator import _DaliBaseIterator

conditional: Any = fn._conditional  # type: ignore[attr-defined]
"""What DALI's own ``if`` is made of; missing from its type stubs."""


def is_deserialized(pipeline: Pipeline) -> bool:
    """Whether a pipeline was not defined in this process."""
    return bool(pipeline._deserialized)


def keeps_checkpoints(pipeline: Pipeline) -> bool:
    """Whether a pipeline was made with ``enable_checkpointing=True``."""
    return bool(pipeline._enable_checkpointing)


def operator_arguments(pipeline: Pipeline, name: str) -> tuple[str, dict[str, Any]] | None:
    """Find what an operator was made with.

    Args:
        pipeline: built.
        name: of the operator.

    Returns:
        the operator and its arguments; None for a pipeline that was deserialized, of which Python knows nothing.
    """
    for instance in pipeline._ops or ():
        if instance.name == name:
            operator = instance._op
            return type(operator).__name__, dict(operator._init_args)
    return None


def restore(pipeline: Pipeline, checkpoint: bytes) -> None:
    """Set a built pipeline that has not run to where a checkpoint was taken.

    DALI takes a checkpoint only where a pipeline is constructed; these two lines are what its own
    ``deserialize_and_build`` does with a pipeline that exists.
    """
    pipeline._checkpoint = checkpoint
    pipeline._restore_state_from_checkpoint()


def move_to(pipeline: Pipeline, checkpoint: bytes) -> None:
    """Set a pipeline that has run to where a checkpoint of it was taken.

    DALI cannot do this.  What runs is built anew, from the same operators, and what was prepared is thrown away.
    """
    backend: Any = pipeline._pipe
    backend.Shutdown()
    pipeline._pipe = None
    pipeline._built = pipeline._backend_prepared = False
    pipeline._first_iter, pipeline._last_iter, pipeline._batches_to_consume = True, False, 0
    pipeline._checkpoint = checkpoint
    pipeline.build()


def begin_at(pipeline: Pipeline, iteration: int) -> None:
    """Let the Python sources of a built pipeline that has not run begin with a later batch, as a checkpoint would."""
    pipeline._consumer_iter = iteration
    for group in pipeline._input_callbacks or ():
        group.current_iter = iteration


def place_of(pipeline: Pipeline, iterator: _DaliBaseIterator) -> tuple[int, bool]:
    """Read what DALI's checkpoint says of how far the pipeline is."""
    return pipeline._consumer_iter, iterator._ever_consumed


def set_place(pipeline: Pipeline, iterator: _DaliBaseIterator, place: tuple[int, bool]) -> None:
    """Undo that DALI has counted a batch as delivered which failed."""
    pipeline._consumer_iter, iterator._ever_consumed = place


def forget_pipelines() -> None:
    """Keep DALI from shutting this process's pipelines down, at exit or when they are collected."""
    for reference in Pipeline._pipes:
        pipeline = reference()
        if pipeline is not None:
            # With one reference too many it is never destroyed.  In a list it would be, as the interpreter ends.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(pipeline))
    Pipeline._pipes.clear()  # what DALI's own exit handler goes through
