"""DALI's errors in a line of the project's words; docs/errors.md has them as a table."""

from __future__ import annotations

import re

from dali_mix.fn.image.limits import MAX_IMAGE_PIXELS
from dali_mix.loading.batch import HOW_TO_PARSE

_SIZES = "the images of a batch differ in size; resize them in the pipeline, before they are mixed"
_NOT_RESIZED = (
    "an image has another size than img_size, and this pipeline does not resize: give files of one size, or "
    "--pipeline imagenet"
)
_FLIP = "pairing='flip' needs full batches; use pairing='permutation', or a reader that drops or pads the last batch"
_TYPE = "images must be uint8 or float32, got {}; mix before crop_mirror_normalize, or cast"
_LAYOUT = 'images must be (H, W, C), got layout "{}"; mix before the layout is changed'
_ONE_NUMBER = "labels must be one class number per sample, got a list of them; one-hot rows go through fn.arg_max first"

_CHECKS = {
    "labels_must_be_integers": f"labels must be integers, got bytes or floats; {HOW_TO_PARSE}",
    "labels_must_be_one_number_each": _ONE_NUMBER,
    "images_must_be_hwc": "images must be (H, W, C); mix before the layout is changed, and give external_source "
    "layout='HWC'",
    "images_must_have_the_image_size": "the images have another size than image_size says; leave it out, or resize the "
    "images to it",
    "images_must_have_img_size": _NOT_RESIZED,
}
"""What functions refuse that stop a graph by an illegal operation, the portable graph's checks above all."""

_LOOKS_AT_HEADER = "operator `nvidia.dali.fn.peek_image_shape`"

_WORDS: tuple[tuple[str, str], ...] = (
    (r"IsDenseTensor", _SIZES),
    (r"the images of a batch must have one size", _SIZES),
    (r"samples must have the same shape\. Got samples of different shapes", _SIZES),
    (r"Can't broadcast shapes", _SIZES),
    (r"number of sample indices \d+ does not match the current batch size", _FLIP),
    (r"Unsupported input type: (\w+) Supported types: uint8, int16", _TYPE),
    (r"Invalid type \(\w+ operand\): (float16)", _TYPE),
    (r'The layout "(\w+)" does not match .*Valid layouts are: HWC FHWC', _LAYOUT),
    (
        r"labels must be integers, got (float\w*|double)",
        "labels must be integers, got {}; fn.cast class numbers, one-hot rows go through fn.arg_max first",
    ),
    (r"^(?:soft_targets: )?((?:labels? |images must be |image_size says |pairing=|mean and std have ).*)", "{}"),
)
"""DALI's words, and those of the native operators, for what only the pipeline's author can mend."""


def cause_of(error: Exception) -> str:
    """Tell what went wrong, from DALI's message: the part between its Python and its C++ traceback."""
    trace, cause = _parts(error)
    if "samples must occupy the same size in bytes" in cause and "in _limit_size\n" in trace:
        return f"an image has more than {MAX_IMAGE_PIXELS} pixels; remove it"
    hint = "; remove or repair the image" if "decode" in cause or "nvImageCodec" in cause else ""
    return cause + hint


def mistake_of(error: Exception) -> str | None:
    """Tell what is wrong with the pipeline, in the project's words; None where it is not an ordinary mistake.

    No other file would mend it.
    """
    trace, cause = _parts(error)
    if _LOOKS_AT_HEADER in trace:
        return None  # a file that cannot be read has no size, be the check what it may
    for name, words in _CHECKS.items():
        if f"in {name}\n" in trace:
            return words
    if "fn/mixing/portable/targets.py" in trace and "in _one_hot\n" in trace and (label := _label_of(cause)):
        return label
    for pattern, words in _WORDS:
        if match := re.search(pattern, cause):
            return words.format(*match.groups())
    return None


def _parts(error: Exception) -> tuple[str, str]:
    """The Python traceback of the operator, and the message."""
    trace, _, cause = str(error).partition("encountered:")
    cause, _, _ = (cause or trace).partition("C++ context:")
    cause, _, _ = cause.partition("Current pipeline object is no longer valid")
    return trace, " ".join(cause.split())


def _label_of(cause: str) -> str | None:
    """What a label is that has left the row of classes."""
    numbers = re.search(r"slice_anchor=\{(-?\d+)\}, slice_shape=\{(\d+)\}", cause)
    if numbers is None:
        return None
    start, classes = map(int, numbers.groups())
    return f"label {classes - 1 - start} lies outside [0, {classes}); num_classes must be the number of classes"
