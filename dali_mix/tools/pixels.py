"""Images that DALI decodes otherwise than PIL, told from their headers; the figures are in docs/hostile_images.md."""

from __future__ import annotations

import os
import re
from typing import Any

from PIL import Image

_TIFF_MODES = {
    "F": "TIFF of floats: decoded all white or all black",
    "LAB": "LAB TIFF: other colors than PIL's",
    "LA": "gray TIFF with alpha: the alpha becomes green",
}
_EXTRA_SAMPLES, _ORIENTATION = 338, 274
_PREMULTIPLIED = 1

_PNM_MAXIMUM = re.compile(rb"P[2356](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)\s")
_BMP_16_BITS = re.compile(rb"BM.{26}\x10\x00", re.DOTALL)
_JP2_YCC = re.compile(rb"colr.{3}\x00\x00\x00\x12", re.DOTALL)
"""Sides and then the maximum of a PNM; a BMP with 16 bits a pixel; the box that names a JPEG 2000's color space."""

_HEAD_BYTES = 4096


def difference_from_pil(image: Image.Image) -> str | None:
    """What is different about an image's pixels when DALI decodes it, compared with PIL's ``convert("RGB")``.

    Args:
        image: opened from a path, not loaded.

    Returns:
        a line without the path, "CAUSE: EFFECT"; None where the pixels are PIL's, but for rounding.
    """
    if image.mode.startswith("I;16"):
        return "16 bit gray: scaled to 8 bits, where PIL clips"
    if image.format in ("JPEG", "MPO") and image.mode == "CMYK" and "adobe" not in image.info:
        return "CMYK JPEG without an Adobe marker: decoded all black"
    if image.format == "TIFF":
        return _TIFF_MODES.get(image.mode) or _tags_that_differ(image)
    return _head_that_differs(str(image.format), _head(image))


def _tags_that_differ(image: Any) -> str | None:
    tags = image.tag_v2
    if image.mode == "RGBA" and _PREMULTIPLIED in tuple(tags.get(_EXTRA_SAMPLES, ())):
        return "TIFF with premultiplied alpha: left multiplied"
    if tags.get(_ORIENTATION, 1) != 1:
        return "TIFF with an orientation: not applied, as PIL does"
    return None


def _head_that_differs(kind: str, head: bytes) -> str | None:
    if kind == "PPM":
        found = _PNM_MAXIMUM.match(head)
        if found and int(found[1]) not in (255, 65535):
            return "PNM whose maximum is not 255 or 65535: not scaled"
    if kind == "BMP" and _BMP_16_BITS.match(head):
        return "BMP of 16 bits a pixel: not scaled to 255"
    if kind == "JPEG2000" and _JP2_YCC.search(head):
        return "JPEG 2000 of YCbCr: other colors than PIL's"
    return None


def _head(image: Image.Image) -> bytes:
    with open(os.fsdecode(getattr(image, "filename", "")), "rb") as file:
        return file.read(_HEAD_BYTES)
