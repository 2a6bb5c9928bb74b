"""DALI's errors in a line of the project's words."""

from __future__ import annotations

from dali_mix.data._probe_worker import MAX_IMAGE_PIXELS

TOO_LARGE_TOGETHER = "do not fit into memory together"
"""In the message of the native size limit about a batch; none of its images is at fault."""


def cause_of(error: Exception) -> str:
    """What went wrong, from DALI's message: the part between its Python and its C++ traceback."""
    text = str(error)
    _, _, cause = text.partition("encountered:")
    cause, _, _ = (cause or text).partition("C++ context:")
    cause, _, _ = cause.partition("Current pipeline object is no longer valid")
    hint = "; remove or repair the image" if "decode" in cause or "nvImageCodec" in cause else ""
    if "samples must occupy the same size in bytes" in cause:
        return f"an image has more than {MAX_IMAGE_PIXELS} pixels; remove it"
    if "IsDenseTensor" in cause:
        return "the images of a batch differ in size, and the pipeline does not resize them"
    return " ".join(cause.split()) + hint
